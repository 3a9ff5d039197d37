//! Connections that whoever repaired them has left behind.
//!
//! CRIU takes a connection apart in the repair mode of the kernel (`TCP_REPAIR`, `tcp(7)`), in which it neither sends nor
//! answers, and ends that mode when it is done. When CRIU is killed it stays.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Ends the repair mode of every TCP connection of process `pid`; how many were in it. A process that has ended has none.
///
/// # Errors
/// When the process's descriptors cannot be looked at.
pub fn end_repair(pid: u32) -> io::Result<usize> {
    let path = format!("/proc/{pid}/fd");
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut ended = 0;
    for entry in entries {
        let path = entry?.path();
        // One that has been closed meanwhile needs nothing.
        let Ok(what) = std::fs::read_link(&path) else { continue };
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<RawFd>().ok());
        let Some(number) = number.filter(|_| what.as_os_str().as_encoded_bytes().starts_with(b"socket:")) else {
            continue;
        };
        let socket = match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Err(Errno::BADF) => continue,
            socket => socket?,
        };
        // Of other sockets than TCP's the kernel knows no such option.
        if option(&socket, libc::TCP_REPAIR).is_ok_and(|mode| mode != 0) {
            set_option(&socket, libc::TCP_REPAIR, 0)?;
            ended += 1;
        }
    }
    Ok(ended)
}

fn option(socket: &OwnedFd, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`; both are alive.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_option(socket: &OwnedFd, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes from `value`, which is alive.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_left_in_repair_carries_bytes_again() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        let held = OwnedFd::from(near.try_clone().unwrap());
        set_option(&held, libc::TCP_REPAIR, 1).unwrap();
        assert_eq!(option(&held, libc::TCP_REPAIR).unwrap(), 1);
        assert!(end_repair(std::process::id()).unwrap() >= 1);
        assert_eq!(option(&held, libc::TCP_REPAIR).unwrap(), 0);
        near.write_all(b"on").unwrap();
        let mut heard = [0; 2];
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"on");
        assert_eq!(end_repair(u32::MAX >> 1).unwrap(), 0, "no such process");
    }
}
