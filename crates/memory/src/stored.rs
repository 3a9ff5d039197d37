//! What the store has left on the target: where each page of each process is.
//!
//! The index is a file of 64-bit words, little endian: the eight bytes `DRVINDX3`, the number of processes, and for each
//! process its id in its own namespace, the number of its pieces, the pieces (address of the first page, number of pages,
//! number of the first page in the file), the number of runs that will follow, and those: address of the first page,
//! number of pages; likewise the runs that were written last.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use drover_model::PageCount;

use crate::pieces::{Piece, Pieces};
use crate::store::StoreError;

/// The file with the pages.
pub(crate) const CONTENT: &str = "pages";
const MAGIC: &[u8; 8] = b"DRVINDX3";
const INDEX: &str = "index";
const WORD: usize = 8;

/// Writes the index behind its first eight bytes.
pub(crate) fn write_index(directory: &Path, words: Vec<u64>) -> Result<(), StoreError> {
    let path = directory.join(INDEX);
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.write_all(&bytes)
    });
    written.map_err(|error| StoreError::Write(path, error))
}

/// What was stored: the content, and where in it each process's pages are.
#[derive(Debug)]
pub struct Stored {
    /// The pages.
    pub(crate) content: File,
    /// How many.
    pub(crate) slots: u64,
    /// By the processes' ids in their own namespace.
    pub(crate) processes: BTreeMap<u64, Pieces>,
    /// The pages that follow, likewise. Their slots are the numbers of the pages on the source.
    pub(crate) awaited: BTreeMap<u64, Pieces>,
    /// Pages that were written last, the very last ones at the end.
    pub(crate) recent: BTreeMap<u64, Vec<Range<u64>>>,
}

impl Stored {
    /// Opens what `store` has left in `directory`; `None` when nothing was stored there.
    ///
    /// # Errors
    /// When the files cannot be read or make no sense.
    pub fn open(directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = directory.join(INDEX);
        let index = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            index => index.map_err(|error| StoreError::Read(path, error))?,
        };
        let path = directory.join(CONTENT);
        let content = OpenOptions::new().read(true).write(true).open(&path);
        let content = content.map_err(|error| StoreError::Read(path.clone(), error))?;
        let slots = content.metadata().map_err(|error| StoreError::Read(path, error))?.len() / PageCount::PAGE;
        let words =
            index.strip_prefix(MAGIC).filter(|words| words.len().is_multiple_of(WORD)).ok_or(StoreError::Index)?;
        let mut words = words.chunks_exact(WORD).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        let mut next = || words.next().ok_or(StoreError::Index);
        let (mut processes, mut awaited, mut recent) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for _ in 0..next()? {
            let (id, count) = (next()?, next()?);
            let mut pieces = Pieces::default();
            for _ in 0..count {
                let (address, pages, slot) = (next()?, next()?, next()?);
                if slot.checked_add(pages).is_none_or(|end| end > slots) {
                    return Err(StoreError::Index);
                }
                pieces.insert(address, Piece { pages, slot });
            }
            processes.insert(id, pieces);
            let mut pieces = Pieces::default();
            for run in runs(&mut next)? {
                let (pages, slot) = ((run.end - run.start) / PageCount::PAGE, run.start / PageCount::PAGE);
                pieces.insert(run.start, Piece { pages, slot });
            }
            awaited.insert(id, pieces);
            recent.insert(id, runs(&mut next)?);
        }
        Ok(Some(Self { content, slots, processes, awaited, recent }))
    }
}

/// The words of runs, behind their number.
pub(crate) fn words_of(runs: &[Range<u64>]) -> impl Iterator<Item = u64> {
    let words = runs.iter().flat_map(|run| [run.start, (run.end - run.start) / PageCount::PAGE]);
    std::iter::once(runs.len() as u64).chain(words)
}

fn runs(next: &mut impl FnMut() -> Result<u64, StoreError>) -> Result<Vec<Range<u64>>, StoreError> {
    let mut runs = Vec::new();
    for _ in 0..next()? {
        let (address, pages) = (next()?, next()?);
        let end = pages.checked_mul(PageCount::PAGE).and_then(|length| address.checked_add(length));
        let end = end.filter(|_| address.is_multiple_of(PageCount::PAGE)).ok_or(StoreError::Index)?;
        runs.push(address..end);
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_points_outside_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Stored::open(directory.path()).unwrap().is_none());
        std::fs::write(directory.path().join(CONTENT), [0; 4096]).unwrap();
        let index = |words: &[u64]| {
            let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            std::fs::write(directory.path().join(INDEX), [&MAGIC[..], &words].concat()).unwrap();
            Stored::open(directory.path())
        };
        assert!(index(&[1, 7, 1, 0x1000, 1, 0, 1, 0x5000, 3, 1, 0x1000, 1]).unwrap().is_some());
        let wrong: [&[u64]; 8] = [
            &[1, 7, 1, 0x1000, 2, 0, 0, 0],
            &[1, 7, 1, 0x1000, 1, u64::MAX, 0, 0],
            &[1, 7, 2, 0x1000, 1, 0, 0, 0],
            &[1, 7, 1, 0x1000, 1, 0],
            &[1, 7, 1, 0x1000, 1, 0, 0],
            &[1, 7, 0, 1, 0x5001, 1, 0],
            &[1, 7, 0, 1, 0x5000, u64::MAX, 0],
            &[],
        ];
        for wrong in wrong {
            assert!(index(wrong).is_err(), "{wrong:?}");
        }
    }
}
