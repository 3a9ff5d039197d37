//! The pages that have arrived on the target: one file with their content, in the order in which they came, and an index.
//!
//! The index is a file of 64-bit words, little endian: the eight bytes `DRVINDX2`, the number of processes, and for each
//! process its id in its own namespace, the number of its pieces, the pieces (address of the first page, number of pages,
//! number of the first page in the file), the number of runs that will follow, and those: address of the first page,
//! number of pages.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use drover_model::PageCount;

use crate::buffers::Buffers;
use crate::inflow::Inflow;
use crate::pack::{Algorithm, Unpacker};
use crate::pages::PageSet;
use crate::pieces::{Piece, Pieces};
use crate::stream::{MAX_BLOCK, Object, PRESENT, Record, Run, StreamError, StreamReader};
use crate::writer::{Ended, Place, Writer};

/// The flag of a run of pages that have become zero.
pub const ZERO: u32 = 8;
/// The flag of a run of pages that have content in the end: of a process that has any, all others are zero.
pub const KEEP: u32 = 16;

/// The flag of a run of pages that are on the source alone, and follow.
pub const AWAIT: u32 = 32;

const MAGIC: &[u8; 8] = b"DRVINDX2";
const CONTENT: &str = "pages";
const INDEX: &str = "index";
/// The longest content that is taken at once, in bytes.
const GULP: usize = MAX_BLOCK as usize * PageCount::PAGE as usize;
/// How many unpacked blocks are kept for the next ones: those that may wait to be written, and some.
const BUFFERS: usize = 12;
/// The most processes.
const PROCESSES: usize = 1 << 16;
/// The most runs without content that say what becomes of pages in the end.
const NAMED: usize = 1 << 23;
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
    /// A thread or a library.
    #[error("cannot begin to store pages")]
    Begin(#[source] io::Error),
}

/// Receives the page stream of rounds into `directory`, to its end. `marked` is called at the end of each round. Gives
/// how many pages have content in the end.
///
/// # Errors
/// When the stream breaks or makes no sense, or there is no room.
pub fn store(
    directory: &Path,
    input: &mut Inflow<impl Iterator<Item = Bytes>>,
    mut marked: impl FnMut(),
) -> Result<PageCount, StoreError> {
    let mut stream = StreamReader::new(input)?;
    let path = directory.join(CONTENT);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(|error| StoreError::Write(path.clone(), error))?;
    let mut arriving = Arriving::default();
    std::thread::scope(|scope| {
        let writer = Writer::start(scope, &file).map_err(StoreError::Begin)?;
        let received = arriving.receive(&mut stream, &writer, &mut marked);
        // What the writer says comes first: without it nothing could be received either.
        writer.end().map_err(|error| StoreError::Write(path, error))?;
        received
    })?;
    arriving.finish(directory)
}

/// What has arrived by now.
#[derive(Default)]
struct Arriving {
    /// How many pages the file has.
    slots: u64,
    processes: BTreeMap<u64, Pieces>,
    kept: BTreeMap<u64, Vec<Range<u64>>>,
    awaited: BTreeMap<u64, Vec<Range<u64>>>,
    /// How many runs were named.
    named: usize,
}

impl Arriving {
    fn receive<I: Iterator<Item = Bytes>>(
        &mut self,
        stream: &mut StreamReader<&mut Inflow<I>>,
        writer: &Writer<'_>,
        marked: &mut impl FnMut(),
    ) -> Result<(), StoreError> {
        let mut unpacker = Unpacker::new().map_err(StoreError::Begin)?;
        let buffers = Buffers::new(GULP, BUFFERS);
        let mut process = None;
        loop {
            match stream.record()? {
                Record::Object(Object::Process(id)) => process = Some(id),
                Record::Object(Object::Shared(_)) => return Err(nonsense("shared memory in a round")),
                Record::Run { flags, address, pages } => {
                    let id = process.ok_or_else(|| nonsense("pages of nothing"))?;
                    let run = Run { address, pages };
                    match flags {
                        PRESENT => {
                            let places = self.places(id, &[run])?;
                            copy(&places, stream.content(), writer)?;
                        }
                        ZERO => self.process(id)?.remove(run.address..run.end()),
                        KEEP => self.keep(id, run)?,
                        AWAIT => self.follow(id, run)?,
                        _ => return Err(nonsense("unknown flags of a run")),
                    }
                }
                Record::Block { algorithm, length, pages } => {
                    let id = process.ok_or_else(|| nonsense("pages of nothing"))?;
                    let places = self.places(id, stream.runs())?;
                    let mut content = stream.content().cut(length as usize).map_err(StreamError::Io)?;
                    if algorithm != Algorithm::None {
                        let mut buffer = buffers.take();
                        let whole = 0..PageCount(pages.into()).bytes().0 as usize;
                        let unpacked = unpacker.unpack(algorithm, &content, &mut buffer[whole.clone()]);
                        unpacked.map_err(|_| nonsense("a block that cannot be unpacked"))?;
                        content = buffer.share(whole);
                    }
                    writer.write(places, content).map_err(ended)?;
                }
                Record::Mark => {
                    writer.finish().map_err(ended)?;
                    marked();
                }
                Record::End => return Ok(()),
            }
        }
    }

    fn process(&mut self, id: u64) -> Result<&mut Pieces, StoreError> {
        if self.processes.len() >= PROCESSES && !self.processes.contains_key(&id) {
            return Err(nonsense("too many processes"));
        }
        Ok(self.processes.entry(id).or_default())
    }

    fn keep(&mut self, id: u64, run: Run) -> Result<(), StoreError> {
        self.name()?;
        self.kept.entry(id).or_default().push(run.address..run.end());
        Ok(())
    }

    fn follow(&mut self, id: u64, run: Run) -> Result<(), StoreError> {
        self.name()?;
        self.process(id)?.remove(run.address..run.end());
        self.awaited.entry(id).or_default().push(run.address..run.end());
        Ok(())
    }

    fn name(&mut self) -> Result<(), StoreError> {
        self.named += 1;
        if self.named > NAMED { Err(nonsense("too many pages that are only named")) } else { Ok(()) }
    }

    /// Where pages go: one that is known already is written over; a new one goes to the end of the file.
    fn places(&mut self, id: u64, runs: &[Run]) -> Result<Vec<Place>, StoreError> {
        let mut slots = self.slots;
        let pieces = self.process(id)?;
        let mut places: Vec<Place> = Vec::with_capacity(runs.len());
        for run in runs {
            let mut at = run.address;
            while at < run.end() {
                let (end, slot) = match pieces.at(at) {
                    Some((slot, end)) => (end.min(run.end()), slot),
                    None => {
                        let end = pieces.next_after(at).unwrap_or(run.end()).min(run.end());
                        let (slot, pages) = (slots, (end - at) / PageCount::PAGE);
                        slots += pages;
                        pieces.insert(at, Piece { pages, slot });
                        (end, slot)
                    }
                };
                let place = Place { offset: slot * PageCount::PAGE, length: (end - at) as usize };
                match places.last_mut() {
                    Some(last) if last.offset + last.length as u64 == place.offset => last.length += place.length,
                    _ => places.push(place),
                }
                at = end;
            }
        }
        self.slots = slots;
        Ok(places)
    }

    /// Forgets what is not kept, and writes the index.
    fn finish(mut self, directory: &Path) -> Result<PageCount, StoreError> {
        let mut pages = 0;
        let mut words = Vec::new();
        self.processes.retain(|id, _| self.kept.contains_key(id));
        for id in self.awaited.keys() {
            self.processes.entry(*id).or_default();
        }
        words.push(self.processes.len() as u64);
        for (id, pieces) in &mut self.processes {
            pieces.keep(self.kept.get(id).map_or(&[], Vec::as_slice));
            words.extend([*id, pieces.iter().count() as u64]);
            for (address, piece) in pieces.iter() {
                words.extend([address, piece.pages, piece.slot]);
                pages += piece.pages;
            }
            let awaited = PageSet::of(self.awaited.remove(id).unwrap_or_default());
            words.push(awaited.runs().len() as u64);
            words.extend(awaited.runs().iter().flat_map(|run| [run.start, (run.end - run.start) / PageCount::PAGE]));
        }
        let path = directory.join(INDEX);
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&bytes)
        });
        written.map_err(|error| StoreError::Write(path, error))?;
        Ok(PageCount(pages))
    }
}

/// Content that is not packed, however much it is.
fn copy<I: Iterator<Item = Bytes>>(
    places: &[Place],
    input: &mut Inflow<I>,
    writer: &Writer<'_>,
) -> Result<(), StoreError> {
    for place in places {
        let mut done = 0;
        while done < place.length {
            let length = (place.length - done).min(GULP);
            let content = input.cut(length).map_err(StreamError::Io)?;
            let place = Place { offset: place.offset + done as u64, length };
            writer.write(vec![place], content).map_err(ended)?;
            done += length;
        }
    }
    Ok(())
}

fn nonsense(what: &'static str) -> StoreError {
    StreamError::Nonsense(what).into()
}

/// The writer says why itself.
fn ended(Ended: Ended) -> StreamError {
    StreamError::Io(io::ErrorKind::BrokenPipe.into())
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
        let (mut processes, mut awaited) = (BTreeMap::new(), BTreeMap::new());
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
            for _ in 0..next()? {
                let (address, pages) = (next()?, next()?);
                let end = pages.checked_mul(PageCount::PAGE).and_then(|length| address.checked_add(length));
                end.filter(|_| address.is_multiple_of(PageCount::PAGE)).ok_or(StoreError::Index)?;
                pieces.insert(address, Piece { pages, slot: address / PageCount::PAGE });
            }
            awaited.insert(id, pieces);
        }
        Ok(Some(Self { content, slots, processes, awaited }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

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
            follow in proptest::collection::vec((0..40_u64, 1..9_u32), 0..3),
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
            let mut awaited = [false; 64];
            for (page, pages) in follow {
                awaited[page as usize..][..pages as usize].fill(true);
                writer.run(AWAIT, BASE + page * 4096, pages).unwrap();
            }
            let none = !kept.contains(&true) && !awaited.contains(&true);
            writer.end().unwrap();
            let directory = tempfile::tempdir().unwrap();
            store(directory.path(), &mut Inflow::new(std::iter::once(bytes.into())), || ()).unwrap();
            let stored = Stored::open(directory.path()).unwrap().unwrap();
            let mut content = Vec::new();
            (&stored.content).read_to_end(&mut content).unwrap();
            let pieces = stored.processes.get(&5);
            prop_assert!(!none || pieces.is_none());
            for page in 0..64_u64 {
                let found = pieces.and_then(|pieces| pieces.at(BASE + page * 4096));
                let byte = found.map_or(0, |(slot, _)| content[slot as usize * 4096 + 17]);
                let page = page as usize;
                let wanted = if kept[page] && !awaited[page] { model[page] } else { 0 };
                prop_assert_eq!(byte, wanted, "page {}", page);
                let address = BASE + page as u64 * 4096;
                let follows = stored.awaited.get(&5).and_then(|pieces| pieces.at(address));
                prop_assert_eq!(follows.map(|(slot, _)| slot), awaited[page].then_some(address / 4096));
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
        assert!(index(&[1, 7, 1, 0x1000, 1, 0, 1, 0x5000, 3]).unwrap().is_some());
        let wrong: [&[u64]; 7] = [
            &[1, 7, 1, 0x1000, 2, 0, 0],
            &[1, 7, 1, 0x1000, 1, u64::MAX, 0],
            &[1, 7, 2, 0x1000, 1, 0, 0],
            &[1, 7, 1, 0x1000, 1, 0],
            &[1, 7, 0, 1, 0x5001, 1],
            &[1, 7, 0, 1, 0x5000, u64::MAX],
            &[],
        ];
        for wrong in wrong {
            assert!(index(wrong).is_err(), "{wrong:?}");
        }
    }
}
