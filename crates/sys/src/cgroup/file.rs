//! Reading and writing the small files of a control group, and the error that names them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Something that could not be done to a control group.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} {}", path.display())]
pub struct CgroupError {
    /// What was attempted, as a verb.
    attempt: &'static str,
    /// The file or directory.
    path: PathBuf,
    /// What the kernel said.
    source: io::Error,
}

impl CgroupError {
    pub(super) fn new(attempt: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { attempt, path: path.into(), source: source.into() }
    }

    /// The kind of what the kernel said; [`io::ErrorKind::TimedOut`] for a wait that reached its bound.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the group was removed, also while it was being read, or is threaded.
    pub(super) fn is_of_no_group(&self) -> bool {
        let known = [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP];
        Errno::from_io_error(&self.source).is_some_and(|error| known.contains(&error))
    }
}

/// The whole text of a file.
pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|error| CgroupError::new("read", path, error))
}

/// Writes a value in one write, as the kernel wants it. The file must exist.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|error| CgroupError::new("write to", path, error))
}

/// The number that is a file's whole text.
pub(super) fn read_number(path: &Path) -> Result<u64, CgroupError> {
    let text = read(path)?;
    text.trim()
        .parse()
        .map_err(|_| CgroupError::new("read a number from", path, io::Error::from(io::ErrorKind::InvalidData)))
}

/// The number behind `key` in a text of `KEY NUMBER` lines.
pub(super) fn keyed_number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
