//! The source's end: what has changed in the trees is sent, round after round.

use std::fmt;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_model::{Bytes, Compression};
use drover_packing::Outlet;
use drover_sys::written::WrittenPages;

use super::blocks::Blocks;
use super::chunks::Chunks;
use super::content::LARGE;
use super::have::Having;
use super::known::{Content, Known};
use super::plan::Round;
use super::record::{LONGEST_COPY, MAGIC, Record, VERSION};
use super::scan::{Change, kind_of, scan};
use crate::layer::format::Kind;
use crate::layer::{LayerError, TreePath};
use crate::place::open_top;

/// A change time that is younger than this may stand still while the entry changes again: the clock that gives it may be
/// one that ticks a hundred times in a second.
const YOUNG: Duration = Duration::from_millis(20);
/// How much of a file is read at once, in bytes: what of it the target has is said in one piece.
const READ: usize = LONGEST_COPY;
/// When less of files may be new than this, in bytes, it is not looked for in the image.
const WORTH_LOOKING: u64 = 256 << 10;

/// A tree that travels.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Its top.
    pub path: PathBuf,
    /// Whether it is in memory: its files may change without their times doing so, and are compared in each round.
    pub in_memory: bool,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Entries that were made, changed or removed.
    pub entries: u64,
    /// Bytes of files' content.
    pub content: u64,
    /// Bytes of the stream.
    pub bytes: u64,
}

/// Trees that travel. To drop it takes a while where pages were watched (a tenth of a second and more): the kernel waits
/// until nobody can be in the tracepoints any more. Nobody should wait for that while a container is frozen.
pub struct Source<O> {
    blocks: Blocks<O>,
    trees: Vec<Travelling>,
    written: Option<WrittenPages>,
    /// The layers that both nodes have, and what is in them, once that was of use.
    bases: Vec<PathBuf>,
    chunks: Option<Chunks>,
    buffer: Vec<u8>,
    tally: Tally,
    /// Change times from this one on may stand still.
    young: fn() -> (i64, u64),
}

impl<O> fmt::Debug for Source<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("trees", &self.trees).field("tally", &self.tally).finish_non_exhaustive()
    }
}

/// What has been sent by now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub entries: u64,
    pub content: u64,
}

/// A tree, and what the target has of it.
pub(super) struct Travelling {
    pub top: OwnedFd,
    pub in_memory: bool,
    pub known: Known,
    path: PathBuf,
    /// Whether it is sent at all.
    travels: bool,
}

impl fmt::Debug for Travelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Travelling").field(&self.path).finish()
    }
}

impl<O: Outlet> Source<O> {
    /// Begins a stream of these trees to a target that has nothing of them.
    ///
    /// # Errors
    /// When one cannot be opened, or nothing be sent.
    pub fn new(out: O, compression: Compression, trees: &[Tree]) -> Result<Self, LayerError> {
        Self::beyond(Having::default(), out, compression, trees)
    }

    /// Begins a stream of these trees to a target that has some of it already.
    ///
    /// # Errors
    /// When one cannot be opened, or nothing be sent.
    pub fn beyond(mut having: Having, out: O, compression: Compression, trees: &[Tree]) -> Result<Self, LayerError> {
        let open = |(index, tree): (usize, &Tree)| {
            let failed = LayerError::top(&tree.path);
            let top = open_top(&tree.path).map_err(&failed)?;
            let in_memory = tree.in_memory || !times_tell(&top).map_err(failed)?;
            Ok(Travelling { top, in_memory, known: having.take(index), path: tree.path.clone(), travels: true })
        };
        let trees = trees.iter().enumerate().map(open).collect::<Result<_, LayerError>>()?;
        let mut blocks = Blocks::new(out, compression).map_err(LayerError::Write)?;
        blocks.send_raw([&MAGIC[..], &VERSION.to_le_bytes()].concat()).map_err(LayerError::Write)?;
        // Without it large files that have changed are read whole.
        let written = WrittenPages::begin().ok();
        let (bases, chunks) = Default::default();
        Ok(Self { blocks, trees, written, bases, chunks, buffer: vec![0; READ], tally: Tally::default(), young })
    }

    /// These trees, the layers of the container's image, are on both nodes, in this order.
    #[must_use]
    pub fn over(mut self, bases: Vec<PathBuf>) -> Self {
        self.bases = bases;
        self
    }

    /// Leaves out trees that are said to lie in memory, of which nobody keeps what has arrived without its container.
    #[must_use]
    pub fn on_disk_alone(mut self, trees: &[Tree]) -> Self {
        self.trees.iter_mut().zip(trees).for_each(|(travelling, tree)| travelling.travels = !tree.in_memory);
        self
    }

    /// Sends what has changed since the last round, in the first one everything, while programs go on.
    ///
    /// # Errors
    /// When something cannot be read or sent.
    pub fn round(&mut self) -> Result<Sent, LayerError> {
        self.send(true, &Record::Round)
    }

    /// Sends what has changed since the last round, and ends the stream: nothing in the trees changes any more.
    ///
    /// # Errors
    /// When something cannot be read or sent.
    pub fn last(&mut self) -> Result<Sent, LayerError> {
        self.send(false, &Record::End)
    }

    /// Where it goes.
    pub fn outlet(&mut self) -> &mut O {
        self.blocks.outlet()
    }

    fn send(&mut self, live: bool, end: &Record) -> Result<Sent, LayerError> {
        let (before, bytes) = (self.tally, self.blocks.sent);
        for (index, tree) in self.trees.iter_mut().enumerate().filter(|(_, tree)| tree.travels) {
            let young = (self.young)();
            let changes = scan(&tree.top, &tree.known, tree.in_memory)?;
            if changes.is_empty() {
                continue;
            }
            // Nobody waits for that; while a container is frozen everybody does.
            if live && self.chunks.is_none() && new_content(&tree.known, &changes) >= WORTH_LOOKING {
                self.chunks = Some(Chunks::of(&self.bases));
            }
            let chunks = self.chunks.as_mut().filter(|_| live);
            let written = self.written.as_ref();
            let tree_record = Record::Tree(index as u8);
            tree_record.write(&mut self.blocks).map_err(LayerError::Write)?;
            let (out, buffer, tally) = (&mut self.blocks, &mut self.buffer[..], &mut self.tally);
            Round { tree, written, chunks, live, young, out, buffer, tally, parent: None }.send(&changes)?;
        }
        end.write(&mut self.blocks).and_then(|()| self.blocks.flush()).map_err(LayerError::Write)?;
        let Tally { entries, content, .. } = self.tally;
        Ok(Sent {
            entries: entries - before.entries,
            content: content - before.content,
            bytes: self.blocks.sent - bytes,
        })
    }

    /// About how much would be sent now.
    ///
    /// # Errors
    /// When something cannot be looked at.
    pub fn survey(&self) -> Result<Bytes, LayerError> {
        /// What an entry takes without content.
        const ENTRY: u64 = 100;
        let mut bytes = 0_u64;
        // Of files in memory nobody knows before they are read.
        for tree in self.trees.iter().filter(|tree| !tree.in_memory) {
            for change in scan(&tree.top, &tree.known, false)? {
                bytes = bytes.saturating_add(ENTRY + self.about(&tree.known, &change));
            }
        }
        Ok(Bytes(bytes))
    }

    /// About how much of a file's content has changed.
    fn about(&self, known: &Known, change: &Change) -> u64 {
        let Change::Found(path, stat) = change else { return 0 };
        if kind_of(stat) != Some(Kind::File) {
            return 0;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let file = file_at(known, path).filter(|file| file.inode == Some(stat.st_ino) && file.watched);
        let Some(file) = file.filter(|_| size >= LARGE) else { return size };
        let pages = self.written.as_ref().and_then(|written| written.count(stat.st_ino));
        pages.map_or(size, |pages| (pages * 4096).saturating_add(size.saturating_sub(file.size)).min(size))
    }
}

/// How much there is in files of which the target has nothing.
fn new_content(known: &Known, changes: &[Change]) -> u64 {
    let sizes = changes.iter().filter_map(|change| match change {
        Change::Found(path, stat) if kind_of(stat) == Some(Kind::File) && file_at(known, path).is_none() => {
            u64::try_from(stat.st_size).ok()
        }
        _ => None,
    });
    sizes.fold(0, u64::saturating_add)
}

fn file_at<'a>(known: &'a Known, path: &TreePath) -> Option<&'a super::known::File> {
    match known.node(path)?.content {
        Content::File(number) => known.files.get(&number),
        Content::Directory(_) => None,
    }
}

/// Whether a file there cannot change without its change time doing so, once its pages are clean: on file systems that are
/// told of the first write to a clean page that is mapped, and of which that is known. Files of others are compared.
fn times_tell(top: &OwnedFd) -> Result<bool, rustix::io::Errno> {
    /// ext2 to ext4, XFS, Btrfs, F2FS, bcachefs (`linux/magic.h`).
    const KNOWN: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e];
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "the type differs between architectures")]
    let magic = rustix::fs::fstatfs(top)?.f_type as u64 & 0xffff_ffff;
    Ok(KNOWN.contains(&magic))
}

/// Change times from this one on may stand still.
fn young() -> (i64, u64) {
    let since = SystemTime::now().checked_sub(YOUNG).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or((0, 0), |since| (since.as_secs().cast_signed(), u64::from(since.subsec_nanos())))
}

#[cfg(test)]
impl<O> Source<O> {
    /// As on a kernel that does not tell which pages are written.
    pub(super) fn without_watching(mut self) -> Self {
        self.written = None;
        self
    }

    /// As if all change times were old: for a file system that gives no two changes the same.
    pub(super) fn trusting(mut self) -> Self {
        self.young = || (i64::MAX, 0);
        self
    }
}
