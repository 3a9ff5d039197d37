//! Telling CRIU the resource limits of processes that it may not ask the kernel about.
//!
//! The kernel shows the limits of another user's process by `prlimit64(2)` only to whoever has CAP_SYS_RESOURCE, which
//! root lacks on some machines (in virtual machines of some providers, or in a container); by `/proc/PID/limits` it
//! shows the same to root. Without this no container with a process of an ordinary user could be dumped there.

use std::fs;
use std::io;

/// CAP_SYS_RESOURCE, `capability.h`.
const CAP_SYS_RESOURCE: u32 = 24;

/// Whether the kernel would refuse.
pub(super) fn hidden() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    capabilities.is_some_and(|set| set & (1 << CAP_SYS_RESOURCE) == 0)
}

/// The soft and the hard limit of a process.
pub(super) fn limit(pid: u32, resource: u32) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    limit_in(&text, resource).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Soft and hard limit of a resource by its number, from `/proc/PID/limits`; the lines stand in the order of the numbers
/// (`fs/proc/base.c`, `lnames`).
#[must_use]
pub fn limit_in(limits: &str, resource: u32) -> Option<(u64, u64)> {
    // A name of 25 characters, which may contain spaces, then two columns.
    const NAME: usize = 25;
    let line = limits.lines().skip(1).nth(usize::try_from(resource).ok()?)?;
    let mut columns = line.get(NAME..)?.split_whitespace().map(|value| match value {
        "unlimited" => Some(u64::MAX),
        value => value.parse().ok(),
    });
    Some((columns.next()??, columns.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_the_order_of_their_numbers() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max file size             unlimited            unlimited            bytes     
Max data size             unlimited            unlimited            bytes     
Max stack size            8388608              unlimited            bytes     
";
        assert_eq!(limit_in(text, 0), Some((u64::MAX, u64::MAX)));
        assert_eq!(limit_in(text, 3), Some((8_388_608, u64::MAX)));
        assert_eq!(limit_in(text, 4), None);
    }

    #[test]
    fn our_own_limits_are_those_that_the_kernel_tells() {
        let own = std::process::id();
        let known = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let (soft, hard) = limit(own, 7).unwrap();
        assert_eq!((Some(soft), Some(hard)), (known.current, known.maximum));
    }
}
