//! Restoring a container from its images: it ends up as the shim's child, frozen, with CRIU gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drover_sys::cgroup::{Cgroup, CgroupError};

use super::ShimSpec;
use crate::criu::{CriuError, InheritFd, Options, RequestKind, Worker};
use crate::dump::{LOG_LEVEL, NETWORK, PATIENCE};
use crate::{External, Layout, Notes};

/// Why a container was not restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error("cannot open {0}")]
    Open(PathBuf, #[source] io::Error),
    #[error("cannot read the notes of the checkpoint")]
    Notes(#[source] io::Error),
    #[error("cannot find what is mounted at {0} in the container")]
    External(String, #[source] io::Error),
    #[error("cannot place the processes in their control group")]
    Cgroup(#[from] CgroupError),
    #[error("cannot restore the processes")]
    Criu(#[from] CriuError),
    #[error("cannot restore the processes: criu names no first process")]
    NoProcess,
}

/// The numbers at which the worker finds the network namespace and, behind it, the standard streams.
const NETNS: RawFd = 4;
const STREAMS: RawFd = 5;
/// How long the last restored process may take to stand still.
const FREEZE: Duration = Duration::from_secs(5);
/// How often moves between control groups are kept quick.
const STIR: Duration = Duration::from_millis(2);

/// A CRIU that waits, in the container's group, for something to restore: all that takes time and can be done before the
/// container is frozen.
#[derive(Debug)]
pub(super) struct Armed {
    worker: Worker,
    /// Which of the container's ends of its standard streams it has.
    streams: [bool; 3],
}

/// Starts a CRIU that will restore; `stdio` are the container's ends of its standard streams.
pub(super) fn arm(spec: &ShimSpec, stdio: [Option<OwnedFd>; 3], container: &Cgroup) -> Result<Armed, RestoreError> {
    let path = spec.layout.netns();
    let netns = File::open(&path).map_err(|error| RestoreError::Open(path, error))?;
    let streams = [0, 1, 2].map(|index: usize| stdio[index].is_some());
    let mut descriptors = vec![(OwnedFd::from(netns), NETNS)];
    descriptors.extend((STREAMS..).zip(stdio).filter_map(|(number, end)| Some((end?, number))));
    let worker = Worker::start_for_restore(descriptors)?;
    // The processes are born where CRIU is.
    container.join(worker.pid())?;
    Ok(Armed { worker, streams })
}

/// Restores. Gives the first process, and the master of its terminal if it has one.
pub(super) fn restore(
    spec: &ShimSpec,
    armed: Armed,
    container: &Cgroup,
    shims: &Cgroup,
    lazy_pages: bool,
) -> Result<(u32, Option<OwnedFd>), RestoreError> {
    let layout = &spec.layout;
    let open = |path: PathBuf| File::open(&path).map_err(|error| RestoreError::Open(path, error));
    let notes = Notes::read(&layout.images()).map_err(RestoreError::Notes)?;
    let images = open(layout.images())?;
    let work = open(layout.criu_work())?;
    let Armed { worker, streams } = armed;
    let mut inherit_fd = vec![InheritFd { key: NETWORK.to_owned(), fd: NETNS }];
    for (number, name) in
        (STREAMS..).zip(notes.stdio.iter().zip(streams).map(|(name, there)| name.as_ref().filter(|_| there)))
    {
        // Standard output and error may be one pipe: CRIU knows it by one name.
        if let Some(key) = name.filter(|name| inherit_fd.iter().all(|known| known.key != **name)) {
            inherit_fd.push(InheritFd { key: key.clone(), fd: number });
        }
    }
    let worker_pid = worker.pid();
    let external = externals(layout, &notes)?;

    let mut master = None;
    let mut placed = Ok(());
    let over = AtomicBool::new(false);
    let pid = std::thread::scope(|scope| {
        scope.spawn(|| {
            // CRIU leaves the group in the end, and nobody shall wait for that.
            while !over.load(Ordering::Relaxed) && shims.stir().is_ok() {
                std::thread::sleep(STIR);
            }
        });
        let restored = worker.request(
            RequestKind::Restore,
            Options {
                lazy_pages: lazy_pages.then_some(true),
                external,
                ..options(layout, spec.terminal, inherit_fd, &images, &work)
            },
            &layout.criu_work(),
            PATIENCE,
            |notification| {
                match notification.step.as_str() {
                    "orphan-pts-master" => master = notification.descriptor,
                    // Every process stands in a ptrace stop now. Frozen before CRIU lets go, none takes a step until
                    // Commit.
                    "pre-resume" => placed = leave_frozen(container, shims, worker_pid),
                    _ => {}
                }
                placed.is_ok()
            },
        );
        over.store(true, Ordering::Relaxed);
        restored
    })?;
    placed?;
    container.freeze(FREEZE)?;
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).ok_or(RestoreError::NoProcess)?;
    Ok((pid, master))
}

/// Takes CRIU itself out of the group and orders the group to freeze.
fn leave_frozen(container: &Cgroup, shims: &Cgroup, worker: u32) -> Result<(), CgroupError> {
    shims.join(worker)?;
    match container.freeze(Duration::ZERO) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        other => other,
    }
}

/// The mounts from outside, as CRIU wants them.
fn externals(layout: &Layout, notes: &Notes) -> Result<Vec<String>, RestoreError> {
    let external = |mount: &External| match mount.locate(layout) {
        Ok(path) => Ok(format!("mnt[{}]:{}", mount.mountpoint, path.display())),
        Err(error) => Err(RestoreError::External(mount.mountpoint.clone(), error)),
    };
    notes.externals.iter().map(external).collect()
}

fn options(layout: &Layout, terminal: bool, inherit_fd: Vec<InheritFd>, images: &File, work: &File) -> Options {
    Options {
        images_dir_fd: images.as_raw_fd(),
        work_dir_fd: Some(work.as_raw_fd()),
        tcp_established: Some(true),
        file_locks: Some(true),
        log_level: Some(LOG_LEVEL),
        log_file: Some("restore.log".to_owned()),
        notify_scripts: Some(true),
        root: layout.rootfs().to_str().map(str::to_owned),
        restore_as_sibling: Some(true),
        inherit_fd,
        manage_cgroups_mode: Some(0),
        orphan_pts_master: terminal.then_some(true),
        network_lock: Some(3),
        skip_file_rwx_check: Some(true),
        ..Options::default()
    }
}
