//! Children that go on with the memory of their parent, without another program.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;

/// A forked child. It is waited for at the latest when this is dropped.
#[derive(Debug)]
pub struct Forked {
    pid: libc::pid_t,
}

/// Runs `work` in a child that has a copy of this process's memory, and ends it with the status that `work` returns.
///
/// The child has only the calling thread. Locks that other threads held at that time stay held in it for ever, those of
/// the standard library among them: `work` must not allocate, print, panic or wait for a lock.
///
/// # Errors
/// When there can be no further process.
pub fn fork(work: impl FnOnce() -> u8) -> io::Result<Forked> {
    // SAFETY: the child does nothing but `work`, which keeps to what is said above, and then ends.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Whoever unwinds must not go on with the parent's program.
            let status = catch_unwind(AssertUnwindSafe(work)).unwrap_or(u8::MAX);
            // SAFETY: the call takes a number and does not return.
            unsafe { libc::_exit(status.into()) }
        }
        pid => Ok(Forked { pid }),
    }
}

impl Forked {
    /// Waits for its end.
    ///
    /// # Errors
    /// When somebody else has waited for it.
    pub fn wait(self) -> io::Result<ExitStatus> {
        let status = wait(self.pid);
        std::mem::forget(self);
        status
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        let _ = wait(self.pid);
    }
}

fn wait(pid: libc::pid_t) -> io::Result<ExitStatus> {
    let mut status = 0;
    // SAFETY: the status is alive.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(ExitStatus::from_raw(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Sharing, Words};

    #[test]
    fn a_forked_child_has_what_its_parent_had_and_shares_what_is_shared() {
        let mut private = Words::anonymous(1, Sharing::Private).unwrap();
        let mut shared = Words::anonymous(1, Sharing::Shared).unwrap();
        private.write(0, 1);
        let child = fork(|| {
            shared.write(0, private.read(0) + 1);
            private.write(0, 5);
            7
        });
        let status = child.unwrap().wait().unwrap();
        assert_eq!((status.code(), private.read(0), shared.read(0)), (Some(7), 1, 2));
    }
}
