//! The layer stream: a tree of files with everything that the kernel keeps about them, in one canonical form.
//!
//! Format, version 1; all numbers little-endian:
//! ```text
//! stream     = "DRVLAYER" u32:version (0x01 entry)* 0x00 u64:entries [32]:sha256 of all bytes before it
//! entry      = u8:kind bytes16:path (attributes, but for a hard link) body
//! attributes = u16:mode u32:uid u32:gid i64:mtime seconds u32:nanoseconds u16:count (bytes16:name bytes32:value)*
//! body       = directory, fifo, socket: nothing; symbolic link: bytes16:target; hard link: bytes16:earlier path;
//!              device: u32:major u32:minor; file: u64:size (u64:offset bytes32:data)* u64:size u32:0
//! ```
//! The first entry is the directory itself, with an empty path. Then entries follow in the order of a walk that visits
//! names in the order of their bytes: strictly ascending when `/` sorts below every other byte. Extended attributes
//! ascend by name. Data are the longest runs of blocks of 4 KiB that hold a byte other than zero, cut at multiples of
//! 256 KiB: everything else is a hole, wherever the file system had one. So the same tree gives the same stream.

mod apply;
pub(crate) mod format;
mod hash;
mod pack;
mod path;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use drover_model::Digest;
use rustix::io::Errno;

pub use apply::apply;
pub(crate) use apply::write_at;
pub(crate) use format::{Attributes, CHUNK};
pub use pack::pack;
pub(crate) use pack::{attributes, names, read_at, runs};
pub(crate) use path::TreePath;

/// What a stream held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Entries, the directory itself among them.
    pub entries: u64,
    /// Bytes of file data, holes not counted.
    pub bytes: u64,
    /// The SHA-256 of the stream up to itself: the name of this tree.
    pub digest: Digest,
}

/// Why a tree could not be packed or applied.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream could not be read.
    #[error("cannot read a stream of files")]
    Read(#[source] io::Error),
    /// The stream could not be written.
    #[error("cannot write a stream of files")]
    Write(#[source] io::Error),
    /// There is no room for what it holds.
    #[error("cannot take in more files")]
    Room(#[source] io::Error),
    /// The stream breaks the format.
    #[error("cannot accept a stream of files: {0}")]
    Malformed(&'static str),
    /// A file could not be read or made.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was attempted, as a verb.
        attempt: &'static str,
        /// The file, from the tree's top.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LayerError {
    /// The top of a tree could not be opened.
    pub(crate) fn top(tree: &Path) -> impl Fn(Errno) -> Self + use<'_> {
        |errno| Self::File { attempt: "open", path: tree.to_owned(), source: errno.into() }
    }

    pub(crate) fn file(attempt: &'static str, path: &TreePath, source: impl Into<io::Error>) -> Self {
        let path = Path::new("/").join(OsStr::from_bytes(path.as_bytes()));
        Self::File { attempt, path, source: source.into() }
    }
}

#[cfg(test)]
mod tests;
