//! Threads that wait for a child to become another program (`vfork(2)`). CRIU waits for each thread to stop, and such a one
//! does not before its child has gone on.

use super::calls::{Call, calls};

const CLONE: u64 = 56;
const VFORK: u64 = 58;
const CLONE3: u64 = 435;

/// Whether one of the threads of these processes is in the middle of making another process or thread.
#[must_use]
pub fn is_starting(pids: &[u32]) -> bool {
    calls(pids).any(|(_, call)| makes_a_process(&call))
}

fn makes_a_process(call: &Call) -> bool {
    [CLONE, VFORK, CLONE3].contains(&call.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_makes_a_process_is_known_by_its_call() {
        let makes_a_process = |line| Call::parse(line).is_some_and(|call| makes_a_process(&call));
        for call in ["56 0x4111 0x7f 0x0 0x0 0x0 0x0 0x7ff 0x401", "58 0x0", "435 0x7ffd 0x58"] {
            assert!(makes_a_process(call), "{call}");
        }
        for call in ["running", "-1 0x7ff 0x401", "230 0x0 0x0", "560 0x0", ""] {
            assert!(!makes_a_process(call), "{call}");
        }
        assert!(!is_starting(&[u32::MAX]));
    }
}
