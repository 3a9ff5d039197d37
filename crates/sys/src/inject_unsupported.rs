//! Having a running process make system calls for us, and stopping it: on this architecture nobody has written down how.

use std::io;
use std::os::fd::OwnedFd;

/// Has process `pid` make a descriptor by a system call, takes it, and closes it there.
///
/// # Errors
/// Always: the registers of this architecture are not known here.
pub fn make_descriptor(_pid: u32, _number: i64, _arguments: [u64; 3]) -> io::Result<OwnedFd> {
    unsupported()
}

/// Does `work` while all threads of process `pid` stand still.
///
/// # Errors
/// Always, as above.
pub fn while_stopped<T: Send>(_pid: u32, _work: impl FnOnce() -> T + Send) -> io::Result<T> {
    unsupported()
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "processes of this architecture cannot be made to make system calls",
    ))
}
