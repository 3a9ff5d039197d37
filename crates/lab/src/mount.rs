//! The mounts of the caller's namespace, from `/proc/self/mountinfo` (format: proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::error::StepError;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The directory of the mounted file system that is visible here.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// The options of the file system's superblock.
    pub options: Vec<String>,
}

/// All mounts, in the order in which they were made.
pub(crate) fn all() -> Result<Vec<Mount>, StepError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read(path).map_err(StepError::at("read", path))?;
    Ok(parse(&text))
}

/// Parses a mountinfo text; lines that make no sense are left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - KIND SOURCE SUPER_OPTIONS
    let mut fields = line.split(|&byte| byte == b' ');
    let root = unescape(fields.nth(3)?);
    let point = unescape(fields.next()?);
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let options = String::from_utf8_lossy(fields.nth(1)?).split(',').map(str::to_owned).collect();
    Some(Mount { root, point, kind, options })
}

/// Undoes the kernel's octal escapes (`\040` for a blank).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Unmounts everything at or below `directory`, last mounted first, and gives the number of mounts.
pub(crate) fn unmount_below(directory: &Path) -> Result<usize, StepError> {
    let mut count = 0;
    for mount in all()?.iter().rev().filter(|mount| mount.point.starts_with(directory)) {
        unmount(&mount.point, UnmountFlags::DETACH).map_err(StepError::at("unmount", &mount.point))?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_and_without_tags_and_with_escapes_are_read() {
        let text = b"\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 /a /sys/fs/cgroup/memory rw,relatime shared:7 master:1 - cgroup cgroup rw,memory
90 27 0:4 net:[4026532] /run/my\\040lab/n\\1341 rw - nsfs nsfs rw
nonsense
";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].root, Path::new("/a"));
        assert_eq!(mounts[1].kind, "cgroup");
        assert_eq!(mounts[1].options, ["rw", "memory"]);
        assert_eq!(mounts[2].point, Path::new("/run/my lab/n\\1"));
        assert_eq!(mounts[2].kind, "nsfs");
    }

    #[test]
    fn a_directory_with_the_same_beginning_is_not_below() {
        assert!(!Path::new("/run/drover-lab-t1/netns").starts_with("/run/drover-lab"));
        assert!(Path::new("/run/drover-lab/netns").starts_with("/run/drover-lab"));
    }
}
