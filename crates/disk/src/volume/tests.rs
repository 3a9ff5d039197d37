//! Volumes on directories of each test's own.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn open(root: &Path) -> VolumeStore {
    VolumeStore::open(root).unwrap().0
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

fn container(text: &str) -> ContainerId {
    text.parse().unwrap()
}

fn claim(store: &VolumeStore, of: &str, names: &[&str], claim: Claim) -> Result<Vec<VolumeName>, VolumeError> {
    let names: Vec<VolumeName> = names.iter().map(|text| name(text)).collect();
    store.claim(&container(of), &names, claim, None, NOW)
}

#[test]
fn a_local_volume_belongs_to_one_container_and_outlives_it() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    assert_eq!(claim(&store, "aa", &["data"], Claim::Starts).unwrap(), [name("data")]);
    std::fs::write(store.data(&name("data")).join("file"), "kept").unwrap();
    assert_eq!(claim(&store, "aa", &["data"], Claim::Starts).unwrap(), []);
    assert!(matches!(claim(&store, "bb", &["other", "data"], Claim::Starts), Err(VolumeError::Taken(_))));
    assert!(store.find(&name("other")).is_err(), "a refused claim leaves nothing");
    assert!(matches!(store.remove(&name("data")), Err(VolumeError::Taken(_))));
    store.release(&container("aa")).unwrap();
    let store = open(root.path());
    claim(&store, "bb", &["data"], Claim::Starts).unwrap();
    assert_eq!(std::fs::read_to_string(store.data(&name("data")).join("file")).unwrap(), "kept");
    store.release(&container("bb")).unwrap();
    store.remove(&name("data")).unwrap();
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn whoever_arrives_takes_no_volume_of_somebody_else() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    claim(&store, "aa", &["data"], Claim::Starts).unwrap();
    assert!(matches!(claim(&store, "bb", &["data"], Claim::Arrives), Err(VolumeError::Taken(_))));
    store.release(&container("aa")).unwrap();
    assert!(matches!(claim(&store, "bb", &["data"], Claim::Arrives), Err(VolumeError::Exists(_))));
    claim(&store, "cc", &["own"], Claim::Arrives).unwrap();
    std::fs::write(store.data(&name("own")).join("old"), "").unwrap();
    claim(&store, "cc", &["own"], Claim::Arrives).unwrap();
    assert_eq!(std::fs::read_dir(store.data(&name("own"))).unwrap().count(), 0, "it brings its own");
    store.remove_of(&container("cc")).unwrap();
    store.remove_of(&container("cc")).unwrap();
    assert!(store.find(&name("own")).is_err());
    assert!(store.find(&name("data")).is_ok());
}

#[test]
fn a_new_volume_takes_what_the_image_has_and_a_used_one_does_not() {
    let (root, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let there = image.path().join("srv/data");
    std::fs::create_dir_all(there.join("inner")).unwrap();
    std::fs::write(there.join("inner/file"), "from the image").unwrap();
    std::fs::set_permissions(&there, std::fs::Permissions::from_mode(0o2750)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(there.join("inner/file"), Some(33), Some(44)).unwrap();
    }
    // Absolute, as inside of a container; outside it would lead elsewhere.
    symlink("/srv/data", image.path().join("link")).unwrap();
    let store = open(root.path());
    claim(&store, "aa", &["data", "late"], Claim::Starts).unwrap();
    store.fill(&name("data"), image.path(), &"/link".parse().unwrap()).unwrap();
    store.fill(&name("late"), image.path(), &"/nowhere".parse().unwrap()).unwrap();
    let data = store.data(&name("data"));
    assert_eq!(std::fs::read_to_string(data.join("inner/file")).unwrap(), "from the image");
    assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o7777, 0o2750);
    let (file, expected) = (data.join("inner/file"), there.join("inner/file"));
    let owner = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.uid(), metadata.gid())).unwrap();
    assert_eq!(owner(&file), owner(&expected));
    std::fs::remove_file(&file).unwrap();
    store.fill(&name("data"), image.path(), &"/srv/data".parse().unwrap()).unwrap();
    store.fill(&name("late"), image.path(), &"/srv/data".parse().unwrap()).unwrap();
    assert!(!file.exists(), "what was removed does not come back");
    assert_eq!(std::fs::read_dir(store.data(&name("late"))).unwrap().count(), 0);
}

#[test]
fn what_was_half_made_is_swept_and_what_cannot_be_read_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    for directory in [".new-a/data", ".removed-b/data", "odd/data"] {
        std::fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    std::fs::write(root.path().join("odd/volume.json"), "{").unwrap();
    let (store, unread) = VolumeStore::open(root.path()).unwrap();
    assert_eq!(unread, [root.path().join("odd")]);
    assert_eq!(store.all(), []);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
}
