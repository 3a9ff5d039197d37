//! Whether a network namespace tracks connections.

use std::fs;

/// Whether the namespace of a process tracks none: most containers' do not, for only rules of a firewall inside make it so.
pub(super) fn tracks_nothing(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/net/stat/nf_conntrack")) {
        Ok(text) => counts_nothing(&text),
        // A kernel without it tracks nothing.
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Whether there is no connection, from a head and a line for each processor, which all begin with the number of connections, in hexadecimal digits
/// (the kernel's `nf_conntrack_standalone.c`).
#[must_use]
pub fn counts_nothing(text: &str) -> bool {
    let count = text.lines().nth(1).and_then(|line| line.split_whitespace().next());
    count.and_then(|count| u64::from_str_radix(count, 16).ok()) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracked_connections_are_counted() {
        let head = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop";
        assert!(counts_nothing(&format!("{head}\n00000000  00000000 00000000\n00000000  00000000 00000001\n")));
        assert!(!counts_nothing(&format!("{head}\n0000001a  00000000 00000000\n")));
        assert!(!counts_nothing(head));
    }
}
