//! Having a running process make system calls for us (`ptrace(2)`), without its help and without its notice.
//!
//! One thread is stopped for some microseconds. Its registers are set to a system call, it makes that one step, and gets
//! its own registers back; a call of its own that was interrupted begins anew, as after any stop. Its seccomp filter is
//! suspended meanwhile.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// How long a thread may take to stop. One that hangs in the kernel (state D) does not.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two looks at whether it has.
const LOOK_AGAIN: Duration = Duration::from_micros(20);
/// `PTRACE_GETSIGMASK` and `PTRACE_SETSIGMASK`.
const GET_SIGNAL_MASK: libc::c_uint = 0x420a;
const SET_SIGNAL_MASK: libc::c_uint = 0x420b;
/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A thread of another process that stands still for us. It goes on when this is dropped.
#[derive(Debug)]
pub struct Held {
    thread: libc::pid_t,
    registers: libc::user_regs_struct,
    /// The signals that it blocks by itself, once they are known.
    mask: Option<u64>,
    /// Where it finds the instruction.
    instruction: u64,
}

impl Held {
    /// Stops the thread `pid`.
    ///
    /// # Errors
    /// When there is none, when somebody else traces it, or when its code holds no system call.
    pub fn new(pid: u32) -> io::Result<Self> {
        let thread = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_SUSPEND_SECCOMP;
        trace(libc::PTRACE_SEIZE, thread, 0, options as u64)?;
        // From here on dropping it lets it go.
        // SAFETY: all bytes zero is a valid user_regs_struct.
        let mut held = Self { thread, registers: unsafe { std::mem::zeroed() }, mask: None, instruction: 0 };
        trace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
        held.await_stop()?;
        let mut registers = held.registers;
        // SAFETY: the kernel writes one user_regs_struct to the address given.
        check(unsafe {
            libc::ptrace(libc::PTRACE_GETREGS, thread, std::ptr::null_mut::<libc::c_void>(), &raw mut registers)
        })?;
        held.registers = registers;
        let mut mask = 0_u64;
        // SAFETY: the kernel writes eight bytes, as many as are asked for, to the address given.
        check(unsafe { libc::ptrace(GET_SIGNAL_MASK, thread, size_of::<u64>(), &raw mut mask) })?;
        held.mask = Some(mask);
        // No handler may run in our steps; what comes meanwhile stays pending.
        held.set_mask(u64::MAX)?;
        held.instruction = instruction(pid)?;
        Ok(held)
    }

    /// Has it make a system call; what the call returned.
    ///
    /// # Errors
    /// The call's own, or when the thread is gone.
    pub fn call(&self, number: libc::c_long, arguments: [u64; 3]) -> io::Result<u64> {
        let mut registers = self.registers;
        // Not as the return of an interrupted call: none begins anew now.
        registers.orig_rax = u64::MAX;
        registers.rax = number as u64;
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        registers.rip = self.instruction;
        self.set(&registers)?;
        trace(libc::PTRACE_SINGLESTEP, self.thread, 0, 0)?;
        self.await_stop()?;
        // SAFETY: the kernel writes one user_regs_struct to the address given.
        check(unsafe {
            libc::ptrace(libc::PTRACE_GETREGS, self.thread, std::ptr::null_mut::<libc::c_void>(), &raw mut registers)
        })?;
        match registers.rax.cast_signed() {
            error @ -4095..0 => Err(io::Error::from_raw_os_error(-(error as i32))),
            result => Ok(result.cast_unsigned()),
        }
    }

    fn set_mask(&self, mask: u64) -> io::Result<()> {
        // SAFETY: the kernel reads eight bytes, as many as are said, from the address given.
        check(unsafe { libc::ptrace(SET_SIGNAL_MASK, self.thread, size_of::<u64>(), &raw const mask) })
    }

    fn set(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        let registers: *const libc::user_regs_struct = registers;
        // SAFETY: the kernel reads one user_regs_struct from the address given.
        check(unsafe {
            libc::ptrace(libc::PTRACE_SETREGS, self.thread, std::ptr::null_mut::<libc::c_void>(), registers)
        })
    }

    /// Waits until it stands still.
    fn await_stop(&self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let mut status = 0;
            // SAFETY: the kernel writes one number to the address given.
            let waited = unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if waited == 0 {
                // Of a stop nobody can be woken without a handler for signals; it takes microseconds.
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
            if waited < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            if !libc::WIFSTOPPED(status) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let signal = libc::WSTOPSIG(status);
            // Our own stop, the group's, or a step that was made: it stands still.
            if status >> 16 != 0 || signal == libc::SIGTRAP {
                return Ok(());
            }
            // A signal came first: it is delivered, and our own stop comes next.
            trace(libc::PTRACE_CONT, self.thread, 0, signal as u64)?;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Both fail only when it is gone.
        if let Some(mask) = self.mask {
            let _ = self.set(&self.registers);
            let _ = self.set_mask(mask);
        }
        let _ = trace(libc::PTRACE_DETACH, self.thread, 0, 0);
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
        let held = Held::new(pid)?;
        let made = held.call(number, arguments)?;
        let theirs = i32::try_from(made).map_err(|_| io::ErrorKind::InvalidData)?;
        let taken = pidfd_getfd(&process, theirs, PidfdGetfdFlags::empty());
        held.call(libc::SYS_close, [made, 0, 0])?;
        Ok(taken?)
    };
    // On a thread of its own: with the end of that the kernel lets go what did not stop in time.
    std::thread::scope(|scope| {
        let making = std::thread::Builder::new().name("inject".into()).spawn_scoped(scope, make)?;
        making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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

fn trace(request: libc::c_uint, thread: libc::pid_t, address: u64, data: u64) -> io::Result<()> {
    // SAFETY: of the requests that this is called with none reads or writes our memory.
    check(unsafe { libc::ptrace(request, thread, address, data) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

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
        let script = "trap 'n=$((n+1)); echo $n' USR1; n=0; echo 0; while [ $n -lt 20 ]; do sleep 0.001; done";
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
        let held = Held::new(child.id()).unwrap();
        assert_eq!(held.call(libc::SYS_close, [999, 0, 0]).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(held.call(libc::SYS_getpid, [0; 3]).unwrap() == u64::from(child.id()));
        drop(held);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Held::new(child.id()).is_err());
    }
}
