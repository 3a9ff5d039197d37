//! Content that both nodes have already, though not in the trees: that of the layers of the container's image.
//!
//! Files are cut where their content says (FastCDC, Xia et al. 2016, USENIX ATC), so that what was copied out of a layer,
//! shifted, or built into something else is found again. Of each layer the names of its chunks are written once, beside its
//! tree; all numbers are little-endian, a name is 16 bytes:
//! ```text
//! index = "DRVCHUNK" (0x01 path u32:count (u32:length name)*)* 0x00
//! ```
//! Files under 512 bytes are left out: to say where they are takes as much.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use fastcdc::v2020::{FastCDC, StreamCDC};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::hash::{self, Hash};
use super::scan::child;
use crate::layer::format::{read_array, read_path, read_u32, write_bytes16};
use crate::layer::{LayerError, TreePath, names};
use crate::place::{Links, open_directory, open_top};

const MAGIC: [u8; 8] = *b"DRVCHUNK";
/// What the index is called.
const INDEX: &str = "chunks";
/// A chunk has so many bytes: at least, on average, at most.
const LEAST: usize = 4 << 10;
const AVERAGE: usize = 16 << 10;
const MOST: usize = 64 << 10;
/// Content that is shorter is not looked for.
pub(super) const SHORTEST: usize = 512;
/// After so many bytes without finding a twentieth of them, no more is looked for.
const PATIENCE: u64 = 32 << 20;

/// Where a chunk is.
#[derive(Debug, Clone, Copy)]
struct At {
    file: u32,
    offset: u64,
    length: u32,
}

/// Where content lies in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Which layer.
    pub base: u16,
    pub path: &'a TreePath,
    /// From where on.
    pub from: u64,
}

/// What both nodes have.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: HashMap<Hash, At>,
    files: Vec<(u16, TreePath)>,
    looked: u64,
    found: u64,
}

impl Chunks {
    /// Reads the indexes of these layers, and makes those that are not there.
    pub fn of(bases: &[PathBuf]) -> Self {
        let mut chunks = Self::default();
        for (base, tree) in bases.iter().enumerate() {
            // What cannot be read is not found: it crosses.
            let Ok(files) = read(tree).or_else(|_| index(tree).and_then(|()| read(tree))) else { continue };
            files.into_iter().for_each(|file| chunks.add(base as u16, file));
        }
        chunks
    }

    fn add(&mut self, base: u16, Indexed { path, chunks }: Indexed) {
        let file = self.files.len() as u32;
        self.files.push((base, path));
        let mut offset = 0;
        for (length, name) in chunks {
            self.chunks.entry(name).or_insert(At { file, offset, length });
            offset += u64::from(length);
        }
    }

    /// Whether it is worth to look for content.
    pub fn is_worth_it(&self) -> bool {
        !self.chunks.is_empty() && (self.looked < PATIENCE || self.found > self.looked / 20)
    }

    /// Cuts content into ranges: with where the layers have it, if they do.
    pub fn find<'a>(&'a mut self, content: &[u8]) -> Vec<(std::ops::Range<usize>, Option<Piece<'a>>)> {
        let mut runs: Vec<(std::ops::Range<usize>, Option<At>)> = Vec::new();
        for chunk in FastCDC::new(content, LEAST, AVERAGE, MOST) {
            let range = chunk.offset..chunk.offset + chunk.length;
            let at = self.chunks.get(&hash::of(&content[range.clone()])).copied();
            let at = at.filter(|at| at.length as usize == chunk.length && chunk.length >= SHORTEST);
            self.looked += chunk.length as u64;
            self.found += if at.is_some() { chunk.length as u64 } else { 0 };
            let goes_on = |before: &(std::ops::Range<usize>, Option<At>)| match (before, &at) {
                ((_, None), None) => true,
                ((run, Some(first)), Some(at)) => first.file == at.file && first.offset + run.len() as u64 == at.offset,
                _ => false,
            };
            match runs.last_mut() {
                Some(before) if goes_on(before) => before.0.end = range.end,
                _ => runs.push((range, at)),
            }
        }
        let piece = |(run, at): (std::ops::Range<usize>, Option<At>)| {
            let piece = at.map(|at| {
                let (base, path) = &self.files[at.file as usize];
                Piece { base: *base, path, from: at.offset }
            });
            (run, piece)
        };
        runs.into_iter().map(piece).collect()
    }
}

/// A file of an index, with the lengths and names of its chunks.
struct Indexed {
    path: TreePath,
    chunks: Vec<(u32, Hash)>,
}

/// Reads the index of a layer.
fn read(tree: &Path) -> Result<Vec<Indexed>, LayerError> {
    let file = File::open(tree.with_file_name(INDEX)).map_err(LayerError::Read)?;
    let mut input = BufReader::with_capacity(256 << 10, file);
    if read_array(&mut input)? != MAGIC {
        return Err(LayerError::Malformed("an index of chunks begins with something else"));
    }
    let mut files = Vec::new();
    while read_array(&mut input)? == [1] {
        let (path, count) = (read_path(&mut input)?, read_u32(&mut input)?);
        let chunk = |_| Ok((read_u32(&mut input)?, read_array(&mut input)?));
        files.push(Indexed { path, chunks: (0..count).map(chunk).collect::<Result<_, LayerError>>()? });
    }
    Ok(files)
}

/// Writes the index of a layer.
fn index(tree: &Path) -> Result<(), LayerError> {
    let place = tree.with_file_name(INDEX);
    // Two at once would write the same; the last one to be renamed wins.
    let draft = tree.with_file_name(format!("{INDEX}-{:016x}", draft_number()));
    let written = File::create_new(&draft).map_err(LayerError::Write).and_then(|file| {
        let mut out = BufWriter::with_capacity(256 << 10, file);
        out.write_all(&MAGIC).map_err(LayerError::Write)?;
        let top = open_top(tree).map_err(LayerError::top(tree))?;
        Indexing { top, seen: HashSet::new() }.directory(&TreePath::top(), &mut out)?;
        out.write_all(&[0]).and_then(|()| out.flush()).map_err(LayerError::Write)
    });
    let published = written.and_then(|()| std::fs::rename(&draft, &place).map_err(LayerError::Write));
    published.inspect_err(|_| drop(std::fs::remove_file(&draft)))
}

/// A number that no other thread of this process has, nor any process beside it.
fn draft_number() -> u64 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    u64::from(std::process::id()) << 32 | u64::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

struct Indexing {
    top: OwnedFd,
    /// Files that have several names are read once.
    seen: HashSet<u64>,
}

impl Indexing {
    fn directory(&mut self, path: &TreePath, out: &mut impl Write) -> Result<(), LayerError> {
        let failed = |errno: Errno| LayerError::file("look at", path, errno);
        let directory = open_directory(&self.top, path, OFlags::RDONLY, Links::Refused).map_err(failed)?;
        for name in names(directory.as_fd()).map_err(failed)? {
            let child = child(path, &name)?;
            let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => self.directory(&child, out)?,
                FileType::RegularFile if stat.st_size >= SHORTEST as i64 && self.seen.insert(stat.st_ino) => {
                    let file = open_file(&directory, &child)?;
                    write_chunks(&child, file, out)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn write_chunks(path: &TreePath, file: File, out: &mut impl Write) -> Result<(), LayerError> {
    let mut chunks = Vec::new();
    for chunk in StreamCDC::new(file, LEAST, AVERAGE, MOST) {
        let chunk = chunk.map_err(|error| LayerError::file("read", path, io::Error::from(error)))?;
        chunks.extend((chunk.length as u32).to_le_bytes());
        chunks.extend(hash::of(&chunk.data));
    }
    let count = (chunks.len() / 20) as u32;
    let head = out.write_all(&[1]).and_then(|()| write_bytes16(out, path.as_bytes()));
    head.and_then(|()| out.write_all(&count.to_le_bytes()))
        .and_then(|()| out.write_all(&chunks))
        .map_err(LayerError::Write)
}

/// Opens a regular file of a directory, and nothing else.
fn open_file(directory: &OwnedFd, path: &TreePath) -> Result<File, LayerError> {
    let failed = |errno| LayerError::file("read", path, errno);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, path.name(), flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode).is_file() { Ok(file.into()) } else { Err(failed(Errno::INVAL)) }
}

/// The layers on the target, from which pieces are copied.
pub(super) struct Bases<F> {
    find: F,
    /// Once they are needed: their tops.
    tops: Option<Vec<OwnedFd>>,
    /// The file that was opened last.
    open: Option<(u16, TreePath, File)>,
}

impl<F: Fn() -> Vec<PathBuf>> Bases<F> {
    pub fn new(find: F) -> Self {
        Self { find, tops: None, open: None }
    }

    /// A file of a layer.
    pub fn open(&mut self, base: u16, path: &TreePath) -> Result<&File, LayerError> {
        if self.open.as_ref().is_none_or(|(open, known, _)| (*open, known) != (base, path)) {
            let tops = match self.tops.take() {
                Some(tops) => tops,
                None => {
                    let open = |tree: PathBuf| open_top(&tree).map_err(LayerError::top(&tree));
                    (self.find)().into_iter().map(open).collect::<Result<_, _>>()?
                }
            };
            let tops = self.tops.insert(tops);
            let missing = LayerError::Malformed("it refers to a layer that there is not");
            let top = tops.get(usize::from(base)).ok_or(missing)?;
            let parent = open_directory(top, &path.parent(), OFlags::RDONLY, Links::Refused);
            let parent = parent.map_err(|errno| LayerError::file("open", path, errno))?;
            self.open = Some((base, path.clone(), open_file(&parent, path)?));
        }
        match &self.open {
            Some((_, _, file)) => Ok(file),
            None => Err(LayerError::file("open", path, Errno::BADF)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_found_again_where_it_was_shifted_to() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        std::fs::create_dir_all(tree.join("usr/lib")).unwrap();
        let noise = |seed: u64, length: usize| -> Vec<u8> {
            let mut out = vec![0; length];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
            out
        };
        let library = noise(1, 3_000_000);
        std::fs::write(tree.join("usr/lib/library"), &library).unwrap();
        std::fs::write(tree.join("usr/small"), noise(2, 700)).unwrap();
        std::fs::write(tree.join("usr/tiny"), noise(3, 100)).unwrap();
        for _ in 0..2 {
            // The second time by the index that was written.
            let mut chunks = Chunks::of(&[place.path().join("gone/tree"), tree.clone()]);
            let shifted = [noise(4, 1000), library[500_000..1_500_000].to_vec(), noise(5, 100_000)].concat();
            let found = chunks.find(&shifted);
            let total: usize = found.iter().map(|(run, _)| run.len()).sum();
            assert_eq!(total, shifted.len());
            let copied: usize = found.iter().filter(|(_, piece)| piece.is_some()).map(|(run, _)| run.len()).sum();
            assert!(copied > 800_000, "{copied} of 1000000 bytes were found: {found:?}");
            for (run, piece) in &found {
                if let Some(Piece { base, path, from }) = piece {
                    assert_eq!((*base, path.as_bytes()), (1, &b"usr/lib/library"[..]));
                    let from = *from as usize;
                    assert_eq!(shifted[run.clone()], library[from..from + run.len()]);
                }
            }
            assert_eq!(chunks.find(&noise(2, 700)).len(), 1);
            assert!(chunks.find(&noise(2, 700))[0].1.is_some() && chunks.find(&noise(3, 100))[0].1.is_none());
            assert!(place.path().join(INDEX).exists());
        }
        std::fs::write(place.path().join(INDEX), b"DRVCHUNK\x01\x00").unwrap();
        assert!(Chunks::of(&[tree]).is_worth_it(), "one that is damaged is written anew");
    }

    #[test]
    fn what_is_never_found_is_not_looked_for_for_ever() {
        let mut chunks =
            Chunks { chunks: HashMap::from([([1; 16], At { file: 0, offset: 0, length: 1 })]), ..Chunks::default() };
        let content = vec![7; 1 << 20];
        for _ in 0..32 {
            assert!(chunks.is_worth_it());
            chunks.find(&content);
        }
        assert!(!chunks.is_worth_it());
    }
}
