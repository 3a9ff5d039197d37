//! From a tree to a stream.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use drover_model::Digest;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::format::{
    Attributes, BLOCK, CHUNK, END, Kind, MAGIC, VERSION, write_attributes, write_bytes16, write_bytes32, write_entry,
};
use super::hash::HashingWriter;
use super::path::TreePath;
use super::{LayerError, Summary};
use crate::place::{Links, open_directory, open_top};
use crate::xattr::{self, Xattrs};

const READ: &str = "read";

/// Writes the tree at `dir` as a layer stream. Nothing is read through a symbolic link, and other file systems that are
/// mounted inside appear as what is mounted.
///
/// A tree that changes meanwhile gives a valid stream in which each file is as it was at some moment; one that vanishes
/// is left out.
///
/// # Errors
/// When something cannot be read or the output cannot be written.
pub fn pack(dir: &Path, out: &mut impl Write) -> Result<Summary, LayerError> {
    let top = open_top(dir).map_err(LayerError::top(dir))?;
    let out = HashingWriter::new(BufWriter::with_capacity(CHUNK, out));
    let mut packer = Packer { top, out, seen: HashMap::new(), entries: 0, bytes: 0, buffer: vec![0; CHUNK] };
    packer.write(|out| {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())
    })?;
    packer.walk()?;
    packer.finish()
}

struct Packer<W: Write> {
    top: OwnedFd,
    out: HashingWriter<BufWriter<W>>,
    /// Where a file with several names was met first, by device and inode.
    seen: HashMap<(u64, u64), TreePath>,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    fn write(
        &mut self,
        write: impl FnOnce(&mut HashingWriter<BufWriter<W>>) -> io::Result<()>,
    ) -> Result<(), LayerError> {
        write(&mut self.out).map_err(LayerError::Write)
    }

    fn finish(mut self) -> Result<Summary, LayerError> {
        let entries = self.entries;
        self.write(|out| {
            out.write_all(&[END])?;
            out.write_all(&entries.to_le_bytes())
        })?;
        let digest = self.out.digest();
        self.write(|out| {
            out.write_all(&digest)?;
            out.flush()
        })?;
        Ok(Summary { entries, bytes: self.bytes, digest: Digest::from_sha256(digest) })
    }

    fn walk(&mut self) -> Result<(), LayerError> {
        // The next path is on top, so names are pushed in descending order.
        let mut ahead = vec![TreePath::top()];
        let opened = self.open(&TreePath::top());
        let opened = opened.map_err(|errno| LayerError::file("open", &TreePath::top(), errno))?;
        let mut parent = (TreePath::top(), opened);
        while let Some(path) = ahead.pop() {
            if parent.0 != path.parent() {
                parent = match self.open(&path.parent()) {
                    Err(Errno::NOENT) => continue,
                    result => {
                        let opened = result.map_err(|errno| LayerError::file("open", &path.parent(), errno))?;
                        (path.parent(), opened)
                    }
                };
            }
            match self.entry(&parent.1, &path) {
                Ok(Some(names)) => {
                    for name in names.into_iter().rev() {
                        let child = path.child(&name);
                        ahead.push(child.map_err(|_| LayerError::file("name", &path, Errno::NAMETOOLONG))?);
                    }
                }
                Ok(None) => {}
                Err(LayerError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound && !path.is_top() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn open(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        open_directory(&self.top, path, OFlags::RDONLY, Links::Refused)
    }

    /// Writes one entry; of a directory it gives the names inside, ascending. Everything that can find the entry gone
    /// comes before the first byte is written.
    fn entry(&mut self, parent: &OwnedFd, path: &TreePath) -> Result<Option<Vec<Vec<u8>>>, LayerError> {
        let failed = |errno: Errno| LayerError::file(READ, path, errno);
        let name = path.name();
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() || stat.st_nlink < 2 {
            return self.node(parent, path, &stat);
        }
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.seen.get(&identity).cloned() {
            self.entries += 1;
            self.write(|out| {
                write_entry(out, Kind::Hardlink, path)?;
                write_bytes16(out, first.as_bytes())
            })?;
            return Ok(None);
        }
        let names = self.node(parent, path, &stat)?;
        self.seen.insert(identity, path.clone());
        Ok(names)
    }

    /// Writes an entry that is no hard link.
    fn node(&mut self, parent: &OwnedFd, path: &TreePath, stat: &Stat) -> Result<Option<Vec<Vec<u8>>>, LayerError> {
        let failed = |errno: Errno| LayerError::file(READ, path, errno);
        let name = path.name();
        let attributes = attributes(stat, xattr::read(parent, name).map_err(failed)?);
        let simple = |kind| (kind, Vec::new());
        let device = || {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            [major.to_le_bytes(), minor.to_le_bytes()].concat()
        };
        let (kind, body) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = self.open(path).map_err(failed)?;
                let names = names(directory.as_fd()).map_err(failed)?;
                self.begin(Kind::Directory, path, &attributes)?;
                return Ok(Some(names));
            }
            FileType::RegularFile => return self.file(parent, path, attributes).map(|()| None),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new()).map_err(failed)?;
                let mut body = Vec::new();
                write_bytes16(&mut body, target.as_bytes()).map_err(LayerError::Write)?;
                (Kind::Symlink, body)
            }
            FileType::CharacterDevice => (Kind::CharacterDevice, device()),
            FileType::BlockDevice => (Kind::BlockDevice, device()),
            FileType::Fifo => simple(Kind::Fifo),
            FileType::Socket => simple(Kind::Socket),
            _ => return Err(LayerError::file("name the kind of", path, Errno::INVAL)),
        };
        self.begin(kind, path, &attributes)?;
        self.write(|out| out.write_all(&body))?;
        Ok(None)
    }

    fn begin(&mut self, kind: Kind, path: &TreePath, attributes: &Attributes) -> Result<(), LayerError> {
        self.entries += 1;
        self.write(|out| {
            write_entry(out, kind, path)?;
            write_attributes(out, attributes)
        })
    }

    fn file(&mut self, parent: &OwnedFd, path: &TreePath, mut attributes: Attributes) -> Result<(), LayerError> {
        let failed = |errno: Errno| LayerError::file(READ, path, errno);
        // Should a fifo have taken the file's place, opening it must not wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, path.name(), flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(failed(Errno::STALE));
        }
        let xattrs = std::mem::take(&mut attributes.xattrs);
        self.begin(Kind::File, path, &self::attributes(&stat, xattrs))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.write(|out| out.write_all(&size.to_le_bytes()))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.data(&file, size, &mut buffer, path);
        self.buffer = buffer;
        written?;
        self.write(|out| {
            out.write_all(&size.to_le_bytes())?;
            out.write_all(&0u32.to_le_bytes())
        })
    }

    fn data(&mut self, file: &OwnedFd, size: u64, buffer: &mut [u8], path: &TreePath) -> Result<(), LayerError> {
        let failed = |errno: Errno| LayerError::file(READ, path, errno);
        let mut offset = 0;
        while offset < size {
            offset = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                result => result.map_err(failed)?,
            };
            offset -= offset % CHUNK as u64;
            if offset >= size {
                break;
            }
            let length = (size - offset).min(CHUNK as u64) as usize;
            let read = read_at(file, &mut buffer[..length], offset).map_err(failed)?;
            // The file was cut off meanwhile: what is missing counts as a hole.
            buffer[read..length].fill(0);
            for (start, end) in runs(&buffer[..length]) {
                self.bytes += (end - start) as u64;
                self.write(|out| {
                    out.write_all(&(offset + start as u64).to_le_bytes())?;
                    write_bytes32(out, &buffer[start..end])
                })?;
            }
            offset += length as u64;
        }
        Ok(())
    }
}

pub(crate) fn attributes(stat: &Stat, xattrs: Xattrs) -> Attributes {
    let mode = stat.st_mode & 0o7777;
    // The nanoseconds' type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let mtime = (stat.st_mtime as i64, stat.st_mtime_nsec as u32);
    Attributes { mode, uid: stat.st_uid, gid: stat.st_gid, mtime, xattrs }
}

pub(crate) fn names(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Fills the buffer from `offset` on; shorter at the end of the file.
pub(crate) fn read_at(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(&file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

/// The longest runs of blocks that are not all zero, as (start, end).
pub(crate) fn runs(data: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    for block in data.chunks(BLOCK) {
        let end = start + block.len();
        if block.iter().any(|byte| *byte != 0) {
            match runs.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => runs.push((start, end)),
            }
        }
        start = end;
    }
    runs
}
