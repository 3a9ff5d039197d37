//! Turns at a socket that forked processes share.

use core::ffi::c_int;

use super::call::{call, error};

#[cfg(target_arch = "x86_64")]
const FCNTL: i64 = 72;
#[cfg(target_arch = "aarch64")]
const FCNTL: i64 = 25;

/// `F_SETLKW`, `F_WRLCK`, `F_UNLCK` (`fcntl(2)`), `EINTR`.
const SET_AND_WAIT: u64 = 7;
const WRITE: i16 = 1;
const UNLOCK: i16 = 2;
const INTERRUPTED: c_int = 4;

/// `struct flock`: all of the file when nothing else is said.
#[repr(C)]
struct Lock {
    kind: i16,
    from: i16,
    start: i64,
    length: i64,
    pid: i32,
}

/// The turn of this process, until it is dropped or the process ends.
pub struct Turn(c_int);

impl Turn {
    /// Waits for the turn at a socket; `None` where the kernel gives none.
    pub fn take(socket: c_int) -> Option<Self> {
        loop {
            match lock(socket, WRITE) {
                0 => return Some(Self(socket)),
                _ if error() == INTERRUPTED => {}
                _ => return None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(self.0, UNLOCK);
    }
}

fn lock(socket: c_int, kind: i16) -> i64 {
    let lock = Lock { kind, from: 0, start: 0, length: 0, pid: 0 };
    // SAFETY: the lock is alive, and the call only reads it.
    unsafe { call(FCNTL, [socket as u64, SET_AND_WAIT, &raw const lock as u64, 0, 0, 0]) }
}
