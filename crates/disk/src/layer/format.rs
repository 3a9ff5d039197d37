//! Entries as bytes, and bytes as entries, every length bounded.

use std::io::{self, Read, Write};

use super::LayerError;
use super::path::{LONGEST_PATH, TreePath};
use crate::xattr::Xattrs;

pub(crate) const MAGIC: [u8; 8] = *b"DRVLAYER";
pub(crate) const VERSION: u32 = 1;

/// Data shorter than this that are all zero and start at a multiple of it are a hole.
pub(crate) const BLOCK: usize = 4096;
/// The longest piece of data; pieces do not cross multiples of it.
pub(crate) const CHUNK: usize = 256 << 10;

/// The largest file in bytes; larger than any file system of today takes.
pub(crate) const LARGEST_FILE: u64 = 1 << 60;
/// The most extended attributes of one file: their names must fit 64 KiB (`XATTR_LIST_MAX`).
const MOST_XATTRS: u16 = 4096;
/// The longest name and value of one attribute (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const LONGEST_XATTR_NAME: usize = 255;
const LONGEST_XATTR_VALUE: usize = 64 << 10;
/// The most bytes that the attributes of one file take together.
pub(crate) const MOST_XATTR_BYTES: usize = 1 << 20;

pub(crate) const END: u8 = 0;
pub(crate) const ENTRY: u8 = 1;

/// What the kernel keeps about a file besides its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The permission bits with set-id and sticky, 12 bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, name and value, ascending by name.
    pub xattrs: Xattrs,
}

impl Attributes {
    pub fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// What an entry is, without a file's data, which follow it in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Directory = 1,
    File = 2,
    Symlink = 3,
    Hardlink = 4,
    CharacterDevice = 5,
    BlockDevice = 6,
    Fifo = 7,
    Socket = 8,
}

impl Kind {
    fn parse(byte: u8) -> Result<Self, LayerError> {
        const ALL: [Kind; 8] = [
            Kind::Directory,
            Kind::File,
            Kind::Symlink,
            Kind::Hardlink,
            Kind::CharacterDevice,
            Kind::BlockDevice,
            Kind::Fifo,
            Kind::Socket,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte).ok_or(LayerError::Malformed("an entry is of an unknown kind"))
    }
}

pub(crate) fn write_bytes16(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(bytes)
}

pub(crate) fn write_bytes32(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(bytes)
}

/// The beginning of an entry: mark, kind and path.
pub(crate) fn write_entry(out: &mut impl Write, kind: Kind, path: &TreePath) -> io::Result<()> {
    out.write_all(&[ENTRY, kind as u8])?;
    write_bytes16(out, path.as_bytes())
}

pub(crate) fn write_attributes(out: &mut impl Write, attributes: &Attributes) -> io::Result<()> {
    out.write_all(&(attributes.mode as u16).to_le_bytes())?;
    out.write_all(&attributes.uid.to_le_bytes())?;
    out.write_all(&attributes.gid.to_le_bytes())?;
    out.write_all(&attributes.mtime.0.to_le_bytes())?;
    out.write_all(&attributes.mtime.1.to_le_bytes())?;
    out.write_all(&(attributes.xattrs.len() as u16).to_le_bytes())?;
    for (name, value) in &attributes.xattrs {
        write_bytes16(out, name)?;
        write_bytes32(out, value)?;
    }
    Ok(())
}

pub(crate) fn read_array<const N: usize>(input: &mut impl Read) -> Result<[u8; N], LayerError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(LayerError::Read)?;
    Ok(bytes)
}

pub(crate) fn read_u16(input: &mut impl Read) -> Result<u16, LayerError> {
    read_array(input).map(u16::from_le_bytes)
}

pub(crate) fn read_u32(input: &mut impl Read) -> Result<u32, LayerError> {
    read_array(input).map(u32::from_le_bytes)
}

pub(crate) fn read_u64(input: &mut impl Read) -> Result<u64, LayerError> {
    read_array(input).map(u64::from_le_bytes)
}

/// Reads `length` bytes, at most `longest`, which must be small enough to be taken at once.
fn read_bounded(input: &mut impl Read, length: usize, longest: usize) -> Result<Vec<u8>, LayerError> {
    if length > longest {
        return Err(LayerError::Malformed("a length is beyond its bound"));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).map_err(LayerError::Read)?;
    Ok(bytes)
}

/// A path, or a link's target.
pub(crate) fn read_text(input: &mut impl Read) -> Result<Vec<u8>, LayerError> {
    let length = read_u16(input)?;
    read_bounded(input, usize::from(length), LONGEST_PATH)
}

pub(crate) fn read_path(input: &mut impl Read) -> Result<TreePath, LayerError> {
    TreePath::parse(read_text(input)?).map_err(LayerError::Malformed)
}

pub(crate) fn read_kind(input: &mut impl Read) -> Result<Kind, LayerError> {
    let [byte] = read_array(input)?;
    Kind::parse(byte)
}

pub(crate) fn read_attributes(input: &mut impl Read) -> Result<Attributes, LayerError> {
    let mode = u32::from(read_u16(input)?);
    let (uid, gid) = (read_u32(input)?, read_u32(input)?);
    let mtime = (read_u64(input)?.cast_signed(), read_u32(input)?);
    if mode > 0o7777 || mtime.1 >= 1_000_000_000 || uid == u32::MAX || gid == u32::MAX {
        return Err(LayerError::Malformed("an attribute is out of its range"));
    }
    let count = read_u16(input)?;
    if count > MOST_XATTRS {
        return Err(LayerError::Malformed("an entry has too many extended attributes"));
    }
    let mut attributes = Attributes { mode, uid, gid, mtime, xattrs: Vec::new() };
    for _ in 0..count {
        let length = usize::from(read_u16(input)?);
        let name = read_bounded(input, length, LONGEST_XATTR_NAME)?;
        let length = read_u32(input)? as usize;
        let value = read_bounded(input, length, LONGEST_XATTR_VALUE)?;
        let ascending = attributes.xattrs.last().is_none_or(|(before, _)| *before < name);
        if name.is_empty() || name.contains(&0) || !ascending {
            return Err(LayerError::Malformed("the names of extended attributes are not valid"));
        }
        attributes.xattrs.push((name, value));
        if attributes.xattr_bytes() > MOST_XATTR_BYTES {
            return Err(LayerError::Malformed("the extended attributes of an entry are too large"));
        }
    }
    Ok(attributes)
}
