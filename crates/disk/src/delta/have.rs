//! What the target has of the trees before anything was sent: copies that stayed there, or came there ahead of the move.
//!
//! The target tells of every entry, and of files by blocks, so that of what is still the same nothing crosses. What it says is
//! believed: a target that lies gets a container with files that are wrong, which it could have made wrong itself.
//!
//! All numbers are little-endian; a name is 16 bytes (see [`super::hash`]):
//! ```text
//! having = "DRVHAVE" u8:version tree* 0x00
//! tree   = 0x01 u8:tree entry* 0x00                 the top comes first, every directory before what is in it
//! entry  = 0x01 u8:kind path name file?             its name tells everything but a file's content
//!        | 0x02 path path                           the first is a hard link to the second, which came before
//! file   = u64:size (u32:count u64:first block name*)* u32:0         other blocks are zeros
//! ```

use std::collections::HashMap;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use super::content::Data;
use super::hash::{self, BLOCK, Hash, Hashes, ZEROS};
use super::known::{Content, Known, Look, Node, Number};
use super::receive::Place;
use super::record::Body;
use super::scan::{child, kind_of};
use crate::layer::format::{Kind, LARGEST_FILE, read_array, read_kind, read_path, read_u32, read_u64, write_bytes16};
use crate::layer::{LayerError, TreePath, attributes, names, read_at};
use crate::place::{Links, open_directory, open_top};
use crate::xattr;

const MAGIC: [u8; 8] = *b"DRVHAVE\x01";
/// How much of a file is read at once, in bytes, and its names sent.
const READ: usize = 1 << 20;
const MOST_NAMES: usize = READ / BLOCK;
/// What is believed at most: 64 Mi blocks, 256 GiB of files, take 1 GiB of memory on the source.
const MOST_BLOCKS: u64 = 1 << 26;
/// And so many names of one file: about as many as file systems allow.
const MOST_NAMES_OF_ONE: usize = 1 << 16;
/// And so many entries.
const MOST_ENTRIES: u64 = 1 << 24;
/// And so many bytes of paths, in all: each file's are kept whole.
const MOST_PATH_BYTES: usize = 1 << 30;

/// What the target has of each tree.
#[derive(Debug, Default)]
pub struct Having(Vec<(u8, Known)>);

impl Having {
    /// Of this tree; without it nothing.
    pub(super) fn take(&mut self, tree: usize) -> Known {
        let position = self.0.iter().position(|(number, _)| usize::from(*number) == tree);
        position.map(|position| self.0.swap_remove(position).1).unwrap_or_default()
    }
}

/// Tells the source what is at these places. Of trees without room to put files aside, which are in memory, it does not:
/// nothing of them has stayed.
///
/// # Errors
/// When something cannot be read or told.
pub fn tell(places: &[Place], out: impl Write) -> Result<(), LayerError> {
    let mut out = BufWriter::with_capacity(256 << 10, out);
    out.write_all(&MAGIC).map_err(LayerError::Write)?;
    let on_disk = places.iter().enumerate().filter(|(_, place)| place.aside.is_some());
    for (index, place) in on_disk {
        out.write_all(&[1, index as u8]).map_err(LayerError::Write)?;
        Telling::of(place)?.tell(&mut out)?;
        out.write_all(&[0]).map_err(LayerError::Write)?;
    }
    out.write_all(&[0]).and_then(|()| out.flush()).map_err(LayerError::Write)
}

/// A tree of which the source is told.
struct Telling {
    top: OwnedFd,
    /// The first path of files that have several.
    links: HashMap<u64, TreePath>,
    buffer: Vec<u8>,
}

impl Telling {
    fn of(place: &Place) -> Result<Self, LayerError> {
        let top = open_top(&place.path).map_err(LayerError::top(&place.path))?;
        Ok(Self { top, links: HashMap::new(), buffer: vec![0; READ] })
    }

    fn tell(&mut self, out: &mut impl Write) -> Result<(), LayerError> {
        let top = self.top.try_clone().map_err(|error| LayerError::file("open", &TreePath::top(), error))?;
        self.entry(&top, &TreePath::top(), out)
    }

    fn entry(&mut self, parent: &OwnedFd, path: &TreePath, out: &mut impl Write) -> Result<(), LayerError> {
        let failed = |errno| LayerError::file("look at", path, errno);
        let stat = rustix::fs::statat(parent, path.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        // What does not travel is not ours.
        let Some(kind) = kind_of(&stat) else { return Ok(()) };
        if kind != Kind::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                let link = out.write_all(&[2]).and_then(|()| write_bytes16(out, path.as_bytes()));
                return link.and_then(|()| write_bytes16(out, first.as_bytes())).map_err(LayerError::Write);
            }
            self.links.insert(stat.st_ino, path.clone());
        }
        let body = body(kind, parent, path, &stat).map_err(failed)?;
        let xattrs = xattr::read(parent, path.name()).map_err(failed)?;
        let name = hash::of_entry(kind, &attributes(&stat, xattrs), &body);
        let head = out.write_all(&[1, kind as u8]).and_then(|()| write_bytes16(out, path.as_bytes()));
        head.and_then(|()| out.write_all(&name)).map_err(LayerError::Write)?;
        match kind {
            Kind::File => self.content(parent, path, out),
            Kind::Directory => {
                let directory = open_directory(&self.top, path, OFlags::RDONLY, Links::Refused).map_err(failed)?;
                for name in names(directory.as_fd()).map_err(failed)? {
                    self.entry(&directory, &child(path, &name)?, out)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn content(&mut self, parent: &OwnedFd, path: &TreePath, out: &mut impl Write) -> Result<(), LayerError> {
        let failed = |errno| LayerError::file("read", path, errno);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, path.name(), flags, Mode::empty()).map_err(failed)?;
        let size = rustix::fs::fstat(&file).map_err(failed)?.st_size as u64;
        out.write_all(&size.to_le_bytes()).map_err(LayerError::Write)?;
        let (mut data, mut offset) = (Data::of(&file), 0);
        while offset < size {
            offset = data.from(offset).map_err(failed)? / BLOCK as u64 * BLOCK as u64;
            if offset >= size {
                break;
            }
            let length = (size - offset).min(READ as u64) as usize;
            let read = read_at(&file, &mut self.buffer[..length], offset).map_err(failed)?;
            self.buffer[read..length].fill(0);
            let names = self.buffer[..length].chunks(BLOCK).map(hash::of);
            write_names(out, offset / BLOCK as u64, names).map_err(LayerError::Write)?;
            offset += length as u64;
        }
        out.write_all(&0_u32.to_le_bytes()).map_err(LayerError::Write)
    }
}

/// What an entry's name is made of beside its attributes.
fn body(kind: Kind, parent: &OwnedFd, path: &TreePath, stat: &Stat) -> Result<Vec<u8>, rustix::io::Errno> {
    Ok(match kind {
        Kind::Symlink => rustix::fs::readlinkat(parent, path.name(), Vec::new())?.into_bytes(),
        Kind::Directory | Kind::File => Vec::new(),
        kind => Body::of_node(kind, stat).bytes(),
    })
}

/// Names of blocks that follow each other, at most [`MOST_NAMES`]; none when all are zeros.
fn write_names(out: &mut impl Write, first: u64, names: impl Iterator<Item = Hash>) -> std::io::Result<()> {
    let names: Vec<Hash> = names.collect();
    if names.iter().all(|name| *name == ZEROS) {
        return Ok(());
    }
    out.write_all(&(names.len() as u32).to_le_bytes())?;
    out.write_all(&first.to_le_bytes())?;
    out.write_all(names.as_flattened())
}

/// Hears what the target has, to the end of the stream.
///
/// # Errors
/// When it ends early or breaks the format.
pub fn hear(input: impl Read) -> Result<Having, LayerError> {
    let mut input = BufReader::with_capacity(256 << 10, input);
    if read_array(&mut input)? != MAGIC {
        return Err(LayerError::Malformed("what the target has begins with something else"));
    }
    let mut hearing = Hearing { blocks: 0, entries: 0, paths: 0 };
    let mut having = Having::default();
    while read_array(&mut input)? != [0] {
        let [tree] = read_array(&mut input)?;
        if having.0.iter().any(|(other, _)| *other == tree) {
            return Err(LayerError::Malformed("the target tells twice of a tree"));
        }
        having.0.push((tree, hearing.tree(&mut input)?));
    }
    // What stands behind the end is read over, or its sender would wait for ever.
    std::io::copy(&mut input, &mut std::io::sink()).map_err(LayerError::Read)?;
    Ok(having)
}

/// How much was told by now.
struct Hearing {
    blocks: u64,
    entries: u64,
    paths: usize,
}

impl Hearing {
    fn path(&mut self, input: &mut impl Read) -> Result<TreePath, LayerError> {
        let path = read_path(input)?;
        self.paths += path.as_bytes().len();
        if self.paths > MOST_PATH_BYTES {
            return Err(LayerError::Malformed("the target tells of too many files"));
        }
        Ok(path)
    }

    fn tree(&mut self, input: &mut impl Read) -> Result<Known, LayerError> {
        let mut known = Known::default();
        loop {
            let [mark] = read_array(input)?;
            if mark == 0 {
                return Ok(known);
            }
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return Err(LayerError::Malformed("the target tells of too many files"));
            }
            match mark {
                1 => self.entry(&mut known, input)?,
                2 => link(&mut known, self.path(input)?, &read_path(input)?)?,
                _ => return Err(LayerError::Malformed("the target tells of something unknown")),
            }
        }
    }

    fn entry(&mut self, known: &mut Known, input: &mut impl Read) -> Result<(), LayerError> {
        let (kind, path) = (read_kind(input)?, self.path(input)?);
        let name = read_array(input)?;
        place(known, &path, kind)?;
        let content = if kind == Kind::Directory {
            Content::Directory(Default::default())
        } else {
            let number = known.told_file(kind);
            if kind == Kind::File {
                self.content(known, number, input)?;
            }
            Content::File(number)
        };
        known.put_new(&path, Node { look: Look::NEVER, kind, attributes: name, content });
        Ok(())
    }

    fn content(&mut self, known: &mut Known, number: Number, input: &mut impl Read) -> Result<(), LayerError> {
        let malformed = Err(LayerError::Malformed("what the target has of a file makes no sense"));
        let size = read_u64(input)?;
        if size > LARGEST_FILE {
            return malformed;
        }
        let (mut hashes, mut from) = (Hashes::default(), 0);
        loop {
            let count = read_u32(input)? as usize;
            if count == 0 {
                break;
            }
            let first = read_u64(input)?;
            let end = first.saturating_add(count as u64);
            self.blocks += count as u64;
            if count > MOST_NAMES || first < from || end > size.div_ceil(BLOCK as u64) || self.blocks > MOST_BLOCKS {
                return malformed;
            }
            for block in first..end {
                hashes.set(block, read_array(input)?);
            }
            from = end;
        }
        if let Some(file) = known.files.get_mut(&number) {
            (file.size, file.hashes) = (size, hashes);
        }
        Ok(())
    }
}

/// Sees to it that there is a place for an entry, and nothing in it.
fn place(known: &Known, path: &TreePath, kind: Kind) -> Result<(), LayerError> {
    let fits = if path.is_top() {
        known.top.is_none() && kind == Kind::Directory
    } else {
        let parent = known.node(&path.parent());
        let is_directory = parent.is_some_and(|node| matches!(node.content, Content::Directory(_)));
        is_directory && known.node(path).is_none() && kind != Kind::Hardlink
    };
    if fits { Ok(()) } else { Err(LayerError::Malformed("the target tells of an entry where none can be")) }
}

fn link(known: &mut Known, path: TreePath, first: &TreePath) -> Result<(), LayerError> {
    let malformed = || LayerError::Malformed("the target tells of a link to nothing");
    let node = known.node(first).ok_or_else(malformed)?;
    let Content::File(number) = node.content else { return Err(malformed()) };
    if known.files.get(&number).is_none_or(|file| file.paths.len() >= MOST_NAMES_OF_ONE) {
        return Err(LayerError::Malformed("the target tells of a file with too many names"));
    }
    let node = Node { look: Look::NEVER, kind: node.kind, attributes: node.attributes, content: Content::File(number) };
    place(known, &path, node.kind)?;
    known.put_new(&path, node);
    Ok(())
}
