//! The system calls that threads are in (`proc_pid_syscall(5)`). Their numbers are those of x86-64.

use std::fs;
use std::path::Path;

/// A call that a thread is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub number: u64,
    /// Its arguments, and where its thread is.
    pub place: Vec<String>,
}

impl Call {
    /// That of a thread by its directory in `/proc`. One that runs is in no call.
    pub fn of(thread: &Path) -> Option<Self> {
        fs::read_to_string(thread.join("syscall")).ok().and_then(|text| Self::parse(&text))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let number = words.next()?.parse().ok()?;
        Some(Self { number, place: words.map(str::to_owned).collect() })
    }
}

/// Those of all threads of these processes, by the threads' ids.
pub(super) fn calls(pids: &[u32]) -> impl Iterator<Item = (u32, Call)> {
    let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    threads.filter_map(|thread| Some((thread.file_name().to_str()?.parse().ok()?, Call::of(&thread.path())?)))
}
