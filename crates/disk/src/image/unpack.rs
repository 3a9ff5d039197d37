//! Unpacking a layer's tar (POSIX pax, GNU and older forms) as hostile input, into a tree as overlayfs wants it.
//!
//! Links in the path to an entry are followed as if the tree's top were `/`, as they are when the tree is used; nothing
//! lands outside. Of two entries with one path the later one counts. Directories that the tar does not list belong to
//! root, with mode 0755 and the time zero, so that the same tar gives the same tree anywhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use drover_model::Digest;
use rustix::fs::{AtFlags, FileType, OFlags, Stat, XattrFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::entry::{Meaning, attributes, implied, meaning, normalize};
use super::rewrite::inline;
use super::tape::{RecipeWriter, Tape, TapeReader};
use super::{ImageError, RECIPE, TREE};
use crate::layer::{Attributes, CHUNK, TreePath, runs, write_at};
use crate::place::{self, Links, open_directory, open_top};

/// The most entries of a tar, directories that it does not list among them.
const MOST_ENTRIES: usize = 10_000_000;
/// The most bytes that files with holes may say they have together: their holes cost nothing on the wire, and are looked at
/// like content.
const MOST_SPARSE: u64 = 8 << 30;
/// The most bytes that paths and extended attributes of directories may take together, which wait for the end of the tar.
const MOST_WAITING: usize = 256 << 20;
/// A piece of a hole.
static ZEROS: [u8; CHUNK] = [0; CHUNK];
/// Beside the tree while it is made: contents that later entries took the place of.
const SPARED: &str = "spared";

/// What a tar held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// The SHA-256 of the tar.
    pub diff_id: Digest,
    /// Its length.
    pub tar_bytes: u64,
    /// Bytes of file data, holes not counted.
    pub bytes: u64,
    pub entries: usize,
}

/// Unpacks into the existing empty directory `layer`: a tree and the recipe by which the tar can be written again.
pub(super) fn unpack(layer: &Path, tar: impl Read) -> Result<Unpacked, ImageError> {
    let (tree, recipe, spared) = (layer.join(TREE), layer.join(RECIPE), layer.join(SPARED));
    for directory in [&tree, &spared] {
        std::fs::create_dir(directory).map_err(ImageError::store("make", directory))?;
    }
    let open = |path: &Path| open_top(path).map_err(|errno| ImageError::store("open", path)(errno.into()));
    let (top, spare) = (open(&tree)?, open(&spared)?);
    let damaged = |source| ImageError::Tar { what: "it is damaged".into(), source: Some(source) };
    let tape = Tape::new(tar, RecipeWriter::create(&recipe).map_err(ImageError::store("make", &recipe))?);
    let (directories, buffer) = (BTreeMap::from([(TreePath::top(), implied())]), vec![0; CHUNK]);
    let mut unpacking = Unpacking {
        top,
        spare,
        tape: Rc::clone(&tape),
        directories,
        spared: BTreeMap::new(),
        last: None,
        bytes: 0,
        sparse: 0,
        waiting: 0,
        buffer,
    };
    let mut archive = Archive::new(TapeReader(Rc::clone(&tape)));
    let mut number = 0;
    let mut entries = archive.entries().map_err(damaged)?;
    loop {
        tape.borrow_mut().expect_header();
        let Some(entry) = entries.next() else { break };
        number += 1;
        if number + unpacking.directories.len() > MOST_ENTRIES {
            return Err(ImageError::Tar { what: "it has too many entries".into(), source: None });
        }
        unpacking.entry(entry.map_err(damaged)?)?;
    }
    tape.borrow_mut().expect_end();
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    let (bytes, lost) = (unpacking.bytes, unpacking.finish()?);
    let Some(tape) = Rc::into_inner(tape).map(RefCell::into_inner) else { unreachable!("its readers are gone") };
    let (diff_id, tar_bytes) = tape.finish().map_err(ImageError::store("write", &recipe))?;
    if !lost.is_empty() {
        let lost = lost.into_iter().map(|(inode, name)| (inode, spared.join(name))).collect();
        inline(&recipe, &lost).map_err(ImageError::store("write", &recipe))?;
    }
    drover_sys::tree::remove(&spared).map_err(ImageError::store("remove", &spared))?;
    Ok(Unpacked { diff_id, tar_bytes, bytes, entries: number })
}

/// A directory that is open, with the path by which no link leads to it.
type Parent = (Rc<OwnedFd>, TreePath);

struct Unpacking<R> {
    top: OwnedFd,
    spare: OwnedFd,
    tape: Rc<RefCell<Tape<R>>>,
    /// All directories with their attributes, which they get at the end. By the path in the tar: one that leads through
    /// a link is left as it is.
    directories: BTreeMap<TreePath, Attributes>,
    /// The names of spared files by their inode numbers.
    spared: BTreeMap<u64, String>,
    /// The directory that was needed last, by the path in the tar.
    last: Option<(TreePath, Parent)>,
    bytes: u64,
    /// What files with holes say they have.
    sparse: u64,
    /// What is kept of directories until the end.
    waiting: usize,
    buffer: Vec<u8>,
}

impl<R: Read> Unpacking<R> {
    fn entry(&mut self, mut entry: Entry<'_, TapeReader<R>>) -> Result<(), ImageError> {
        let written = entry.path_bytes().into_owned();
        let wrong = |what: &str, source: Option<io::Error>| ImageError::Tar {
            what: format!("{what} {:?}", String::from_utf8_lossy(&written[..written.len().min(200)])),
            source,
        };
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::XGlobalHeader) {
            let path = normalize(&written).map_err(|what| wrong(what, None))?;
            match meaning(&path).map_err(|what| wrong(what, None))? {
                Meaning::Itself => self.make(&mut entry, kind, path, &wrong)?,
                Meaning::Hidden(path) => self.hide(&path).map_err(|errno| wrong("cannot make", Some(errno.into())))?,
                Meaning::Opaque(path) if path.is_top() => {
                    return Err(wrong("all layers below would be hidden by", None));
                }
                Meaning::Opaque(path) => {
                    let made = self.parent(&path).and_then(|(directory, _)| make_opaque(&directory));
                    made.map_err(|errno| wrong("cannot make", Some(errno.into())))?;
                }
                Meaning::Nothing => {}
            }
        }
        // What is left is in no file.
        let size = entry.header().entry_size().unwrap_or(0);
        self.tape.borrow_mut().expect_bytes(size);
        io::copy(&mut entry, &mut io::sink()).map_err(|error| wrong("cannot read", Some(error)))?;
        Ok(())
    }

    fn make(
        &mut self,
        entry: &mut Entry<'_, TapeReader<R>>,
        kind: EntryType,
        path: TreePath,
        wrong: &impl Fn(&str, Option<io::Error>) -> ImageError,
    ) -> Result<(), ImageError> {
        let failed = |errno: Errno| wrong("cannot make", Some(errno.into()));
        let attributes = attributes(entry).map_err(|error| wrong("cannot read the attributes of", Some(error)))?;
        if path.is_top() && kind != EntryType::Directory {
            return Err(wrong("there is no directory at", None));
        }
        let (parent, real) = self.parent(&path.parent()).map_err(failed)?;
        let (parent, name) = (&*parent, path.name());
        if kind == EntryType::Directory {
            if !path.is_top() {
                self.make_directory(parent, name).map_err(failed)?;
            }
            self.waiting += path.as_bytes().len() + attributes.xattr_bytes();
            if self.waiting > MOST_WAITING {
                return Err(wrong("paths and attributes of directories are too large at", None));
            }
            self.directories.insert(path, attributes);
            return Ok(());
        }
        self.make_room(parent, &path).map_err(failed)?;
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let file = place::make_file(parent, name).map_err(failed)?;
                if kind == EntryType::GNUSparse {
                    self.sparse = self.sparse.saturating_add(entry.size());
                    if self.sparse > MOST_SPARSE {
                        return Err(wrong("files with holes are too large at", None));
                    }
                    let size = entry.header().entry_size().unwrap_or(0);
                    self.tape.borrow_mut().expect_bytes(size);
                } else if entry.size() > 0 {
                    let inode = rustix::fs::fstat(&file).map_err(failed)?.st_ino;
                    let real = real.child(name).map_err(|what| wrong(what, None))?;
                    let noted = self.tape.borrow_mut().expect_file(&real, entry.size(), inode);
                    noted.map_err(|error| wrong("cannot note", Some(error)))?;
                }
                let size = entry.size();
                self.fill(&file, entry, size).map_err(|error| wrong("cannot write", Some(error)))?;
                FileType::RegularFile
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| wrong("a link has no target:", None))?;
                place::make_symlink(parent, name, &target).map_err(failed)?;
                FileType::Symlink
            }
            EntryType::Link => {
                let first = entry.link_name_bytes().ok_or_else(|| wrong("a link has no target:", None))?;
                let first = normalize(&first).map_err(|what| wrong(what, None))?;
                let first_parent = open_directory(&self.top, &first.parent(), OFlags::RDONLY, Links::Inside);
                let first_parent = first_parent.map_err(failed)?;
                // The attributes are those of the first name.
                return place::make_link(first_parent, first.name(), parent, name).map_err(failed);
            }
            EntryType::Char | EntryType::Block => {
                let (major, minor) = (entry.header().device_major(), entry.header().device_minor());
                let device = (major.ok().flatten().unwrap_or(0), minor.ok().flatten().unwrap_or(0));
                let kind = if kind == EntryType::Block { FileType::BlockDevice } else { FileType::CharacterDevice };
                place::make_node(parent, name, kind, device).map_err(failed)?;
                kind
            }
            EntryType::Fifo => {
                place::make_node(parent, name, FileType::Fifo, (0, 0)).map_err(failed)?;
                FileType::Fifo
            }
            _ => return Err(wrong("an entry is of an unknown kind:", None)),
        };
        place::settle(parent, name, &attributes, kind)
            .map_err(|errno| wrong("cannot set the attributes of", Some(errno.into())))
    }

    /// Opens a directory, and makes what is missing of it.
    fn parent(&mut self, path: &TreePath) -> Result<Parent, Errno> {
        if let Some((_, parent)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(parent.clone());
        }
        let parent = match open_directory(&self.top, path, OFlags::RDONLY, Links::Refused) {
            Ok(directory) => (Rc::new(directory), path.clone()),
            Err(Errno::LOOP | Errno::NOENT | Errno::NOTDIR) => {
                let directory = self.parent_by_links(path)?;
                let real = self.real_path(&directory)?;
                (Rc::new(directory), real)
            }
            Err(errno) => return Err(errno),
        };
        self.last = Some((path.clone(), parent.clone()));
        Ok(parent)
    }

    fn parent_by_links(&mut self, path: &TreePath) -> Result<OwnedFd, Errno> {
        match open_directory(&self.top, path, OFlags::RDONLY, Links::Inside) {
            Err(Errno::NOENT | Errno::NOTDIR) if !path.is_top() => {}
            result => return result,
        }
        // As deep as a path can be: each step up loses at least two bytes.
        let above = self.parent_by_links(&path.parent())?;
        match rustix::fs::statat(&above, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if !is_whiteout(&stat) => return Err(Errno::NOTDIR),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        self.make_directory(&above, path.name())?;
        self.waiting += path.as_bytes().len();
        if self.waiting > MOST_WAITING {
            return Err(Errno::NOMEM);
        }
        self.directories.entry(path.clone()).or_insert_with(implied);
        open_directory(&self.top, path, OFlags::RDONLY, Links::Inside)
    }

    /// The path of a directory of the tree by which no link leads to it.
    fn real_path(&self, directory: &OwnedFd) -> Result<TreePath, Errno> {
        let path_of = |file: &OwnedFd| rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new());
        let (top, path) = (path_of(&self.top)?, path_of(directory)?);
        let inside = path.as_bytes().strip_prefix(top.as_bytes()).ok_or(Errno::XDEV)?;
        normalize(inside).map_err(|_| Errno::NAMETOOLONG)
    }

    /// Makes room for something that is no directory. A directory makes room only if it is empty. Contents that the recipe
    /// counts on are spared.
    fn make_room(&mut self, parent: &OwnedFd, path: &TreePath) -> Result<(), Errno> {
        let name = path.name();
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            result => result?,
        };
        self.last = None;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.directories.remove(path);
                rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
            }
            FileType::RegularFile => self.spare_file(parent, name, &stat),
            _ => rustix::fs::unlinkat(parent, name, AtFlags::empty()),
        }
    }

    fn spare_file(&mut self, parent: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Errno> {
        // Of two links to one file the second adds nothing.
        if stat.st_size == 0 || self.spared.contains_key(&stat.st_ino) {
            return rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
        let spared = stat.st_ino.to_string();
        rustix::fs::renameat(parent, name, &self.spare, &spared)?;
        self.spared.insert(stat.st_ino, spared);
        Ok(())
    }

    /// A directory takes the place of anything that is none. One that is reached by a link is taken over, as tars of
    /// merged trees (`lib` a link to `usr/lib`) want it.
    fn make_directory(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        match place::make_directory(parent, name) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode).is_symlink() {
            return Ok(());
        }
        self.last = None;
        if FileType::from_raw_mode(stat.st_mode).is_file() {
            self.spare_file(parent, name, &stat)?;
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        }
        place::make_directory(parent, name)?;
        if is_whiteout(&stat) {
            // What it hid below stays hidden.
            let path = TreePath::parse(name.to_vec()).map_err(|_| Errno::INVAL)?;
            make_opaque(&open_directory(parent, &path, OFlags::RDONLY, Links::Refused)?)?;
        }
        Ok(())
    }

    /// Hides what the layers below have under this path; what this layer has there stays, for it hides that as well.
    fn hide(&mut self, path: &TreePath) -> Result<(), Errno> {
        let (parent, _) = self.parent(&path.parent())?;
        match rustix::fs::statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => place::make_node(&parent, path.name(), FileType::CharacterDevice, (0, 0)),
            Err(errno) => Err(errno),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                let name = TreePath::parse(path.name().to_vec()).map_err(|_| Errno::INVAL)?;
                make_opaque(&open_directory(&parent, &name, OFlags::RDONLY, Links::Refused)?)
            }
            Ok(_) => Ok(()),
        }
    }

    fn fill(&mut self, file: &OwnedFd, data: &mut impl Read, size: u64) -> io::Result<()> {
        let mut offset = 0;
        loop {
            let mut length = 0;
            while length < self.buffer.len() {
                match data.read(&mut self.buffer[length..])? {
                    0 => break,
                    read => length += read,
                }
            }
            if length == 0 {
                // The reader takes the end of the input for the end of the file.
                return if offset == size { Ok(rustix::fs::ftruncate(file, offset)?) } else { Err(cut_off()) };
            }
            // Holes are passed over at the speed of memory: a tar may say that there is a lot of them.
            let content = &self.buffer[..length];
            let pieces = if content == &ZEROS[..length] { Vec::new() } else { runs(content) };
            for (start, end) in pieces {
                write_at(file, &self.buffer[start..end], offset + start as u64)?;
                self.bytes += (end - start) as u64;
            }
            offset += length as u64;
        }
    }

    /// Gives the directories their attributes, the deepest first, so that no time changes again. Gives the spared files.
    fn finish(self) -> Result<BTreeMap<u64, String>, ImageError> {
        for (path, attributes) in self.directories.iter().rev() {
            let settled = match open_directory(&self.top, &path.parent(), OFlags::RDONLY, Links::Refused) {
                Ok(parent) => {
                    let stat = rustix::fs::statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW);
                    match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                        Ok(FileType::Directory) => place::settle(&parent, path.name(), attributes, FileType::Directory),
                        Ok(_) | Err(Errno::NOENT) => Ok(()),
                        Err(errno) => Err(errno),
                    }
                }
                // By a path through a link, or since replaced.
                Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno),
            };
            settled.map_err(|errno| ImageError::Tar {
                what: format!("cannot set the attributes of {:?}", String::from_utf8_lossy(path.as_bytes())),
                source: Some(errno.into()),
            })?;
        }
        Ok(self.spared)
    }
}

fn cut_off() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// Whether overlayfs takes it for the absence of a file.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Has overlayfs show nothing of what the layers below have in this directory.
fn make_opaque(directory: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}
