//! Threads that wait for a child to become another program (`vfork(2)`). CRIU waits for each thread to stop, and such a one
//! does not before its child has gone on.
//!
//! The numbers are those of x86-64.

use std::fs;

const CLONE: &str = "56";
const VFORK: &str = "58";
const CLONE3: &str = "435";

/// Whether one of the threads of these processes is in the middle of making another process or thread.
#[must_use]
pub fn is_starting(pids: &[u32]) -> bool {
    let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let mut calls = threads.filter_map(|thread| fs::read_to_string(thread.path().join("syscall")).ok());
    calls.any(|call| makes_a_process(&call))
}

/// By a line of `/proc/PID/syscall` (`proc_pid_syscall(5)`).
fn makes_a_process(call: &str) -> bool {
    call.split_ascii_whitespace().next().is_some_and(|number| [CLONE, VFORK, CLONE3].contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_makes_a_process_is_known_by_its_call() {
        for call in ["56 0x4111 0x7f 0x0 0x0 0x0 0x0 0x7ff 0x401", "58 0x0", "435 0x7ffd 0x58"] {
            assert!(makes_a_process(call), "{call}");
        }
        for call in ["running", "-1 0x7ff 0x401", "230 0x0 0x0", "560 0x0", ""] {
            assert!(!makes_a_process(call), "{call}");
        }
        assert!(!is_starting(&[u32::MAX]));
    }
}
