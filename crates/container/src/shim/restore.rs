//! Restoring a container from its images: it ends up as the shim's child, frozen, with CRIU gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use drover_sys::cgroup::{Cgroup, CgroupError};

use super::ShimSpec;
use crate::criu::{CriuError, InheritFd, Options, RequestKind, Worker};
use crate::dump::{LOG_LEVEL, NETWORK, PATIENCE};
use crate::{Layout, Notes};

/// Why a container was not restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error("cannot open {0}")]
    Open(PathBuf, #[source] io::Error),
    #[error("cannot read the notes of the checkpoint")]
    Notes(#[source] io::Error),
    #[error("cannot place the processes in their control group")]
    Cgroup(#[from] CgroupError),
    #[error("cannot restore the processes")]
    Criu(#[from] CriuError),
    #[error("cannot restore the processes: criu names no first process")]
    NoProcess,
}

/// The first number at which the worker finds descriptors.
const FIRST: RawFd = 4;
/// How long the last restored process may take to stand still.
const FREEZE: Duration = Duration::from_secs(5);

/// Restores; `stdio` are the container's ends of its standard streams. Gives the first process, and the master of its
/// terminal if it has one.
pub(super) fn restore(
    spec: &ShimSpec,
    stdio: [Option<OwnedFd>; 3],
    container: &Cgroup,
    shims: &Cgroup,
    lazy_pages: bool,
) -> Result<(u32, Option<OwnedFd>), RestoreError> {
    let layout = &spec.layout;
    let open = |path: PathBuf| File::open(&path).map_err(|error| RestoreError::Open(path, error));
    let notes = Notes::read(&layout.images()).map_err(RestoreError::Notes)?;
    let images = open(layout.images())?;
    let work = open(layout.criu_work())?;
    let mut inherited = vec![(NETWORK.to_owned(), OwnedFd::from(open(layout.netns())?))];
    inherited.extend(notes.stdio.iter().zip(stdio).filter_map(|(name, end)| Some((name.as_ref()?.clone(), end?))));
    let mut inherit_fd: Vec<InheritFd> = Vec::new();
    let mut descriptors = Vec::new();
    for (number, (key, descriptor)) in (FIRST..).zip(inherited) {
        // Standard output and error may be one pipe: CRIU knows it by one name.
        if inherit_fd.iter().all(|known| known.key != key) {
            inherit_fd.push(InheritFd { key, fd: number });
            descriptors.push((descriptor, number));
        }
    }
    let worker = Worker::start_for_restore(descriptors)?;
    let worker_pid = worker.pid();
    // The processes are born where CRIU is.
    container.join(worker_pid)?;

    let mut master = None;
    let mut placed = Ok(());
    let pid = worker.request(
        RequestKind::Restore,
        Options {
            lazy_pages: lazy_pages.then_some(true),
            ..options(layout, spec.terminal, &notes, inherit_fd, &images, &work)
        },
        &layout.criu_work(),
        PATIENCE,
        |notification| {
            match notification.step.as_str() {
                "orphan-pts-master" => master = notification.descriptor,
                // Every process stands in a ptrace stop now. Frozen before CRIU lets go, none takes a step until Commit.
                "pre-resume" => placed = leave_frozen(container, shims, worker_pid),
                _ => {}
            }
            placed.is_ok()
        },
    )?;
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

fn options(
    layout: &Layout,
    terminal: bool,
    notes: &Notes,
    inherit_fd: Vec<InheritFd>,
    images: &File,
    work: &File,
) -> Options {
    let external = |mount: &crate::External| format!("mnt[{}]:{}", mount.mountpoint, mount.path(layout).display());
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
        external: notes.externals.iter().map(external).collect(),
        orphan_pts_master: terminal.then_some(true),
        network_lock: Some(3),
        skip_file_rwx_check: Some(true),
        ..Options::default()
    }
}
