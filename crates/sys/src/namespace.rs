//! Network namespaces: making, pinning to a path, working inside, and letting go.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Makes a network namespace and pins it by a bind mount on a new file at `path`: it lives on without a process in it.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when there is a file at `path`; otherwise when the process may not do it. What was
/// made until then is removed again.
pub fn create_network(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    let pinned = std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("new-network".into()).spawn_scoped(scope, || {
            // SAFETY: without UnshareFlags::FILES no descriptor table is unshared, which is the one danger.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            mount_bind("/proc/thread-self/ns/net", path)
        })?;
        match worker.join() {
            Ok(result) => result.map_err(io::Error::from),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    if pinned.is_err() {
        // The error that matters is the first one.
        let _ = std::fs::remove_file(path);
    }
    pinned
}

/// Lets go of the network namespace that is pinned at `path` and removes the file; nothing there is no error.
///
/// The namespace itself ends when no process and no socket is left in it.
///
/// # Errors
/// When the file cannot be unmounted or removed.
pub fn remove_network(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // INVAL: a file without a mount on it, left over from a creation that was cut short.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` on a thread of its own inside the network namespace that `path` names, and gives its result.
///
/// A socket belongs to the namespace it was made in, so one made here keeps working on any thread afterwards.
/// The thread ends with the work: no other code can find itself in the wrong namespace.
///
/// # Errors
/// When `path` cannot be opened or is no network namespace, or a thread cannot be started.
pub fn in_network<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("in-network".into()).spawn_scoped(scope, || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?;
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
