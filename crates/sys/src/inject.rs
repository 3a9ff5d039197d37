//! Having a running process make system calls for us, or stand still, without its help and without its notice
//! (`ptrace(2)`).
//!
//! Its threads are stopped for some microseconds: none of them forks a child meanwhile that would keep what was made. The
//! registers of one are set to a system call, it makes that one step, and gets its own registers back; a call of its own
//! that was interrupted begins anew, as after any stop. Its seccomp filter is suspended meanwhile.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use stopped::{Thread, check, stop_all};

mod stopped;

/// `PTRACE_GETSIGMASK` and `PTRACE_SETSIGMASK`.
const GET_SIGNAL_MASK: libc::c_uint = 0x420a;
const SET_SIGNAL_MASK: libc::c_uint = 0x420b;
/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A thread of another process that makes system calls for us, while all others stand still. They go on when this is
/// dropped.
#[derive(Debug)]
struct Held {
    thread: Thread,
    registers: libc::user_regs_struct,
    /// The signals that it blocks by itself, once they are known.
    mask: Option<u64>,
    /// Where it finds the instruction.
    instruction: u64,
    /// The other threads, which go on after it.
    _others: [Vec<Thread>; 2],
}

impl Held {
    /// Stops the process `pid`.
    ///
    /// # Errors
    /// When there is none, when somebody else traces it, or when its code holds no system call.
    fn new(pid: u32) -> io::Result<Self> {
        let (mut standing, others) = stop_all(pid)?;
        let thread = standing.pop().ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: all bytes zero is a valid user_regs_struct.
        let mut registers = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one user_regs_struct to the address given.
        check(unsafe {
            libc::ptrace(libc::PTRACE_GETREGS, thread.id, std::ptr::null_mut::<libc::c_void>(), &raw mut registers)
        })?;
        let instruction = instruction(pid)?;
        let mut held = Self { thread, registers, mask: None, instruction, _others: [standing, others] };
        let mut mask = 0_u64;
        // SAFETY: the kernel writes eight bytes, as many as are asked for, to the address given.
        check(unsafe { libc::ptrace(GET_SIGNAL_MASK, held.thread.id, size_of::<u64>(), &raw mut mask) })?;
        held.mask = Some(mask);
        // No handler may run in our steps; what comes meanwhile stays pending. The end of a step is a SIGTRAP: were it blocked,
        // the kernel would take the program's own handler for it away.
        held.set_mask(!(1 << (libc::SIGTRAP - 1)))?;
        Ok(held)
    }

    /// Has it make a system call; what the call returned.
    ///
    /// # Errors
    /// The call's own, or when the thread is gone.
    fn call(&mut self, number: libc::c_long, arguments: [u64; 3]) -> io::Result<u64> {
        let mut registers = self.registers;
        // Not as the return of an interrupted call: none begins anew now.
        registers.orig_rax = u64::MAX;
        registers.rax = number as u64;
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        registers.rip = self.instruction;
        self.set(&registers)?;
        self.thread.step()?;
        // SAFETY: the kernel writes one user_regs_struct to the address given.
        check(unsafe {
            libc::ptrace(libc::PTRACE_GETREGS, self.thread.id, std::ptr::null_mut::<libc::c_void>(), &raw mut registers)
        })?;
        if registers.rip != self.instruction + SYSCALL.len() as u64 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match registers.rax.cast_signed() {
            error @ -4095..0 => Err(io::Error::from_raw_os_error(-(error as i32))),
            result => Ok(result.cast_unsigned()),
        }
    }

    fn set_mask(&self, mask: u64) -> io::Result<()> {
        // SAFETY: the kernel reads eight bytes, as many as are said, from the address given.
        check(unsafe { libc::ptrace(SET_SIGNAL_MASK, self.thread.id, size_of::<u64>(), &raw const mask) })
    }

    fn set(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        let registers: *const libc::user_regs_struct = registers;
        // SAFETY: the kernel reads one user_regs_struct from the address given.
        check(unsafe {
            libc::ptrace(libc::PTRACE_SETREGS, self.thread.id, std::ptr::null_mut::<libc::c_void>(), registers)
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Both fail only when it is gone.
        if let Some(mask) = self.mask {
            let _ = self.set(&self.registers);
            let _ = self.set_mask(mask);
        }
    }
}

/// Has process `pid` make a descriptor by a system call, takes it, and closes it there.
///
/// # Errors
/// When the process cannot be held or the call fails.
pub fn make_descriptor(pid: u32, number: libc::c_long, arguments: [u64; 3]) -> io::Result<OwnedFd> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let make = || {
        let mut held = Held::new(pid)?;
        let made = held.call(number, arguments)?;
        let theirs = i32::try_from(made).map_err(|_| io::ErrorKind::InvalidData)?;
        let taken = pidfd_getfd(&process, theirs, PidfdGetfdFlags::empty());
        held.call(libc::SYS_close, [made, 0, 0])?;
        Ok(taken?)
    };
    on_own_thread(make)?
}

/// Does `work` while all threads of process `pid` stand still, but for those that wait for something in the kernel.
///
/// # Errors
/// When the process cannot be held.
pub fn while_stopped<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_own_thread(|| {
        let _threads = stop_all(pid)?;
        Ok(work())
    })?
}

/// Traces on a thread of its own: with the end of that the kernel lets go what did not stop in time.
fn on_own_thread<T: Send>(trace: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let tracing = std::thread::Builder::new().name("inject".into()).spawn_scoped(scope, trace)?;
        Ok(tracing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Where the process has an instruction that makes a system call: in the page that the kernel maps into each (`vdso(7)`).
fn instruction(pid: u32) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    for line in maps.lines().filter(|line| line.ends_with("[vdso]")) {
        let Some((start, end)) = range(line) else { continue };
        let mut code = vec![0; usize::try_from(end - start).unwrap_or(0)];
        memory.read_exact_at(&mut code, start)?;
        if let Some(at) = code.windows(SYSCALL.len()).position(|bytes| bytes == SYSCALL) {
            return Ok(start + at as u64);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::fork::fork;

    #[test]
    fn a_process_makes_a_descriptor_for_us_and_goes_on() {
        let mut child = Command::new("sh")
            .args(["-c", "count() { ls /proc/self/fd | wc -l; }; count; read line; echo $line; count"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for _ in 0..20 {
            let descriptor = make_descriptor(child.id(), libc::SYS_userfaultfd, [crate::uffd::FLAGS, 0, 0]).unwrap();
            crate::uffd::Userfaultfd::from_descriptor(descriptor).agree(0).unwrap();
        }
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"went on\n").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "went on");
        assert_eq!(lines[0], lines[2], "no descriptor is left in it");
    }

    #[test]
    fn signals_that_come_meanwhile_are_not_lost() {
        // It says so outside of the trap: bash itself loses a signal that comes while the trap of the last one runs.
        let script = "trap 'n=$((n+1))' USR1; n=0; said=0; echo 0; while [ $said -lt 20 ]; do sleep 0.001; \
                      if [ $n != $said ]; then said=$n; echo $n; fi; done";
        let mut child = Command::new("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        for number in 0..=20 {
            assert_eq!(lines.next().unwrap().unwrap(), number.to_string());
            let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR1);
            // It may end at one of the last signals, and whoever holds it would take note of its end first.
            if number < 15 {
                let _ = make_descriptor(child.id(), libc::SYS_userfaultfd, [crate::uffd::FLAGS, 0, 0]);
            }
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_call_that_fails_says_why_and_whoever_is_gone_is_not_found() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut held = Held::new(child.id()).unwrap();
        assert_eq!(held.call(libc::SYS_close, [999, 0, 0]).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(held.call(libc::SYS_getpid, [0; 3]).unwrap() == u64::from(child.id()));
        drop(held);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Held::new(child.id()).is_err());
    }

    #[test]
    fn a_process_that_is_stopped_makes_a_descriptor_too_and_stays_stopped() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        while !state().contains(") T ") {
            std::thread::yield_now();
        }
        let descriptor = make_descriptor(child.id(), libc::SYS_userfaultfd, [crate::uffd::FLAGS, 0, 0]).unwrap();
        crate::uffd::Userfaultfd::from_descriptor(descriptor).agree(0).unwrap();
        // Let go it has yet to come back to where it stopped.
        let begun = std::time::Instant::now();
        while !state().contains(") T ") {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{}", state());
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_program_keeps_its_handler_for_traps() {
        let mut child = Command::new("bash")
            .args(["-c", "trap 'echo trapped' TRAP; echo ready; read -r line; kill -TRAP $$; echo went on"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        make_descriptor(child.id(), libc::SYS_userfaultfd, [crate::uffd::FLAGS, 0, 0]).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
        assert_eq!(lines.map(Result::unwrap).collect::<Vec<_>>(), ["trapped", "went on"]);
        child.wait().unwrap();
    }

    /// The program of the next test: threads that fork all the time, until the input ends. Its children look whether they
    /// have a descriptor more than it.
    #[test]
    #[ignore = "a program, not a test"]
    fn forks_until_the_input_ends() {
        let free = rustix::io::dup(std::io::stdin()).unwrap().as_raw_fd();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        // SAFETY: the call takes numbers.
                        let child = fork(|| u8::from(unsafe { libc::fcntl(free, libc::F_GETFD) } >= 0)).unwrap();
                        assert!(child.wait().unwrap().success(), "a child has a descriptor that its parent has not");
                    }
                });
            }
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            ended.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_child_that_is_forked_meanwhile_has_no_descriptor_of_ours() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "inject::tests::forks_until_the_input_ends", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for _ in 0..300 {
            make_descriptor(child.id(), libc::SYS_userfaultfd, [crate::uffd::FLAGS, 0, 0]).unwrap();
        }
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
