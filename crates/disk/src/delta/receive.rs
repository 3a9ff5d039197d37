//! The target's end: trees become as the source says.
//!
//! Nothing is written outside of them, whatever comes: paths are checked, every directory is opened below its tree's top
//! without following a link, and what is put aside is called by a number.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::blocks::Unblocked;
use super::chunks::Bases;
use super::hash::Naming;
use super::record::{Body, Copied, LONGEST_DATA, MAGIC, Record, VERSION};
use super::source::Sent;
use crate::layer::format::{Attributes, Kind, read_array, read_u32};
use crate::layer::{LayerError, TreePath, read_at, write_at};
use crate::place::{self, Links, open_directory, open_top};

/// Where a tree arrives.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its top, which exists.
    pub path: PathBuf,
    /// An empty directory on the same file system, if files may be put aside.
    pub aside: Option<PathBuf>,
}

/// Makes the trees at these places as the stream says; `stored` is called when all of a round has arrived. `bases` gives the
/// layers of the container's image, in the order in which the source has them, once they are needed. `room` is asked before
/// so many bytes are written at one of the places, for a stream that unpacks to much is short.
///
/// # Errors
/// When the stream ends early or breaks the format, something cannot be made, or there is no room. What was made until then
/// stays.
pub fn receive(
    places: &[Place],
    bases: impl Fn() -> Vec<PathBuf>,
    input: impl Read,
    room: impl FnMut(&Place, u64) -> io::Result<()>,
    mut stored: impl FnMut(),
) -> Result<Sent, LayerError> {
    let mut input = Unblocked::new(input).map_err(LayerError::Read)?;
    if read_array(input.raw())? != MAGIC {
        return Err(LayerError::Malformed("it does not begin like one"));
    }
    if read_u32(input.raw())? != VERSION {
        return Err(LayerError::Malformed("it has a version that is not known here"));
    }
    let trees = places.iter().map(Receiving::open).collect::<Result<Vec<_>, _>>()?;
    let (bases, buffer, sent) = (Bases::new(bases), vec![0; LONGEST_DATA], Sent::default());
    let mut receiver = Receiver { places, trees, bases, room, tree: 0, buffer, sent };
    loop {
        match Record::read(&mut input)? {
            Record::Round => {
                receiver.finish_round()?;
                stored();
            }
            Record::End => {
                receiver.finish_round()?;
                return Ok(receiver.sent);
            }
            Record::Tree(tree) => {
                receiver.finish_file()?;
                if usize::from(tree) >= receiver.trees.len() {
                    return Err(LayerError::Malformed("it is of a tree that was not offered"));
                }
                receiver.tree = usize::from(tree);
            }
            record => receiver.take(record, &mut input)?,
        }
    }
}

/// What an entry takes of a file system beside its content, in bytes: an inode.
const ENTRY: u64 = 256;

struct Receiver<'a, F, R> {
    places: &'a [Place],
    trees: Vec<Receiving>,
    bases: Bases<F>,
    room: R,
    tree: usize,
    buffer: Vec<u8>,
    sent: Sent,
}

/// A tree that is being made.
struct Receiving {
    top: OwnedFd,
    aside: Option<OwnedFd>,
    /// The directory that was opened last.
    parent: Option<(TreePath, OwnedFd)>,
    file: Option<Filling>,
}

/// A file that is being written.
struct Filling {
    path: TreePath,
    file: OwnedFd,
    size: u64,
}

impl Receiving {
    fn open(place: &Place) -> Result<Self, LayerError> {
        let open = |path: &Path| open_top(path).map_err(LayerError::top(path));
        let aside = place.aside.as_deref().map(open).transpose()?;
        Ok(Self { top: open(&place.path)?, aside, parent: None, file: None })
    }

    /// Opens the directory around an entry.
    fn enter(&mut self, path: &TreePath) -> Result<&OwnedFd, LayerError> {
        let directory = path.parent();
        if self.parent.as_ref().is_none_or(|(open, _)| *open != directory) {
            let opened = open_directory(&self.top, &directory, OFlags::RDONLY, Links::Refused);
            let opened = opened.map_err(|errno| LayerError::file("open", &directory, errno))?;
            return Ok(&self.parent.insert((directory, opened)).1);
        }
        match &self.parent {
            Some((_, opened)) => Ok(opened),
            None => Err(LayerError::file("open", &directory, Errno::BADF)),
        }
    }

    fn aside(&self, path: &TreePath) -> Result<&OwnedFd, LayerError> {
        self.aside.as_ref().ok_or_else(|| LayerError::file("put aside", path, Errno::NOTSUP))
    }
}

impl<F: Fn() -> Vec<PathBuf>, R: FnMut(&Place, u64) -> io::Result<()>> Receiver<'_, F, R> {
    fn take(&mut self, record: Record, input: &mut impl Read) -> Result<(), LayerError> {
        let needed = match &record {
            Record::Data(_, length) => *length as u64,
            Record::Copy(_, copied) => copied.length.into(),
            // A hole that has to be filled is asked for when that is known.
            Record::Hole(..) | Record::Attributes(_) => 0,
            _ => ENTRY,
        };
        (self.room)(&self.places[self.tree], needed).map_err(LayerError::Room)?;
        let goes_on = matches!(record, Record::Data(..) | Record::Copy(..) | Record::Hole(..) | Record::Attributes(_));
        if !goes_on {
            self.finish_file()?;
            self.sent.entries += 1;
        }
        let tree = &mut self.trees[self.tree];
        match record {
            Record::Data(offset, length) => {
                input.read_exact(&mut self.buffer[..length]).map_err(LayerError::Read)?;
                self.sent.content += length as u64;
                return filling(tree)?.write(offset, &self.buffer[..length]);
            }
            Record::Copy(offset, copied) => {
                let file = self.bases.open(copied.base, &copied.path)?;
                return filling(tree)?.copy(offset, &copied, file, &mut self.buffer);
            }
            Record::Hole(offset, length) => {
                if !filling(tree)?.make_hole(offset, length)? {
                    (self.room)(&self.places[self.tree], length).map_err(LayerError::Room)?;
                    filling(&self.trees[self.tree])?.fill_hole(offset, length)?;
                }
                return Ok(());
            }
            Record::Attributes(attributes) => {
                let path = filling(tree)?.path.clone();
                tree.file = None;
                return set(tree, &path, &attributes, FileType::RegularFile);
            }
            _ => {}
        }
        match record {
            Record::Remove(path) => remove(tree, &path),
            Record::Aside(path, slot) => {
                named(&path)?;
                let parent = tree.enter(&path)?.try_clone().map_err(failed("put aside", &path))?;
                let stat = rustix::fs::statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW);
                let stat = stat.map_err(|errno| LayerError::file("put aside", &path, errno))?;
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    return Err(LayerError::Malformed("it would put a directory aside"));
                }
                let moved = rustix::fs::renameat(&parent, path.name(), tree.aside(&path)?, slot.to_string());
                moved.map_err(|errno| LayerError::file("put aside", &path, errno))
            }
            Record::Back(path, slot) => {
                named(&path)?;
                let parent = tree.enter(&path)?.try_clone().map_err(failed("put back", &path))?;
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                let aside = tree.aside(&path)?;
                let moved = rustix::fs::renameat_with(aside, slot.to_string(), &parent, path.name(), flags);
                moved.map_err(|errno| LayerError::file("put back", &path, errno))
            }
            Record::Link(path, first) => {
                named(&path)?;
                named(&first)?;
                let failed = |errno| LayerError::file("link", &path, errno);
                let from =
                    open_directory(&tree.top, &first.parent(), OFlags::RDONLY, Links::Refused).map_err(failed)?;
                place::make_link(from, first.name(), tree.enter(&path)?, path.name()).map_err(failed)
            }
            Record::Make(path, attributes, body) => make(tree, &path, &attributes, &body),
            Record::File(path, size) => {
                named(&path)?;
                let file = open_file(tree.enter(&path)?, &path)?;
                rustix::fs::ftruncate(&file, size).map_err(|errno| LayerError::file("write", &path, errno))?;
                tree.file = Some(Filling { path, file, size });
                Ok(())
            }
            // Taken before.
            _ => Err(LayerError::Malformed("a record is where it cannot be")),
        }
    }

    /// A file ends with its attributes.
    fn finish_file(&mut self) -> Result<(), LayerError> {
        match self.trees[self.tree].file {
            None => Ok(()),
            Some(_) => Err(LayerError::Malformed("a file has no attributes")),
        }
    }

    /// Whatever was put aside and not put back is gone.
    fn finish_round(&mut self) -> Result<(), LayerError> {
        self.finish_file()?;
        for aside in self.trees.iter().filter_map(|tree| tree.aside.as_ref()) {
            let failed = |errno: Errno| LayerError::file("remove what was put aside of", &TreePath::top(), errno);
            for entry in Dir::read_from(aside).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name().to_owned();
                if name.as_bytes() != b"." && name.as_bytes() != b".." {
                    rustix::fs::unlinkat(aside, name, AtFlags::empty()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }
}

impl Filling {
    fn fits(&self, offset: u64, length: u64) -> Result<(), LayerError> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size) {
            Ok(())
        } else {
            Err(LayerError::Malformed("a piece of data lies where it cannot"))
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), LayerError> {
        self.fits(offset, data.len() as u64)?;
        write_at(&self.file, data, offset).map_err(|errno| LayerError::file("write", &self.path, errno))
    }

    /// Copies a piece that is here already, and sees to it that it is what it should be.
    fn copy(&self, offset: u64, copied: &Copied, file: &File, buffer: &mut [u8]) -> Result<(), LayerError> {
        self.fits(offset, u64::from(copied.length))?;
        let failed = |errno| LayerError::file("read", &copied.path, errno);
        let (mut name, mut done) = (Naming::default(), 0);
        while done < u64::from(copied.length) {
            let length = (u64::from(copied.length) - done).min(buffer.len() as u64) as usize;
            let read = read_at(file, &mut buffer[..length], copied.from + done).map_err(failed)?;
            if read == 0 {
                break;
            }
            name.add(&buffer[..read]);
            write_at(&self.file, &buffer[..read], offset + done)
                .map_err(|errno| LayerError::file("write", &self.path, errno))?;
            done += read as u64;
        }
        if name.name() != copied.name {
            return Err(LayerError::Malformed("a layer of the image is not what it is on the source"));
        }
        Ok(())
    }

    /// Whether the file system has holes.
    fn make_hole(&self, offset: u64, length: u64) -> Result<bool, LayerError> {
        self.fits(offset, length)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(LayerError::file("write", &self.path, errno)),
        }
    }

    /// Writes zeros, where there are no holes.
    fn fill_hole(&self, offset: u64, length: u64) -> Result<(), LayerError> {
        let zeros = vec![0; LONGEST_DATA];
        for start in (0..length).step_by(LONGEST_DATA) {
            let piece = (length - start).min(LONGEST_DATA as u64) as usize;
            let written = write_at(&self.file, &zeros[..piece], offset + start);
            written.map_err(|errno| LayerError::file("write", &self.path, errno))?;
        }
        Ok(())
    }
}

fn filling(tree: &Receiving) -> Result<&Filling, LayerError> {
    tree.file.as_ref().ok_or(LayerError::Malformed("data belong to no file"))
}

fn failed<'a>(attempt: &'static str, path: &'a TreePath) -> impl Fn(io::Error) -> LayerError + use<'a> {
    move |error| LayerError::file(attempt, path, error)
}

/// The top is always a directory, and always there.
fn named(path: &TreePath) -> Result<(), LayerError> {
    if path.is_top() { Err(LayerError::Malformed("it would do away with the top of a tree")) } else { Ok(()) }
}

fn open_file(parent: &OwnedFd, path: &TreePath) -> Result<OwnedFd, LayerError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = |errno| LayerError::file("open", path, errno);
    let file = match rustix::fs::openat(parent, path.name(), flags, Mode::empty()) {
        Err(Errno::NOENT) => return place::make_file(parent, path.name()).map_err(failed),
        result => result.map_err(failed)?,
    };
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(failed(Errno::INVAL));
    }
    Ok(file)
}

fn make(tree: &mut Receiving, path: &TreePath, attributes: &Attributes, body: &Body) -> Result<(), LayerError> {
    let failed = |errno| LayerError::file("make", path, errno);
    let kind = match body {
        Body::Directory => {
            if !path.is_top() {
                place::make_directory(tree.enter(path)?, path.name()).map_err(failed)?;
            }
            FileType::Directory
        }
        Body::Symlink(target) => {
            named(path)?;
            let parent = tree.enter(path)?;
            // What is so already may have other names, and its directory shall not change.
            let present = rustix::fs::readlinkat(parent, path.name(), Vec::new());
            if !present.is_ok_and(|present| present.as_bytes() == target.as_slice()) {
                place::make_symlink(parent, path.name(), target).map_err(failed)?;
            }
            FileType::Symlink
        }
        Body::Node(kind, device) => {
            named(path)?;
            let kind = match kind {
                Kind::CharacterDevice => FileType::CharacterDevice,
                Kind::BlockDevice => FileType::BlockDevice,
                Kind::Fifo => FileType::Fifo,
                _ => FileType::Socket,
            };
            let parent = tree.enter(path)?;
            let number = rustix::fs::makedev(device.0, device.1);
            let present = rustix::fs::statat(parent, path.name(), AtFlags::SYMLINK_NOFOLLOW);
            if !present.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == number) {
                place::make_node(parent, path.name(), kind, *device).map_err(failed)?;
            }
            kind
        }
    };
    set(tree, path, attributes, kind)
}

fn set(tree: &mut Receiving, path: &TreePath, attributes: &Attributes, kind: FileType) -> Result<(), LayerError> {
    let parent = tree.enter(path)?;
    place::settle_anew(parent, path.name(), attributes, kind)
        .map_err(|errno| LayerError::file("set the attributes of", path, errno))
}

fn remove(tree: &mut Receiving, path: &TreePath) -> Result<(), LayerError> {
    named(path)?;
    let failed = |errno| LayerError::file("remove", path, errno);
    let parent = tree.enter(path)?;
    match rustix::fs::unlinkat(parent, path.name(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            let parent = parent.try_clone().map_err(self::failed("remove", path))?;
            // One below it may be held open by its path.
            tree.parent = None;
            remove_directory(&parent, path.name()).map_err(failed)
        }
        Err(errno) => Err(failed(errno)),
    }
}

/// How deep directories are removed: a path has no more names.
const DEEPEST: usize = 2048;

/// Removes a directory with all in it, without following a link.
fn remove_directory(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    fn empty(directory: &OwnedFd, depth: usize) -> Result<(), Errno> {
        if depth == DEEPEST {
            return Err(Errno::NAMETOOLONG);
        }
        for name in crate::layer::names(directory)? {
            match rustix::fs::unlinkat(directory, name.as_slice(), AtFlags::empty()) {
                Err(Errno::ISDIR) => {
                    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
                    empty(&rustix::fs::openat(directory, name.as_slice(), flags, Mode::empty())?, depth + 1)?;
                    rustix::fs::unlinkat(directory, name.as_slice(), AtFlags::REMOVEDIR)?;
                }
                result => result?,
            }
        }
        Ok(())
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    empty(&rustix::fs::openat(parent, name, flags, Mode::empty())?, 0)?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
