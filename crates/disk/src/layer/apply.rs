//! From a stream to a tree.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use drover_model::Digest;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::format::{
    Attributes, CHUNK, END, ENTRY, Kind, LARGEST_FILE, MAGIC, MOST_XATTR_BYTES, VERSION, read_array, read_attributes,
    read_kind, read_path, read_text, read_u32, read_u64,
};
use super::hash::HashingReader;
use super::path::TreePath;
use super::{LayerError, Summary};
use crate::place::{self, Links, open_directory, open_top};

/// The most entries that a stream may have.
const MOST_ENTRIES: u64 = 1 << 32;
/// The most bytes of extended attributes that directories which are not finished may have together.
const MOST_WAITING_BYTES: usize = 16 * MOST_XATTR_BYTES;

const MAKE: &str = "make";

/// Makes the tree that a layer stream describes, in the existing directory `dir`. Give a buffered reader: single fields
/// are read one by one, and nothing behind the stream's end is read.
///
/// What is in `dir` already stays unless the stream has an entry of that path: then a directory is taken over, and
/// anything else is replaced; a directory is never replaced by something else.
///
/// # Errors
/// When the stream ends early, breaks the format or does not have the hash that it claims, or a file cannot be made.
/// What was made until then stays: apply into a directory that is thrown away on failure.
pub fn apply(dir: &Path, input: &mut impl Read) -> Result<Summary, LayerError> {
    let top = open_top(dir).map_err(LayerError::top(dir))?;
    let mut input = HashingReader::new(input);
    if read_array(&mut input)? != MAGIC {
        return Err(LayerError::Malformed("it does not begin like one"));
    }
    if read_u32(&mut input)? != VERSION {
        return Err(LayerError::Malformed("it has a version that is not known here"));
    }
    let mut applier = Applier { top, parent: None, open: Vec::new(), last: None, bytes: 0, buffer: vec![0; CHUNK] };
    let mut entries = 0;
    loop {
        match read_array(&mut input)? {
            [ENTRY] if entries < MOST_ENTRIES => applier.entry(&mut input)?,
            [END] => break,
            _ => return Err(LayerError::Malformed("an entry does not begin like one")),
        }
        entries += 1;
    }
    if entries == 0 || read_u64(&mut input)? != entries {
        return Err(LayerError::Malformed("it has not as many entries as it says"));
    }
    let hash = input.digest();
    if read_array(&mut input)? != hash {
        return Err(LayerError::Malformed("it was damaged on its way"));
    }
    applier.leave(None)?;
    Ok(Summary { entries, bytes: applier.bytes, digest: Digest::from_sha256(hash) })
}

struct Applier {
    top: OwnedFd,
    /// The directory in which the last entry was made.
    parent: Option<(TreePath, OwnedFd)>,
    /// The directories around the last entry with the attributes that they get when all inside is made: earlier, a
    /// default ACL would be inherited, and the time would change again.
    open: Vec<(TreePath, Attributes)>,
    last: Option<TreePath>,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Applier {
    fn entry(&mut self, input: &mut impl Read) -> Result<(), LayerError> {
        let kind = read_kind(input)?;
        let path = read_path(input)?;
        let ascending = match &self.last {
            None => path.is_top() && kind == Kind::Directory,
            Some(last) => *last < path,
        };
        if !ascending {
            return Err(LayerError::Malformed("its entries are not in order"));
        }
        self.leave(Some(&path))?;
        // The directory around it must be in the stream, or a file could take the place of one.
        if !path.is_top() && self.open.last().is_none_or(|(directory, _)| *directory != path.parent()) {
            return Err(LayerError::Malformed("the directory around an entry is missing"));
        }
        self.enter(&path.parent())?;
        self.make(kind, &path, input)?;
        self.last = Some(path);
        Ok(())
    }

    fn enter(&mut self, parent: &TreePath) -> Result<(), LayerError> {
        if self.parent.as_ref().is_none_or(|(path, _)| path != parent) {
            let opened = open_directory(&self.top, parent, OFlags::RDONLY, Links::Refused);
            let opened = opened.map_err(|errno| LayerError::file("open", parent, errno))?;
            self.parent = Some((parent.clone(), opened));
        }
        Ok(())
    }

    /// Finishes the directories that do not hold `next`.
    fn leave(&mut self, next: Option<&TreePath>) -> Result<(), LayerError> {
        while let Some((path, attributes)) = self.open.pop_if(|(path, _)| next.is_none_or(|next| !next.is_within(path)))
        {
            let failed = |errno| LayerError::file("set the attributes of", &path, errno);
            let parent = open_directory(&self.top, &path.parent(), OFlags::RDONLY, Links::Refused).map_err(failed)?;
            place::settle(&parent, path.name(), &attributes, FileType::Directory).map_err(failed)?;
        }
        Ok(())
    }

    fn make(&mut self, kind: Kind, path: &TreePath, input: &mut impl Read) -> Result<(), LayerError> {
        let failed = |errno: Errno| LayerError::file(MAKE, path, errno);
        let name = path.name();
        let Some((_, parent)) = &self.parent else { return Err(failed(Errno::BADF)) };
        if kind == Kind::Hardlink {
            let first = read_path(input)?;
            if first.is_top() || first >= *path {
                return Err(LayerError::Malformed("a hard link does not name an earlier entry"));
            }
            let first_parent = open_directory(&self.top, &first.parent(), OFlags::RDONLY, Links::Refused);
            return place::make_link(first_parent.map_err(failed)?, first.name(), parent, name).map_err(failed);
        }
        let attributes = read_attributes(input)?;
        let file_type = match kind {
            Kind::Directory => {
                if !path.is_top() {
                    place::make_directory(parent, name).map_err(failed)?;
                }
                let waiting: usize = self.open.iter().map(|(_, attributes)| attributes.xattr_bytes()).sum();
                if waiting > MOST_WAITING_BYTES {
                    return Err(LayerError::Malformed("the extended attributes of directories are too large"));
                }
                self.open.push((path.clone(), attributes));
                return Ok(());
            }
            Kind::File => {
                let file = place::make_file(parent, name).map_err(failed)?;
                let written = fill(&file, input, &mut self.buffer, path)?;
                self.bytes += written;
                FileType::RegularFile
            }
            Kind::Symlink => {
                let target = read_text(input)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(LayerError::Malformed("a symbolic link has no valid target"));
                }
                place::make_symlink(parent, name, &target).map_err(failed)?;
                FileType::Symlink
            }
            Kind::CharacterDevice | Kind::BlockDevice => {
                let device = (read_u32(input)?, read_u32(input)?);
                let file_type =
                    if kind == Kind::BlockDevice { FileType::BlockDevice } else { FileType::CharacterDevice };
                place::make_node(parent, name, file_type, device).map_err(failed)?;
                file_type
            }
            Kind::Fifo | Kind::Socket => {
                let file_type = if kind == Kind::Fifo { FileType::Fifo } else { FileType::Socket };
                place::make_node(parent, name, file_type, (0, 0)).map_err(failed)?;
                file_type
            }
            Kind::Hardlink => return Ok(()),
        };
        place::settle(parent, name, &attributes, file_type)
            .map_err(|errno| LayerError::file("set the attributes of", path, errno))
    }
}

/// Fills a new file with its data; gives how many bytes.
fn fill(file: &OwnedFd, input: &mut impl Read, buffer: &mut [u8], path: &TreePath) -> Result<u64, LayerError> {
    let failed = |errno: Errno| LayerError::file("write", path, errno);
    let size = read_u64(input)?;
    if size > LARGEST_FILE {
        return Err(LayerError::Malformed("a file is too large"));
    }
    rustix::fs::ftruncate(file, size).map_err(failed)?;
    let (mut end, mut written) = (0, 0);
    loop {
        let (offset, length) = (read_u64(input)?, read_u32(input)? as usize);
        if length == 0 && offset == size {
            return Ok(written);
        }
        let fits = offset <= size && length as u64 <= size - offset;
        if length == 0 || length > CHUNK || offset < end || !fits {
            return Err(LayerError::Malformed("a piece of data lies where it cannot"));
        }
        input.read_exact(&mut buffer[..length]).map_err(LayerError::Read)?;
        write_at(file, &buffer[..length], offset).map_err(failed)?;
        end = offset + length as u64;
        written += length as u64;
    }
}

/// Writes all of `data` at `offset`.
pub(crate) fn write_at(file: &OwnedFd, data: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(file, &data[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
