//! Overlay and tmpfs mounts, on directories of each test's own. Needs root; passes vacuously without it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use drover_disk::layer::{apply, pack};
use drover_disk::{Above, Overlay, is_mounted, mount_tmpfs, unmount};
use drover_model::Bytes;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn directories(top: &Path) -> [std::path::PathBuf; 4] {
    ["lower", "upper", "work", "target"].map(|name| {
        let path = top.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    })
}

fn over<'a>(lower: &'a std::path::PathBuf, upper: &'a Path, work: &'a Path) -> Overlay<'a> {
    Overlay { lower: std::slice::from_ref(lower), above: Some(Above { upper, work }) }
}

#[test]
fn an_upper_layer_that_crossed_shows_the_same_root_over_an_equal_lower_layer() {
    if !is_root() {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let [lower, upper, work, target] = directories(&top.path().join("source: a,b\\c"));
    std::fs::create_dir(lower.join("etc")).unwrap();
    std::fs::write(lower.join("etc/old"), "old").unwrap();
    std::fs::write(lower.join("kept"), "kept").unwrap();
    let start = Instant::now();
    over(&lower, &upper, &work).mount(&target).unwrap();
    println!("overlay mounted in {:?}", start.elapsed());
    assert!(is_mounted(&target).unwrap() && !is_mounted(&lower).unwrap());
    std::fs::remove_dir_all(target.join("etc")).unwrap();
    std::fs::create_dir(target.join("etc")).unwrap();
    std::fs::write(target.join("etc/new"), "new").unwrap();
    std::fs::remove_file(target.join("kept")).unwrap();
    unmount(&target, false).unwrap();
    unmount(&target, false).unwrap();
    assert!(upper.join("kept").symlink_metadata().unwrap().file_type().is_char_device());

    let mut stream = Vec::new();
    pack(&upper, &mut stream).unwrap();
    let [_, arrived, work, target] = directories(&top.path().join("target"));
    apply(&arrived, &mut stream.as_slice()).unwrap();
    over(&lower, &arrived, &work).mount(&target).unwrap();
    let names = |path: &Path| -> Vec<_> { std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect() };
    assert_eq!((names(&target), names(&target.join("etc"))), (vec!["etc".into()], vec!["new".into()]));
    let open = std::fs::File::open(target.join("etc/new")).unwrap();
    assert!(unmount(&target, false).is_err(), "in use");
    unmount(&target, true).unwrap();
    assert!(!is_mounted(&target).unwrap() && !is_mounted(&top.path().join("none")).unwrap());
    drop(open);
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    if !is_root() {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    mount_tmpfs(top.path(), Bytes(1 << 20), 0o1777).unwrap();
    assert!(is_mounted(top.path()).unwrap());
    assert_eq!(top.path().metadata().unwrap().mode() & 0o7777, 0o1777);
    assert!(std::fs::write(top.path().join("large"), vec![1; 2 << 20]).is_err());
    unmount(top.path(), false).unwrap();
    assert!(!is_mounted(top.path()).unwrap());
}
