//! The pages that have arrived on the target: one file with their content, in the order in which they came, and an index.
//!
//! The index is a file of 64-bit words, little endian: the eight bytes `DRVINDX1`, the number of processes, and for each
//! process its id in its own namespace, the number of its pieces, and the pieces: address of the first page, number of
//! pages, number of the first page in the file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use drover_model::PageCount;

use crate::arrived::Arrived;
use crate::pieces::{Piece, Pieces};
use crate::stream::{Object, PRESENT, Record, StreamError, StreamReader};

/// The flag of a run of pages that have become zero.
pub const ZERO: u32 = 8;
/// The flag of a run of pages that have content in the end: of a process that has any, all others are zero.
pub const KEEP: u32 = 16;

const MAGIC: &[u8; 8] = b"DRVINDX1";
const CONTENT: &str = "pages";
const INDEX: &str = "index";
/// How much is copied at once, in bytes.
const GULP: usize = 1 << 20;
const WORD: usize = 8;

/// Why pages could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The stream.
    #[error("cannot receive pages")]
    Stream(#[from] StreamError),
    /// The files.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
    /// The files.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// An index that makes no sense.
    #[error("the index of the pages makes no sense")]
    Index,
}

/// Receives the page stream of rounds into `directory`, to its end; shared memory it gives.
///
/// # Errors
/// When the stream breaks or makes no sense, or there is no room.
pub fn store(directory: &Path, input: impl Read) -> Result<Arrived, StoreError> {
    let mut stream = StreamReader::new(input)?;
    let path = directory.join(CONTENT);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(|error| StoreError::Write(path.clone(), error))?;
    let mut arriving = Arriving { path, file, slots: 0, processes: BTreeMap::new(), kept: BTreeMap::new() };
    let mut buffer = vec![0; GULP];
    let mut shared = Arrived::default();
    let mut object = None;
    loop {
        match stream.record()? {
            Record::Object(of) => object = Some(of),
            Record::Description(description) => shared.describe(description)?,
            Record::Run { flags, address, pages } => {
                let length = u64::from(pages) * PageCount::PAGE;
                let run = address..address + length;
                match (object.ok_or(StreamError::Nonsense("pages of nothing"))?, flags) {
                    (Object::Process(id), PRESENT) => arriving.content(id, run, stream.content(), &mut buffer)?,
                    (Object::Process(id), ZERO) => arriving.process(id).remove(run),
                    (Object::Process(id), KEEP) => arriving.kept.entry(id).or_default().push(run),
                    (Object::Shared(id), PRESENT) => {
                        shared.content(id, address, length, stream.content(), &mut buffer)?;
                    }
                    (Object::Shared(id), ZERO) => shared.zero(id, address, length)?,
                    _ => return Err(StreamError::Nonsense("unknown flags of a run").into()),
                }
            }
            Record::End => {
                arriving.finish(directory)?;
                shared.finish();
                return Ok(shared);
            }
        }
    }
}

struct Arriving {
    path: PathBuf,
    file: File,
    /// How many pages the file has.
    slots: u64,
    processes: BTreeMap<u64, Pieces>,
    kept: BTreeMap<u64, Vec<Range<u64>>>,
}

impl Arriving {
    fn process(&mut self, id: u64) -> &mut Pieces {
        self.processes.entry(id).or_default()
    }

    /// A page that is known already is written over; a new one goes to the end of the file.
    fn content(
        &mut self,
        process: u64,
        run: Range<u64>,
        input: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<(), StoreError> {
        let mut at = run.start;
        while at < run.end {
            let pieces = self.processes.entry(process).or_default();
            let (end, slot) = match pieces.at(at) {
                Some((slot, end)) => (end.min(run.end), slot),
                None => {
                    let end = pieces.next_after(at).unwrap_or(run.end).min(run.end);
                    let slot = self.slots;
                    self.slots += (end - at) / PageCount::PAGE;
                    pieces.insert(at, Piece { pages: (end - at) / PageCount::PAGE, slot });
                    (end, slot)
                }
            };
            self.copy(slot * PageCount::PAGE, end - at, input, buffer)?;
            at = end;
        }
        Ok(())
    }

    fn copy(&self, mut to: u64, mut left: u64, input: &mut impl Read, buffer: &mut [u8]) -> Result<(), StoreError> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            input.read_exact(&mut buffer[..most]).map_err(StreamError::Io)?;
            let written = self.file.write_all_at(&buffer[..most], to);
            written.map_err(|error| StoreError::Write(self.path.clone(), error))?;
            to += most as u64;
            left -= most as u64;
        }
        Ok(())
    }

    /// Forgets what is not kept, and writes the index.
    fn finish(mut self, directory: &Path) -> Result<(), StoreError> {
        let mut words = Vec::new();
        self.processes.retain(|id, _| self.kept.contains_key(id));
        words.push(self.processes.len() as u64);
        for (id, pieces) in &mut self.processes {
            pieces.keep(self.kept.get(id).map_or(&[], Vec::as_slice));
            words.extend([*id, pieces.iter().count() as u64]);
            for (address, piece) in pieces.iter() {
                words.extend([address, piece.pages, piece.slot]);
            }
        }
        let path = directory.join(INDEX);
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&bytes)
        });
        written.map_err(|error| StoreError::Write(path, error))
    }
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
        let mut processes = BTreeMap::new();
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
        }
        Ok(Some(Self { content, slots, processes }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::StreamWriter;

    /// What happens to pages of one process: content of one letter, zeros.
    #[derive(Debug, Clone)]
    enum Step {
        Content(u64, u32, u8),
        Zero(u64, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..40_u64, 1..9_u32, 1..=255_u8).prop_map(|(page, pages, byte)| Step::Content(page, pages, byte)),
            1 => (0..40_u64, 1..9_u32).prop_map(|(page, pages)| Step::Zero(page, pages)),
        ]
    }

    proptest! {
        #[test]
        fn the_last_version_of_each_page_is_kept(
            steps in proptest::collection::vec(step(), 0..40),
            keep in proptest::collection::vec((0..40_u64, 1..20_u32), 0..4),
        ) {
            const BASE: u64 = 0x10_0000;
            let mut bytes = Vec::new();
            let mut writer = StreamWriter::new(&mut bytes).unwrap();
            writer.object(Object::Process(5)).unwrap();
            // A model as plain as can be: a byte for each page.
            let mut model = [0_u8; 64];
            for step in &steps {
                let (page, pages, byte) = match *step {
                    Step::Content(page, pages, byte) => (page, pages, byte),
                    Step::Zero(page, pages) => (page, pages, 0),
                };
                model[page as usize..][..pages as usize].fill(byte);
                let flags = if byte == 0 { ZERO } else { PRESENT };
                writer.run(flags, BASE + page * 4096, pages).unwrap();
                if byte != 0 {
                    writer.content().write_all(&vec![byte; pages as usize * 4096]).unwrap();
                }
            }
            let mut kept = [false; 64];
            for (page, pages) in keep {
                kept[page as usize..][..pages as usize].fill(true);
                writer.run(KEEP, BASE + page * 4096, pages).unwrap();
            }
            let none = !kept.contains(&true);
            writer.end().unwrap();
            let directory = tempfile::tempdir().unwrap();
            store(directory.path(), &bytes[..]).unwrap();
            let stored = Stored::open(directory.path()).unwrap().unwrap();
            let mut content = Vec::new();
            (&stored.content).read_to_end(&mut content).unwrap();
            let pieces = stored.processes.get(&5);
            prop_assert!(!none || pieces.is_none());
            for page in 0..64_u64 {
                let found = pieces.and_then(|pieces| pieces.at(BASE + page * 4096));
                let byte = found.map_or(0, |(slot, _)| content[slot as usize * 4096 + 17]);
                let wanted = if kept[page as usize] { model[page as usize] } else { 0 };
                prop_assert_eq!(byte, wanted, "page {}", page);
            }
        }
    }

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
        assert!(index(&[1, 7, 1, 0x1000, 1, 0]).unwrap().is_some());
        for wrong in [&[1, 7, 1, 0x1000, 2, 0][..], &[1, 7, 1, 0x1000, 1, u64::MAX], &[1, 7, 2, 0x1000, 1, 0], &[]] {
            assert!(index(wrong).is_err(), "{wrong:?}");
        }
    }
}
