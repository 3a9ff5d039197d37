//! Records as bytes, and bytes as records, every length bounded.

use std::io::{self, Read, Write};

use rustix::fs::Stat;

use super::hash::Hash;
use crate::layer::format::{
    Attributes, CHUNK, Kind, LARGEST_FILE, read_array, read_attributes, read_kind, read_path, read_text, read_u16, read_u32,
    read_u64, write_attributes, write_bytes16, write_bytes32,
};
use crate::layer::{LayerError, TreePath};

pub(super) const MAGIC: [u8; 8] = *b"DRVDELTA";
pub(super) const VERSION: u32 = 1;

/// The longest piece of a file's data.
pub(super) const LONGEST_DATA: usize = CHUNK;

/// The longest piece that is copied.
pub(super) const LONGEST_COPY: usize = 4 << 20;

/// What is made that is no file, with what its kind needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Directory,
    Symlink(Vec<u8>),
    /// A device, a fifo or a socket; the numbers are zero for the latter two.
    Node(Kind, (u32, u32)),
}

impl Body {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Directory => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::Node(kind, _) => *kind,
        }
    }

    /// Of what is there.
    pub fn of_node(kind: Kind, stat: &Stat) -> Self {
        let device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
        let numbers = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        Self::Node(kind, if device { numbers } else { (0, 0) })
    }

    /// As the name of an entry has it.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Directory => Vec::new(),
            Self::Symlink(target) => target.clone(),
            Self::Node(_, (major, minor)) => [major.to_le_bytes(), minor.to_le_bytes()].concat(),
        }
    }
}

/// A record; a file's data are read by whoever takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Round,
    End,
    Tree(u8),
    Remove(TreePath),
    Aside(TreePath, u64),
    Back(TreePath, u64),
    Link(TreePath, TreePath),
    Make(TreePath, Attributes, Body),
    File(TreePath, u64),
    /// So many bytes from this offset on, which follow.
    Data(u64, usize),
    Hole(u64, u64),
    Attributes(Attributes),
    /// At this offset write a piece of a file of a layer.
    Copy(u64, Copied),
}

/// A piece of a file of a layer of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copied {
    pub base: u16,
    pub path: TreePath,
    pub from: u64,
    pub length: u32,
    /// What its content is called.
    pub name: Hash,
}

impl Record {
    /// Writes it; `Data` is written by [`write_data`].
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let path = |out: &mut dyn Write, code: u8, path: &TreePath| -> io::Result<()> {
            out.write_all(&[code])?;
            write_bytes16(&mut { out }, path.as_bytes())
        };
        match self {
            Self::Round => out.write_all(&[1]),
            Self::End => out.write_all(&[2]),
            Self::Tree(tree) => out.write_all(&[3, *tree]),
            Self::Remove(at) => path(out, 4, at),
            Self::Aside(at, slot) => {
                path(out, 5, at)?;
                out.write_all(&slot.to_le_bytes())
            }
            Self::Back(at, slot) => {
                path(out, 6, at)?;
                out.write_all(&slot.to_le_bytes())
            }
            Self::Link(at, first) => {
                path(out, 7, at)?;
                write_bytes16(out, first.as_bytes())
            }
            Self::Make(at, attributes, body) => {
                out.write_all(&[8, body.kind() as u8])?;
                write_bytes16(out, at.as_bytes())?;
                write_attributes(out, attributes)?;
                match body {
                    Body::Symlink(target) => write_bytes16(out, target),
                    Body::Node(Kind::CharacterDevice | Kind::BlockDevice, _) => out.write_all(&body.bytes()),
                    Body::Directory | Body::Node(..) => Ok(()),
                }
            }
            Self::File(at, size) => {
                path(out, 9, at)?;
                out.write_all(&size.to_le_bytes())
            }
            Self::Data(..) => Err(io::ErrorKind::InvalidInput.into()),
            Self::Hole(offset, length) => {
                out.write_all(&[0x0b])?;
                out.write_all(&offset.to_le_bytes())?;
                out.write_all(&length.to_le_bytes())
            }
            Self::Attributes(attributes) => {
                out.write_all(&[0x0c])?;
                write_attributes(out, attributes)
            }
            Self::Copy(offset, Copied { base, path, from, length, name }) => {
                out.write_all(&[0x0d])?;
                out.write_all(&offset.to_le_bytes())?;
                out.write_all(&base.to_le_bytes())?;
                write_bytes16(out, path.as_bytes())?;
                out.write_all(&from.to_le_bytes())?;
                out.write_all(&length.to_le_bytes())?;
                out.write_all(name)
            }
        }
    }

    /// Reads the next one.
    pub fn read(input: &mut impl Read) -> Result<Self, LayerError> {
        let [code] = read_array(input)?;
        Ok(match code {
            1 => Self::Round,
            2 => Self::End,
            3 => Self::Tree(read_array::<1>(input)?[0]),
            4 => Self::Remove(read_path(input)?),
            5 => Self::Aside(read_path(input)?, read_u64(input)?),
            6 => Self::Back(read_path(input)?, read_u64(input)?),
            7 => Self::Link(read_path(input)?, read_path(input)?),
            8 => {
                let kind = read_kind(input)?;
                let (path, attributes) = (read_path(input)?, read_attributes(input)?);
                Self::Make(path, attributes, read_body(kind, input)?)
            }
            9 => Self::File(read_path(input)?, bounded(read_u64(input)?)?),
            0x0a => {
                let (offset, length) = (bounded(read_u64(input)?)?, read_u32(input)? as usize);
                if length > LONGEST_DATA {
                    return Err(LayerError::Malformed("a piece of data is too long"));
                }
                Self::Data(offset, length)
            }
            0x0b => Self::Hole(bounded(read_u64(input)?)?, bounded(read_u64(input)?)?),
            0x0c => Self::Attributes(read_attributes(input)?),
            0x0d => {
                let (offset, base, path) = (bounded(read_u64(input)?)?, read_u16(input)?, read_path(input)?);
                let (from, length, name) = (bounded(read_u64(input)?)?, read_u32(input)?, read_array(input)?);
                if length as usize > LONGEST_COPY {
                    return Err(LayerError::Malformed("a piece that is to be copied is too long"));
                }
                Self::Copy(offset, Copied { base, path, from, length, name })
            }
            _ => return Err(LayerError::Malformed("a record is of an unknown kind")),
        })
    }
}

fn read_body(kind: Kind, input: &mut impl Read) -> Result<Body, LayerError> {
    Ok(match kind {
        Kind::Directory => Body::Directory,
        Kind::Symlink => {
            let target = read_text(input)?;
            if target.is_empty() || target.contains(&0) {
                return Err(LayerError::Malformed("a symbolic link has no valid target"));
            }
            Body::Symlink(target)
        }
        Kind::CharacterDevice | Kind::BlockDevice => Body::Node(kind, (read_u32(input)?, read_u32(input)?)),
        Kind::Fifo | Kind::Socket => Body::Node(kind, (0, 0)),
        Kind::File | Kind::Hardlink => return Err(LayerError::Malformed("an entry is made as what it is not")),
    })
}

fn bounded(number: u64) -> Result<u64, LayerError> {
    if number > LARGEST_FILE { Err(LayerError::Malformed("a file is too large")) } else { Ok(number) }
}

/// Writes a piece of a file's data, at most [`LONGEST_DATA`] of it.
pub(super) fn write_data(out: &mut impl Write, offset: u64, data: &[u8]) -> io::Result<()> {
    out.write_all(&[0x0a])?;
    out.write_all(&offset.to_le_bytes())?;
    write_bytes32(out, data)
}
