//! Stopping the threads of another process (`ptrace(2)`).

use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// How long threads may take to stop.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two looks at whether they have. Of a stop nobody can be woken without a handler for signals; it takes
/// microseconds.
const LOOK_AGAIN: Duration = Duration::from_micros(20);

/// A thread that stands still for us, or will as soon as it leaves the kernel. It goes on when this is dropped.
#[derive(Debug)]
pub(super) struct Thread {
    pub id: libc::pid_t,
    stands: bool,
}

/// Stops all threads of a process, so that none of them forks. Gives those that stand still, of which there is at least one;
/// the rest wait for something in the kernel, and stand still when they leave it.
///
/// One that waits in the kernel may have begun to fork: then it waits for its child (`vfork(2)`), which has its own
/// descriptors already.
pub(super) fn stop_all(pid: u32) -> io::Result<(Vec<Thread>, Vec<Thread>)> {
    let end = Instant::now() + PATIENCE;
    let mut threads: Vec<Thread> = Vec::new();
    loop {
        threads.retain_mut(|thread| thread.look().is_ok());
        // Seen before the list is read: none of these makes another one that would be missing from it.
        let quiet = threads.iter().all(|thread| thread.stands || state(pid, thread.id) == Some('D'));
        let mut complete = true;
        for id in ids(pid)? {
            if threads.iter().all(|thread| thread.id != id)
                && let Some(thread) = Thread::seize(pid, id)?
            {
                threads.push(thread);
                complete = false;
            }
        }
        if complete && quiet && threads.iter().any(|thread| thread.stands) {
            return Ok(threads.into_iter().partition(|thread| thread.stands));
        }
        match (threads.is_empty() && complete, Instant::now() < end) {
            (true, _) => return Err(io::ErrorKind::NotFound.into()),
            (_, false) => return Err(io::ErrorKind::TimedOut.into()),
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// The threads that a process has.
fn ids(pid: u32) -> io::Result<Vec<libc::pid_t>> {
    let listed = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(listed.flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok()).collect())
}

/// What a thread does (`proc_pid_stat(5)`); none when it is gone.
fn state(pid: u32, id: libc::pid_t) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

impl Thread {
    /// None when it has ended.
    fn seize(pid: u32, id: libc::pid_t) -> io::Result<Option<Self>> {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_SUSPEND_SECCOMP;
        if let Err(error) = trace(libc::PTRACE_SEIZE, id, 0, options as u64) {
            let ended = matches!(state(pid, id), None | Some('Z' | 'X'));
            return if ended { Ok(None) } else { Err(error) };
        }
        // From here on dropping it lets it go.
        let thread = Self { id, stands: false };
        Ok(trace(libc::PTRACE_INTERRUPT, id, 0, 0).is_ok().then_some(thread))
    }

    /// Looks whether it stands still by now.
    fn look(&mut self) -> io::Result<()> {
        while !self.stands {
            match self.stop()? {
                None => return Ok(()),
                // A signal came first: it is delivered, and our own stop comes next.
                Some(Stop::Signal(signal)) => trace(libc::PTRACE_CONT, self.id, 0, signal as u64)?,
                Some(Stop::Event | Stop::Step) => self.stands = true,
            }
        }
        Ok(())
    }

    /// The stop that it has come to, if it has.
    fn stop(&self) -> io::Result<Option<Stop>> {
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes one number to the address given.
            let waited = unsafe { libc::waitpid(self.id, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if waited == 0 {
                return Ok(None);
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
            return Ok(Some(match libc::WSTOPSIG(status) {
                _ if status >> 16 != 0 => Stop::Event,
                libc::SIGTRAP => Stop::Step,
                signal => Stop::Signal(signal),
            }));
        }
    }

    /// Lets it make one step.
    pub fn step(&mut self) -> io::Result<()> {
        self.stands = false;
        trace(libc::PTRACE_SINGLESTEP, self.id, 0, 0)?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.stop()? {
                Some(Stop::Step) => {
                    self.stands = true;
                    return Ok(());
                }
                // It was stopped by SIGSTOP already, and our own stop came before the step.
                Some(Stop::Event) => trace(libc::PTRACE_SINGLESTEP, self.id, 0, 0)?,
                Some(Stop::Signal(signal)) => trace(libc::PTRACE_SINGLESTEP, self.id, 0, signal as u64)?,
                None => std::thread::sleep(LOOK_AGAIN),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Why a thread stands still.
#[derive(Debug)]
enum Stop {
    /// It was interrupted by us, or its group is stopped.
    Event,
    /// It has made a step.
    Step,
    /// A signal is to be delivered.
    Signal(libc::c_int),
}

impl Drop for Thread {
    fn drop(&mut self) {
        // It fails for one that is gone, or does not stand still: the end of the tracing thread lets that one go.
        let _ = trace(libc::PTRACE_DETACH, self.id, 0, 0);
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t, address: u64, data: u64) -> io::Result<()> {
    // SAFETY: of the requests that this is called with none reads or writes our memory.
    check(unsafe { libc::ptrace(request, thread, address, data) })
}

pub(super) fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
