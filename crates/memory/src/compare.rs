//! Comparing a file with what is known of it by the names of its pages, block by block.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use drover_model::PageCount;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::hash::{Names, ZEROS};

const PAGE: u64 = PageCount::PAGE;
/// The pages that are looked at together.
pub const BLOCK: u64 = 64;
pub const BLOCK_BYTES: usize = (BLOCK * PAGE) as usize;

/// The names of a block's pages.
pub type BlockNames = [u128; BLOCK as usize];

/// The blocks that have data now, or of which the target has some.
pub fn blocks(file: &File, known: &BTreeMap<u64, Box<BlockNames>>) -> io::Result<BTreeSet<u64>> {
    let mut blocks: BTreeSet<u64> = known.keys().copied().collect();
    let mut at = 0;
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Ok(data) => {
                let block = data / BLOCK_BYTES as u64;
                blocks.insert(block);
                at = (block + 1) * BLOCK_BYTES as u64;
            }
            Err(Errno::NXIO) => return Ok(blocks),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Which pages of these blocks are not as the target has them.
pub fn differing<'a>(
    names: Names,
    file: &File,
    known: &BTreeMap<u64, Box<BlockNames>>,
    blocks: impl IntoIterator<Item = &'a u64>,
) -> io::Result<Vec<Range<u64>>> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut differ = Vec::new();
    for block in blocks {
        read(file, block * BLOCK * PAGE, &mut buffer)?;
        let theirs = known.get(block);
        for (page, index) in buffer.chunks(PAGE as usize).zip(0..) {
            if names.of_page(page) != theirs.map_or(ZEROS, |theirs| theirs[index as usize]) {
                let number = block * BLOCK + index;
                differ.push(number..number + 1);
            }
        }
    }
    Ok(runs(differ.into_iter()))
}

/// The same by all processors.
pub fn differing_in_parallel(
    names: Names,
    file: &File,
    known: &BTreeMap<u64, Box<BlockNames>>,
    blocks: &[u64],
) -> io::Result<Vec<Range<u64>>> {
    /// Less than this, in blocks, is not worth a thread.
    const SHARE: usize = 64;
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = blocks.len().div_ceil(threads).max(SHARE);
    std::thread::scope(|scope| {
        let looking: Vec<_> =
            blocks.chunks(share).map(|blocks| scope.spawn(move || differing(names, file, known, blocks))).collect();
        let mut differ = Vec::new();
        for looked in looking {
            differ.extend(looked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(differ)
    })
}

/// Reads; what is behind the end is zero.
pub fn read(file: &File, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(length) => {
                at += length as u64;
                buffer = &mut buffer[length..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Joins runs that stand side by side.
pub fn runs(parts: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for part in parts {
        match runs.last_mut() {
            Some(last) if last.end == part.start => last.end = part.end,
            _ => runs.push(part),
        }
    }
    runs
}
