//! Work inside another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

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
