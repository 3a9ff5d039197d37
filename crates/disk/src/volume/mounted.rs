//! What is mounted where, from the kernel's list alone: no file system is asked, for one may not answer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file system that is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Its device, `major:minor`.
    device: String,
    /// Which of its directories.
    root: String,
    /// Its type.
    kind: String,
    /// What it was mounted from.
    source: String,
}

impl FileSystem {
    /// How the kernel's lists of mounts name it: its device, `major:minor`, and which of its directories.
    #[must_use]
    pub fn key(&self) -> (&str, &str) {
        (&self.device, &self.root)
    }

    /// Whether it may be the same one, mounted again.
    #[must_use]
    pub fn resembles(&self, other: &Self) -> bool {
        (&self.kind, &self.source) == (&other.kind, &other.source)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.source, self.kind)
    }
}

/// What is mounted on this very place, if anything is: the topmost. No file system is asked.
///
/// # Errors
/// When the kernel's list of mounts cannot be read.
pub fn at(place: &Path) -> io::Result<Option<FileSystem>> {
    Ok(all_at(place)?.pop())
}

/// All that is mounted on this very place, the lowest first.
pub(super) fn all_at(place: &Path) -> io::Result<Vec<FileSystem>> {
    Ok(mounts()?.into_iter().filter(|(point, _)| point == place).map(|(_, mounted)| mounted).collect())
}

/// The file system that a path lies on. The path must exist.
pub(super) fn of(path: &Path) -> io::Result<FileSystem> {
    let path = std::fs::canonicalize(path)?;
    let within = mounts()?.into_iter().filter(|(point, _)| path.starts_with(point));
    // Of several on one place the last one is on top.
    let longest = within.max_by_key(|(point, _)| point.as_os_str().len());
    longest.map(|(_, mounted)| mounted).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn mounts() -> io::Result<Vec<(PathBuf, FileSystem)>> {
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

/// A line of the list (`proc_pid_mountinfo(5)`): where what is mounted.
#[must_use]
pub fn parse(line: &str) -> Option<(PathBuf, FileSystem)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
    let mut fields = after.split(' ');
    let (kind, source) = (fields.next()?, fields.next()?);
    let text = |field: &str| unescape(field);
    let mounted = FileSystem { device: text(device), root: text(root), kind: text(kind), source: text(source) };
    Some((unescape(point).into(), mounted))
}

/// Undoes the kernel's octal escapes (`\040` for a blank).
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, escaped)) = rest.split_once('\\') {
        text.push_str(before);
        let code = escaped.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                text.push(char::from(code));
                rest = &escaped[3..];
            }
            None => {
                text.push('\\');
                rest = escaped;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list_is_understood() {
        let line = r"61 20 0:71 / /run/a\040b rw,nosuid - fuse.sshfs me@host:/data rw,user_id=0";
        let (point, mounted) = parse(line).unwrap();
        assert_eq!(point, Path::new("/run/a b"));
        assert_eq!(mounted.to_string(), "me@host:/data (fuse.sshfs)");
        assert!(parse("nonsense").is_none());
    }

    #[test]
    fn every_path_lies_on_a_file_system_and_few_are_mount_points() {
        let directory = tempfile::tempdir().unwrap();
        assert!(of(directory.path()).unwrap().resembles(&of(directory.path().parent().unwrap()).unwrap()));
        assert_eq!(at(directory.path()).unwrap(), None);
        assert!(at(Path::new("/proc")).unwrap().is_some());
    }
}
