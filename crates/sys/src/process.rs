//! Starting programs with more set up than the standard library offers, and what processes have in common.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The lowest number that a descriptor is parked at on its way to the number that the program expects; above any
/// number that `pass_descriptors` may be asked for.
const PARKED: RawFd = 100;

/// Lets the program of `command` find each descriptor at the number beside it (3 to 99); all others stay closed.
///
/// # Panics
/// When a number is outside 3..100, which would collide with standard streams or parked descriptors.
pub fn pass_descriptors(command: &mut Command, descriptors: Vec<(OwnedFd, RawFd)>) -> &mut Command {
    assert!(descriptors.iter().all(|(_, number)| (3..PARKED).contains(number)), "numbers 3 to 99");
    let set_up = move || {
        // First out of the way, then into place: a source may have the number of another's destination.
        let mut parked = [(0, 0); PARKED as usize];
        for (slot, (descriptor, number)) in parked.iter_mut().zip(&descriptors) {
            // SAFETY: fcntl with F_DUPFD_CLOEXEC takes plain numbers and touches no memory.
            let copy = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKED) };
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            *slot = (copy, *number);
        }
        for (copy, number) in &parked[..descriptors.len()] {
            // SAFETY: dup2 takes plain numbers; the copy made here has no close-on-exec flag.
            if unsafe { libc::dup2(*copy, *number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only calls fcntl and dup2, which are async-signal-safe, and
    // allocates nothing.
    unsafe { command.pre_exec(set_up) }
}

/// Puts the program of `command` into a session of its own, so that it outlives the caller's terminal and is no
/// member of its process group.
pub fn new_session(command: &mut Command) -> &mut Command {
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from)) }
}

/// Puts the program of `command` into a session of its own with its standard input as controlling terminal.
pub fn new_terminal_session(command: &mut Command) -> &mut Command {
    let set_up = || {
        rustix::process::setsid()?;
        // SAFETY: TIOCSCTTY takes a number as its argument and touches no memory.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: setsid and ioctl are system calls that are async-signal-safe in practice and touch no memory.
    unsafe { command.pre_exec(set_up) }
}

/// Whether two processes have one memory between them, as a child has with its parent after `vfork(2)`.
///
/// # Errors
/// When one of them is gone, or the kernel lacks `kcmp(2)`.
pub fn share_memory(pid: u32, other: u32) -> io::Result<bool> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: the call takes plain numbers.
    match unsafe { libc::syscall(libc::SYS_kcmp, pid, other, KCMP_VM, 0, 0) } {
        0 => Ok(true),
        1.. => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The process that made the other end of a connected UNIX socket, while it lives: by a handle, for numbers are given out
/// again. None when it has ended.
///
/// # Errors
/// When it is no such socket, or the kernel is older than 6.5.
pub fn peer_of(socket: impl AsFd) -> io::Result<Option<u32>> {
    let mut handle: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes one descriptor, for which there is room.
    let asked = unsafe {
        libc::getsockopt(descriptor, libc::SOL_SOCKET, libc::SO_PEERPIDFD, (&raw mut handle).cast(), &raw mut length)
    };
    if asked < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    }
    // SAFETY: it is ours, and nobody else knows it.
    let handle = unsafe { OwnedFd::from_raw_fd(handle) };
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    // It says -1 of one that has ended, and 0 of one that this namespace does not see.
    Ok(pid.and_then(|pid| pid.trim().parse().ok()).filter(|pid| *pid != 0))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_program_finds_its_descriptors_at_the_numbers_asked_for() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let spare = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap().0;
        let mut command = Command::new("sh");
        command.args(["-c", "echo here >&7"]);
        pass_descriptors(&mut command, vec![(write, 7), (spare, 8)]);
        assert!(command.status().unwrap().success());
        drop(command);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "here\n");
    }

    #[test]
    fn the_other_end_of_a_socket_is_known_while_its_process_lives() {
        let (own, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(peer_of(&own).unwrap(), Some(std::process::id()));
        let (read, _write) = std::io::pipe().unwrap();
        assert!(peer_of(&read).is_err());
    }

    #[test]
    fn a_child_that_runs_another_program_shares_no_memory() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(share_memory(own, own).unwrap());
        assert!(!share_memory(own, child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(share_memory(own, child.id()).is_err());
    }
}
