//! Volumes over NFS, from the server of this machine's kernel: `make test-vm` has one, which exports two directories.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use drover_model::{MigrationId, WhenLost};
use drover_sys::cgroup::{Cgroup, Hierarchies};

use super::*;

/// How many threads the server has; with none it is gone (`nfsd(7)`).
const THREADS: &str = "/proc/fs/nfsd/threads";
/// For as long somebody who should not wait may need.
const PATIENCE: Duration = Duration::from_secs(60);

/// Mounts an export, as one node of several does: nothing that one mount remembers is known to another.
fn mount(export: &str, place: &Path) -> Shared {
    let spec = VolumeSpec {
        name: "data".parse().unwrap(),
        driver: Driver::Nfs,
        source: format!("127.0.0.1:{export}"),
        options: ["vers=4.2", "nosharecache"].map(str::to_owned).to_vec(),
        when_lost: WhenLost::Freeze,
        created_at: String::new(),
        owner: None,
    };
    let hierarchies = Hierarchies::detect(Path::new("/"), "/").unwrap();
    let programs = Cgroup::at(&hierarchies, "drover-nfs").unwrap();
    Shared::mount(&spec, place, &programs, None).unwrap()
}

/// What it gives, if it ends within that time.
fn within<T: Send + 'static>(time: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, RecvTimeoutError> {
    let (sender, done) = channel();
    std::thread::spawn(move || sender.send(work()));
    done.recv_timeout(time)
}

#[test]
#[ignore = "needs a kernel with an NFS server: make test-vm"]
fn a_volume_over_nfs_is_recognised_by_another_node_and_let_go_when_its_server_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let [here, there, other] = ["here", "there", "other"].map(|name| root.path().join(name));
    let (volume, migration): (VolumeName, MigrationId) = ("data".parse().unwrap(), "a1".parse().unwrap());
    let mounted = mount("/srv/data", &here);
    assert_eq!(mounted.file_system.to_string(), "127.0.0.1:/srv/data (nfs4)");
    let on_target = mount("/srv/data", &there);
    mount("/srv/other", &other);
    // The target has looked before: it remembers that there is nothing of that name.
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0);

    let token = Token::leave(&here, &volume, &migration, "chance".into()).unwrap();
    recognise(&there, &token.sighting, &migration, true).unwrap();
    let stranger = recognise(&other, &token.sighting, &migration, true).unwrap_err();
    assert!(matches!(stranger, ProofError::Other(_)), "{stranger}");
    drop(token);
    let end = Instant::now() + PATIENCE;
    while fs::read_dir(&here).unwrap().count() > 0 {
        assert!(Instant::now() < end, "the mark stays");
        std::thread::yield_now();
    }
    fs::write(here.join("file"), "written on the source").unwrap();
    assert_eq!(fs::read_to_string(there.join("file")).unwrap(), "written on the source");
    on_target.probe().unwrap();

    fs::write(THREADS, "0").unwrap();
    let answer = within(Duration::from_secs(2), move || on_target.probe());
    assert!(!matches!(answer, Ok(Ok(()))), "nobody is there to answer");
    for place in [&here, &there, &other] {
        let unmounting = place.clone();
        within(PATIENCE, move || Shared::unmount(&unmounting)).expect("it waits for the server").unwrap();
        assert_eq!(mounted_at(place).unwrap(), None);
    }

    fs::write(THREADS, "2").unwrap();
    mount("/srv/data", &here);
    assert_eq!(fs::read_to_string(here.join("file")).unwrap(), "written on the source");
    Shared::unmount(&here).unwrap();
}
