//! Programs that have devices write into their memory: they read files past the page cache (`O_DIRECT`, `open(2)`).
//!
//! Such a write passes by the page tables. The kernel notes it when the read begins, and the device writes for as long as
//! it takes: write protection that is put up in between does not see it. A program that waits for its reads
//! (`read(2)`) cannot be made to stand still before they have ended, so all that were under way have landed then. One that
//! has the kernel read beside it (`io_setup(2)`) can.

use std::io;
use std::path::Path;

use rustix::fs::OFlags;

/// How a process has devices write into its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direct {
    /// Not at all.
    Never,
    /// It waits for them.
    Waiting,
    /// Perhaps it goes on meanwhile.
    Beside,
}

/// How process `pid` does.
///
/// # Errors
/// When there is no such process.
pub(crate) fn direct(pid: u32) -> io::Result<Direct> {
    let process = Path::new("/proc").join(pid.to_string());
    let mut reads = false;
    for descriptor in std::fs::read_dir(process.join("fdinfo"))? {
        // One that has been closed since does not matter.
        reads = reads || std::fs::read_to_string(descriptor?.path()).is_ok_and(|info| reads_past_cache(&info));
        if reads {
            break;
        }
    }
    match reads {
        false => Ok(Direct::Never),
        true if has_context(&std::fs::read_to_string(process.join("maps"))?) => Ok(Direct::Beside),
        true => Ok(Direct::Waiting),
    }
}

/// From the lines of `/proc/PID/fdinfo/FD` (`proc_pid_fdinfo(5)`).
fn reads_past_cache(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    let flags = OFlags::from_bits_retain(flags.unwrap_or_default());
    // `O_PATH` and `O_WRONLY` read nothing.
    flags.contains(OFlags::DIRECT) && !flags.intersects(OFlags::WRONLY | OFlags::PATH)
}

/// From the lines of `/proc/PID/maps`: whether there is what `io_setup(2)` makes.
fn has_context(maps: &str) -> bool {
    maps.lines().any(|line| line.contains(" /[aio]"))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_process_that_reads_past_the_page_cache_is_known() {
        let own = std::process::id();
        let direct_flag = OFlags::DIRECT.bits().cast_signed();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let writes = OpenOptions::new().write(true).custom_flags(direct_flag).open(&path).unwrap();
        assert_eq!(direct(own).unwrap(), Direct::Never);
        let reads = OpenOptions::new().read(true).custom_flags(direct_flag).open(&path).unwrap();
        assert_eq!(direct(own).unwrap(), Direct::Waiting);
        drop((writes, reads));
        assert_eq!(direct(own).unwrap(), Direct::Never);
    }

    #[test]
    fn what_the_kernel_does_beside_a_program_is_known() {
        assert!(has_context("7f06e2a0d000-7f06e2a18000 rw-s 00000000 00:0f 2060  /[aio] (deleted)\n"));
        assert!(!has_context("7f06e2a0d000-7f06e2a18000 rw-s 00000000 00:0f 2060  /dev/zero (deleted)\n"));
    }
}
