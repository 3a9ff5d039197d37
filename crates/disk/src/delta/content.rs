//! A file's content: reading what may have changed, and sending what has.

use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;

use drover_sys::file::{Extent, clean_pages, dirty_pages, extents};
use drover_sys::written::Pages;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::chunks::{Chunks, Piece, SHORTEST};
use super::hash::{self, BLOCK, Hashes, UNKNOWN, ZEROS};
use super::known::File;
use super::record::{Copied, LONGEST_DATA, Record, write_data};
use crate::layer::{LayerError, TreePath, read_at};

/// Files from this size on are watched, and their places on the disk compared: to read all of a smaller one takes no longer.
pub(super) const LARGE: u64 = 1 << 20;
/// Files that lie in more pieces than this are read whole.
const MOST_EXTENTS: usize = 100_000;

/// A file of the source's that is being read.
pub(super) struct Reading {
    path: TreePath,
    file: OwnedFd,
    pub stat: Stat,
    /// Whether pages of it may have stayed dirty: it may be written to without its times changing.
    pub unsure: bool,
}

impl Reading {
    /// Opens a file; `None` when it is not there any more. `live`: programs may be writing to it.
    pub fn open(parent: &OwnedFd, path: &TreePath, live: bool) -> Result<Option<Self>, LayerError> {
        let failed = |errno| LayerError::file("read", path, errno);
        // Should a fifo have taken the file's place, opening it must not wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, path.name(), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(None),
            result => result.map_err(failed)?,
        };
        let unsure = live && !clean(&file);
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        Ok(FileType::from_raw_mode(stat.st_mode).is_file().then_some(Self { path: path.clone(), file, stat, unsure }))
    }

    pub fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Where it lies on the disk, if that says anything of its content.
    pub fn extents(&self) -> Option<Vec<Extent>> {
        let extents = extents(&self.file, MOST_EXTENTS).ok()??;
        Some(extents)
    }
}

/// Cleans a file's dirty pages; whether they are.
fn clean(file: &OwnedFd) -> bool {
    let dirty = || dirty_pages(file).ok().flatten();
    match dirty() {
        Some(0) => return true,
        Some(_) => {}
        // The kernel cannot say it, or there are no such pages: on a file system in memory they are never clean.
        None => return clean_pages(file, true).is_ok(),
    }
    for wait in [false, true] {
        if clean_pages(file, wait).is_err() {
            return false;
        }
        if dirty() == Some(0) {
            return true;
        }
    }
    false
}

/// Which blocks of a file may not be what they were. Blocks are as large as pages.
#[derive(Debug)]
pub(super) enum Suspects {
    /// All.
    All,
    /// These pages, and these ranges of blocks.
    Some(Pages, Vec<Range<u64>>),
}

impl Suspects {
    /// By what the kernel has told of it and where it lies now.
    pub fn new(file: &File, written: Option<Pages>, extents: Option<&Vec<Extent>>) -> Self {
        match (written, &file.extents, extents) {
            (Some(pages), Some(before), Some(now)) if file.watched => Self::Some(pages, moved(before, now)),
            _ => Self::All,
        }
    }

    /// The first of them from `block` on.
    fn next(&self, block: u64) -> Option<u64> {
        match self {
            Self::All => Some(block),
            Self::Some(pages, ranges) => {
                let inside = ranges.iter().find(|range| range.end > block).map(|range| range.start.max(block));
                pages.next(block).into_iter().chain(inside).min()
            }
        }
    }
}

/// The blocks that do not lie where they lay.
fn moved(before: &[Extent], now: &[Extent]) -> Vec<Range<u64>> {
    if before == now && now.iter().all(Extent::is_fixed) {
        return Vec::new();
    }
    // Between two borders of any extent a file lies in one piece, before and now.
    let mut borders: Vec<u64> = before.iter().chain(now).flat_map(|extent| [extent.offset, extent.end()]).collect();
    borders.push(u64::MAX);
    borders.sort_unstable();
    borders.dedup();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    for pair in borders.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        while old.next_if(|extent| extent.end() <= start).is_some() {}
        while new.next_if(|extent| extent.end() <= start).is_some() {}
        let place = |extent: Option<&&Extent>| {
            extent.filter(|extent| extent.offset <= start).map(|extent| {
                // Written or only reserved (`FIEMAP_EXTENT_UNWRITTEN`).
                (extent.is_fixed(), extent.flags & 0x800, extent.physical.wrapping_add(start - extent.offset))
            })
        };
        let (old, new) = (place(old.peek()), place(new.peek()));
        let same = old == new && new.is_none_or(|(fixed, ..)| fixed);
        if !same {
            let blocks = start / BLOCK as u64..end.div_ceil(BLOCK as u64);
            match ranges.last_mut() {
                Some(last) if last.end >= blocks.start => last.end = blocks.end,
                _ => ranges.push(blocks),
            }
        }
    }
    ranges
}

/// Sends what of a file's content the target does not have; `begin` is called before the first of it. Gives how many bytes
/// of content were sent. Afterwards the file's hashes are those of what was read.
pub(super) fn send<W: Write>(
    reading: &Reading,
    file: &mut File,
    suspects: &Suspects,
    chunks: Option<&mut Chunks>,
    out: &mut W,
    buffer: &mut [u8],
    mut begin: impl FnMut(&mut W) -> io::Result<()>,
) -> Result<u64, LayerError> {
    let failed = |errno| LayerError::file("read", &reading.path, errno);
    let size = reading.size();
    // Of a file that is known to be changed here and there nothing lies in a layer.
    let chunks = chunks.filter(|_| matches!(suspects, Suspects::All));
    let mut pieces = Pieces { out, begun: false, begin: &mut begin, hole: 0..0, sent: 0, chunks };
    let mut settled = u64::MAX;
    if size != file.size {
        pieces.begin().map_err(LayerError::Write)?;
        // What the target has of a block in which a file ended, or ends now, has no name.
        settled = file.size.min(size) / BLOCK as u64;
        file.hashes.truncate(settled + 1);
        if file.hashes.at(settled) != ZEROS {
            file.hashes.set(settled, UNKNOWN);
        }
        file.size = size;
    }
    let blocks = size.div_ceil(BLOCK as u64);
    let next = |block: u64| suspects.next(block).map_or(settled.max(block), |next| next.min(settled.max(block)));
    let mut data = Data::of(&reading.file);
    let mut block = next(0);
    while block < blocks {
        let hole_end = data.from(block * BLOCK as u64).map_err(failed)? / BLOCK as u64;
        if hole_end > block {
            let end = hole_end.min(blocks);
            pieces.empty(&mut file.hashes, block..end, size).map_err(LayerError::Write)?;
            block = next(end);
            continue;
        }
        let mut end = block + 1;
        let most = (block + (buffer.len() / BLOCK) as u64).min(blocks).min(data.to.div_ceil(BLOCK as u64));
        while end < most && next(end) == end {
            end += 1;
        }
        let offset = block * BLOCK as u64;
        let length = ((end - block) * BLOCK as u64).min(size - offset) as usize;
        let read = read_at(&reading.file, &mut buffer[..length], offset).map_err(failed)?;
        // It was cut off meanwhile: the next round will see that.
        buffer[read..length].fill(0);
        pieces.compare(&mut file.hashes, &buffer[..length], block).map_err(LayerError::Write)?;
        block = next(end);
    }
    pieces.end().map_err(LayerError::Write)?;
    Ok(pieces.sent)
}

/// Where a file has data, as far as it was asked.
pub(super) struct Data<'a> {
    file: &'a OwnedFd,
    from: u64,
    to: u64,
}

impl<'a> Data<'a> {
    pub fn of(file: &'a OwnedFd) -> Self {
        Self { file, from: 0, to: 0 }
    }

    /// The first offset from `offset` on at which there are data; then `to` is where they end.
    pub fn from(&mut self, offset: u64) -> Result<u64, Errno> {
        if offset >= self.to {
            self.from = match rustix::fs::seek(self.file, SeekFrom::Data(offset)) {
                // Nothing but a hole is left.
                Err(Errno::NXIO) => u64::MAX,
                result => result?,
            };
            self.to = match self.from {
                u64::MAX => u64::MAX,
                from => rustix::fs::seek(self.file, SeekFrom::Hole(from)).or_else(|errno| {
                    // It was cut off meanwhile.
                    if errno == Errno::NXIO { Ok(u64::MAX) } else { Err(errno) }
                })?,
            };
        }
        Ok(self.from.max(offset))
    }
}

/// What is sent of a file.
struct Pieces<'a, W> {
    out: &'a mut W,
    begun: bool,
    begin: &'a mut dyn FnMut(&mut W) -> io::Result<()>,
    /// A hole that has not been sent yet: it may go on.
    hole: Range<u64>,
    sent: u64,
    /// Where content is looked for.
    chunks: Option<&'a mut Chunks>,
}

impl<W: Write> Pieces<'_, W> {
    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            (self.begin)(self.out)?;
        }
        Ok(())
    }

    /// Sends data, or says where the target has them already.
    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.begin()?;
        let chunks = self.chunks.as_mut().filter(|chunks| data.len() >= SHORTEST && chunks.is_worth_it());
        let found = chunks.map_or_else(|| vec![(0..data.len(), None)], |chunks| chunks.find(data));
        for (range, piece) in found {
            let (at, content) = (offset + range.start as u64, &data[range]);
            match piece {
                None => {
                    self.sent += content.len() as u64;
                    for (index, piece) in content.chunks(LONGEST_DATA).enumerate() {
                        write_data(self.out, at + (index * LONGEST_DATA) as u64, piece)?;
                    }
                }
                Some(Piece { base, path, from }) => {
                    let (path, length, name) = (path.clone(), content.len() as u32, hash::of(content));
                    Record::Copy(at, Copied { base, path, from, length, name }).write(self.out)?;
                }
            }
        }
        Ok(())
    }

    /// Sends those of the blocks that are not what the names say, and corrects the names.
    fn compare(&mut self, hashes: &mut Hashes, data: &[u8], first: u64) -> io::Result<()> {
        let offset = first * BLOCK as u64;
        let mut run: Option<Range<usize>> = None;
        for (index, block) in data.chunks(BLOCK).enumerate() {
            let (start, number, found) = (index * BLOCK, first + index as u64, hash::of(block));
            if found == hashes.at(number) {
                continue;
            }
            hashes.set(number, found);
            if found == ZEROS {
                self.hole(offset + start as u64, block.len() as u64)?;
                continue;
            }
            match &mut run {
                Some(run) if run.end == start => run.end += block.len(),
                _ => {
                    if let Some(run) = run.replace(start..start + block.len()) {
                        self.data(offset + run.start as u64, &data[run])?;
                    }
                }
            }
        }
        run.map_or(Ok(()), |run| self.data(offset + run.start as u64, &data[run]))
    }

    /// These blocks lie in a hole.
    fn empty(&mut self, hashes: &mut Hashes, blocks: Range<u64>, size: u64) -> io::Result<()> {
        let mut from = blocks.start;
        while let Some(block) = hashes.next_content(from, blocks.end) {
            let offset = block * BLOCK as u64;
            hashes.set(block, ZEROS);
            self.hole(offset, (size - offset).min(BLOCK as u64))?;
            from = block + 1;
        }
        Ok(())
    }

    fn hole(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.hole.end != offset {
            self.end()?;
            self.hole = offset..offset;
        }
        self.hole.end += length;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if !self.hole.is_empty() {
            self.begin()?;
            Record::Hole(self.hole.start, self.hole.end - self.hole.start).write(self.out)?;
        }
        self.hole = 0..0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64, physical: u64) -> Extent {
        Extent { offset: offset * 4096, length: length * 4096, physical: physical * 4096, flags: 0 }
    }

    fn ranges(of: &[(u64, u64)]) -> Vec<Range<u64>> {
        of.iter().map(|(start, end)| *start..*end).collect()
    }

    #[test]
    fn what_lies_elsewhere_or_nowhere_has_moved() {
        let before = [extent(0, 10, 100), extent(20, 10, 200)];
        assert_eq!(moved(&before, &before), []);
        // A hole was made, the second piece is longer, and in one piece with the first.
        let now = [extent(0, 4, 100), extent(6, 4, 106), extent(20, 12, 200)];
        assert_eq!(moved(&before, &now), ranges(&[(4, 6), (30, 32)]));
        assert_eq!(moved(&before, &[extent(0, 10, 100), extent(20, 10, 300)]), ranges(&[(20, 30)]));
        // Cut into two where it lies, it has not.
        assert_eq!(moved(&before, &[extent(0, 5, 100), extent(5, 5, 105), extent(20, 10, 200)]), []);
        assert_eq!(moved(&[], &[extent(3, 2, 7)]), ranges(&[(3, 5)]));
        assert_eq!(moved(&[extent(3, 2, 7)], &[]), ranges(&[(3, 5)]));
    }

    #[test]
    fn what_has_no_place_yet_may_always_have_changed() {
        let delayed = Extent { flags: 0x4, ..extent(2, 3, 0) };
        assert_eq!(moved(&[delayed], &[delayed]), ranges(&[(2, 5)]));
        let reserved = Extent { flags: 0x800, ..extent(2, 3, 9) };
        assert_eq!(moved(&[reserved], &[extent(2, 3, 9)]), ranges(&[(2, 5)]));
        assert_eq!(moved(&[reserved], &[reserved]), []);
    }
}
