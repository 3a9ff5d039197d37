//! The mappings of a process whose pages can be followed, and can be brought back one by one.

use std::io;
use std::ops::Range;
use std::str::FromStr;

/// Those of `pid` that are private and anonymous, in ascending order. The main stack is not among them: CRIU needs what
/// is on it before anybody could bring it.
///
/// # Errors
/// When there is no such process, or it keeps memory locked or has shadow stacks: those are brought back whole, and which
/// they are is told only together with a count of all pages, which takes as long as the memory is large.
pub(crate) fn followed(pid: u32) -> io::Result<Vec<Range<u64>>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).map(str::trim);
    if locked != Some("0 kB") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it has locked memory"));
    }
    // CRIU puts shadow stacks in place itself, and they look like any other memory here.
    let features = status.lines().find_map(|line| line.strip_prefix("x86_Thread_features:")).unwrap_or_default();
    if features.split_whitespace().any(|feature| feature == "shstk") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it has shadow stacks"));
    }
    Ok(followed_in(&std::fs::read_to_string(format!("/proc/{pid}/maps"))?))
}

/// The id of a process in its own namespace.
///
/// # Errors
/// When there is no such process.
pub(crate) fn inside(pid: u32) -> io::Result<u64> {
    status(pid, "NSpid:")
}

/// The parent of a process.
///
/// # Errors
/// When there is no such process.
pub(crate) fn parent(pid: u32) -> io::Result<u32> {
    status(pid, "PPid:")
}

/// The last number of a line in `/proc/PID/status` (`proc_pid_status(5)`).
fn status<T: FromStr>(pid: u32, name: &str) -> io::Result<T> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = status.lines().find_map(|line| line.strip_prefix(name));
    let number = numbers.and_then(|numbers| numbers.split_whitespace().next_back()?.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The mappings of `pid` that are zero in a child of a fork (`MADV_WIPEONFORK`, `madvise(2)`), of those in which pages may be
/// missing: what was mapped after the restore is not among them. It takes as long as its memory is large.
///
/// # Errors
/// When there is no such process.
pub(crate) fn wiped_on_fork(pid: u32) -> io::Result<Vec<Range<u64>>> {
    Ok(wiped_in(&std::fs::read_to_string(format!("/proc/{pid}/smaps"))?))
}

/// From the lines of `/proc/PID/smaps` (`proc_pid_smaps(5)`): mappings in which pages may be missing and that are zero in a
/// child of a fork.
#[must_use]
pub fn wiped_in(smaps: &str) -> Vec<Range<u64>> {
    let (mut mapping, mut wiped) = (None, Vec::new());
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let has = |name| flags.split_ascii_whitespace().any(|flag| flag == name);
            wiped.extend(mapping.take().filter(|_| has("wf") && has("um")));
        } else {
            mapping = range(line.split_ascii_whitespace().next().unwrap_or_default()).or(mapping);
        }
    }
    wiped
}

/// Two addresses in hexadecimal digits with a hyphen between them.
fn range(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// From the lines of `/proc/PID/maps` (`proc_pid_maps(5)`): mappings whose pages can be followed.
#[must_use]
pub fn followed_in(maps: &str) -> Vec<Range<u64>> {
    let followed = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let mapping = range(fields.next()?)?;
        let (permissions, inode) = (fields.next()?, fields.nth(2)?);
        let name = fields.next().unwrap_or_default();
        let ours = name.is_empty() || name == "[heap]" || name.starts_with("[anon:");
        let private = permissions.ends_with('p') && inode == "0" && ours;
        private.then_some(mapping)
    });
    followed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_that_a_child_finds_empty_are_found() {
        let smaps = "\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 
Size:               4096 kB
VmFlags: rd wr mr mw me ac wf sd um 
7f0000400000-7f0000401000 rw-p 00000000 00:00 0                          [anon: wf]
Size:                  4 kB
VmFlags: rd wr mr mw me ac sd 
7f0000401000-7f0000402000 rw-p 00000000 00:00 0 
VmFlags: rd wr mr mw me ac wf um 
7f0000402000-7f0000403000 rw-p 00000000 00:00 0 
VmFlags: rd wr mr mw me ac wf 
";
        assert_eq!(wiped_in(smaps), [0x7f00_0000_0000..0x7f00_0040_0000, 0x7f00_0040_1000..0x7f00_0040_2000]);
    }

    #[test]
    fn private_anonymous_mappings_are_followed_and_no_others() {
        let maps = "\
55d0a0000000-55d0a0001000 r--p 00000000 fe:00 123                        /usr/bin/redis-server
55d0a0001000-55d0a0002000 rw-p 00001000 fe:00 123                        /usr/bin/redis-server
55d0a1000000-55d0a1021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 
7f0000400000-7f0000401000 ---p 00000000 00:00 0 
7f0001000000-7f0001200000 rw-p 00000000 00:10 77                         /anon_hugepage (deleted)
7f0002000000-7f0002001000 rw-s 00000000 00:01 9                          /dev/zero (deleted)
7f0003000000-7f0003001000 rw-p 00000000 00:00 0                          [anon: arena]
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc00100000-7ffc00104000 r--p 00000000 00:00 0                          [vvar]
7ffc00104000-7ffc00106000 r-xp 00000000 00:00 0                          [vdso]
";
        assert_eq!(
            followed_in(maps),
            [
                0x55d0_a100_0000..0x55d0_a102_1000,
                0x7f00_0000_0000..0x7f00_0040_0000,
                0x7f00_0040_0000..0x7f00_0040_1000,
                0x7f00_0300_0000..0x7f00_0300_1000,
            ]
        );
    }
}
