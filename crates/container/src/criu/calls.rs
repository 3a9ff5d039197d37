//! The system calls that threads are in (`proc_pid_syscall(5)`). Their numbers are those of x86-64.

use std::fs;
use std::path::Path;

/// The instruction `syscall`.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A call that a thread is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its arguments, and where its thread is.
    pub place: Vec<String>,
}

impl Call {
    /// That of a thread by its directory in `/proc`. One that runs is in no call.
    #[must_use]
    pub fn of(thread: &Path) -> Option<Self> {
        fs::read_to_string(thread.join("syscall")).ok().and_then(|text| Self::parse(&text))
    }

    /// Whether its thread is where it was in the `known` call, or is about to take that up again: the kernel has then set it
    /// back by the instruction.
    #[must_use]
    pub fn goes_on(&self, known: &Self) -> bool {
        fn parts(call: &Call) -> Option<(u64, &[String])> {
            let (instruction, rest) = call.place.split_last()?;
            Some((u64::from_str_radix(instruction.strip_prefix("0x")?, 16).ok()?, rest))
        }
        let (Some((now, here)), Some((then, there))) = (parts(self), parts(known)) else { return false };
        here == there && (now == then || now.wrapping_add(SYSCALL.len() as u64) == then)
    }

    /// From the text of `/proc/PID/task/TID/syscall`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let number = words.next()?.parse().ok()?;
        Some(Self { number, place: words.map(str::to_owned).collect() })
    }
}

/// Those of all threads of these processes, by the threads' ids; none of one that runs.
pub(super) fn threads(pids: &[u32]) -> impl Iterator<Item = (u32, Option<Call>)> {
    let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    threads.filter_map(|thread| Some((thread.file_name().to_str()?.parse().ok()?, Call::of(&thread.path()))))
}

/// Those of all threads that are in one.
pub(super) fn calls(pids: &[u32]) -> impl Iterator<Item = (u32, Call)> {
    threads(pids).filter_map(|(thread, call)| Some((thread, call?)))
}
