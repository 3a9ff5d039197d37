//! Receiving pages on the target: one file with the processes' pages, in the order in which they came, and an index.
//! The pieces of shared memory are files of their own (`arrived.rs`).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use drover_model::PageCount;

use crate::arrived::Arrived;
use crate::buffers::Buffers;
use crate::inflow::Inflow;
use crate::pages::PageSet;
use crate::pieces::{Piece, Pieces};
use crate::recent::Recent;
use crate::record::{MAX_BLOCK, Object, PRESENT, Record, Run};
use crate::room::{Room, RoomError};
use crate::stored::{CONTENT, words_of, write_index};
use crate::stream::{StreamError, StreamReader};
use crate::writer::{Ended, Place, Writer};
use drover_packing::{Algorithm, Unpacker};

/// The flag of a run of pages that have become zero.
pub const ZERO: u32 = 8;
/// The flag of a run of pages that have content in the end: of a process that has any, all others are zero.
pub const KEEP: u32 = 16;

/// The flag of a run of pages that are on the source alone, and follow.
pub const AWAIT: u32 = 32;

/// The longest content that is taken at once, in bytes.
const GULP: usize = MAX_BLOCK as usize * PageCount::PAGE as usize;
/// How many unpacked blocks are kept for the next ones: those that may wait to be written, and some.
const BUFFERS: usize = 12;
/// The most processes.
pub(crate) const PROCESSES: usize = 1 << 16;
/// The most runs without content that say what becomes of pages in the end.
pub(crate) const NAMED: usize = 1 << 23;

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
    /// The machine.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// A thread or a library.
    #[error("cannot begin to store pages")]
    Begin(#[source] io::Error),
}

/// Receives the page stream of rounds into `directory`, to its end. `marked` is called at the end of each round. Gives
/// the shared memory.
///
/// # Errors
/// When the stream breaks or makes no sense, or there is no `room`.
pub fn store(
    directory: &Path,
    input: &mut Inflow<impl Iterator<Item = Bytes>>,
    room: Room,
    mut marked: impl FnMut(),
) -> Result<Arrived, StoreError> {
    let mut stream = StreamReader::new(input)?;
    let path = directory.join(CONTENT);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(|error| StoreError::Write(path.clone(), error))?;
    let mut arriving = Arriving { room, ..Arriving::default() };
    std::thread::scope(|scope| {
        let writer = Writer::start(scope, &file).map_err(StoreError::Begin)?;
        let received = arriving.receive(&mut stream, &writer, &mut marked);
        // What the writer says comes first: without it nothing could be received either.
        writer.end().map_err(|error| StoreError::Write(path, error))?;
        received
    })?;
    arriving.finish(directory)
}

/// Stores a stream that is there as a whole.
#[cfg(test)]
pub(crate) fn store_whole(directory: &Path, stream: Vec<u8>) -> Arrived {
    let mut input = Inflow::new(std::iter::once(stream.into()));
    store(directory, &mut input, Room::default(), || ()).unwrap()
}

/// What has arrived by now.
#[derive(Default)]
struct Arriving {
    /// How many pages the file has.
    slots: u64,
    processes: BTreeMap<u64, Pieces>,
    kept: BTreeMap<u64, Vec<Range<u64>>>,
    awaited: BTreeMap<u64, Vec<Range<u64>>>,
    recent: Recent,
    /// How many runs were named.
    named: usize,
    shared: Arrived,
    room: Room,
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
        let mut object = None;
        loop {
            match stream.record()? {
                Record::Object(of) => object = Some(of),
                Record::Description(description) => self.shared.describe(description)?,
                Record::Run { flags, address, pages } => {
                    let run = Run { address, pages };
                    match (object.ok_or_else(|| nonsense("pages of nothing"))?, flags) {
                        (Object::Process(id), PRESENT) => {
                            let places = self.places(id, &[run])?;
                            copy(&places, stream.content(), writer)?;
                        }
                        (Object::Process(id), ZERO) => self.process(id)?.remove(run.address..run.end()),
                        (Object::Process(id), KEEP) => self.keep(id, run)?,
                        (Object::Process(id), AWAIT) => self.follow(id, run)?,
                        (Object::Shared(id), PRESENT) => self.copy_shared(id, run, stream.content())?,
                        (Object::Shared(id), ZERO) => self.shared.zero(id, address, run.end() - address)?,
                        _ => return Err(nonsense("unknown flags of a run")),
                    }
                }
                Record::Block { algorithm, length, pages } => {
                    let mut content = stream.content().cut(length as usize).map_err(StreamError::Io)?;
                    if algorithm != Algorithm::None {
                        let mut buffer = buffers.take();
                        let whole = 0..PageCount(pages.into()).bytes().0 as usize;
                        let unpacked = unpacker.unpack(algorithm, &content, &mut buffer[whole.clone()]);
                        unpacked.map_err(|_| nonsense("a block that cannot be unpacked"))?;
                        content = buffer.share(whole);
                    }
                    match object.ok_or_else(|| nonsense("pages of nothing"))? {
                        Object::Process(id) => {
                            let places = self.places(id, stream.runs())?;
                            writer.write(places, content).map_err(ended)?;
                        }
                        Object::Shared(id) => {
                            for run in stream.runs() {
                                let length = (run.end() - run.address) as usize;
                                self.put_shared(id, run.address, &content.split_to(length))?;
                            }
                        }
                    }
                }
                Record::Mark => {
                    writer.finish().map_err(ended)?;
                    self.recent.mark();
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
        self.room.take(runs.iter().map(|run| run.end() - run.address).sum())?;
        let mut slots = self.slots;
        self.recent.note(id, runs);
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
        self.hold()?;
        Ok(places)
    }

    /// Content of shared memory that is not packed, however much it is.
    fn copy_shared<I: Iterator<Item = Bytes>>(
        &mut self,
        id: u64,
        run: Run,
        input: &mut Inflow<I>,
    ) -> Result<(), StoreError> {
        let mut at = run.address;
        while at < run.end() {
            let length = ((run.end() - at) as usize).min(GULP);
            let content = input.cut(length).map_err(StreamError::Io)?;
            self.put_shared(id, at, &content)?;
            at += length as u64;
        }
        Ok(())
    }

    fn put_shared(&mut self, id: u64, at: u64, content: &[u8]) -> Result<(), StoreError> {
        self.room.take(content.len() as u64)?;
        self.shared.content(id, at, content)?;
        // It may have been there already, and was a piece of bounded length in any case.
        self.hold()
    }

    /// Sees to it that all that is kept was offered.
    fn hold(&mut self) -> Result<(), StoreError> {
        let own = PageCount(self.slots).bytes().0;
        let shared = self.shared.held(own, &self.room)?;
        Ok(self.room.hold(own.saturating_add(shared))?)
    }

    /// Forgets what is not kept, and writes the index.
    fn finish(mut self, directory: &Path) -> Result<Arrived, StoreError> {
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
            }
            let awaited = PageSet::of(self.awaited.remove(id).unwrap_or_default());
            words.extend(words_of(awaited.runs()));
            words.extend(words_of(&self.recent.take(*id)));
        }
        write_index(directory, words)?;
        self.shared.finish();
        Ok(self.shared)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use drover_model::Compression;
    use proptest::prelude::*;

    use super::*;
    use crate::outflow::{Outflow, Verdict};
    use crate::record::{Description, put_description};
    use crate::stored::Stored;
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
            store_whole(directory.path(), bytes);
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

    /// Blocks that unpack to far more than they are, of pages that nobody has offered.
    #[test]
    fn a_stream_that_would_take_the_last_memory_is_refused() {
        let full = || Ok(crate::room::MachineMemory { total: 64 << 30, available: 1 << 20 });
        let mut bytes = Vec::new();
        let mut stream = Outflow::new(&mut bytes, Compression::Zstd, ZERO).unwrap();
        stream.object(Object::Process(5)).unwrap();
        let pages = MAX_BLOCK;
        for block in 0..64_u64 {
            let run = Run { address: (1 << 30) + block * u64::from(pages) * PageCount::PAGE, pages };
            stream.room().unwrap()[..GULP].fill(7);
            stream.put(std::iter::once(run), |_, _| Verdict::Send).unwrap();
        }
        stream.end().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut input = Inflow::new(std::iter::once(bytes.into()));
        let refused = store(directory.path(), &mut input, Room::of(full), || ());
        assert!(matches!(refused, Err(StoreError::Room(RoomError::Full { .. }))), "{refused:?}");
        let written = std::fs::metadata(directory.path().join(CONTENT)).unwrap().len();
        assert!(written < 32 << 20, "{written}");
    }

    #[test]
    fn pages_that_were_not_offered_are_refused_and_those_that_come_again_are_not() {
        const OFFERED: u64 = 4;
        let send = |object, pages: &[u64]| {
            let mut bytes = Vec::new();
            let mut stream = StreamWriter::new(&mut bytes).unwrap();
            let size = 1 << 40;
            let begun = Description {
                id: 9,
                last: false,
                sealable: false,
                system_five: false,
                size,
                process: 5,
                address: 0,
                name: Vec::new(),
            };
            let mut record = Vec::new();
            put_description(&mut record, &begun);
            stream.content().write_all(&record).unwrap();
            stream.object(object).unwrap();
            for page in pages {
                stream.run(PRESENT, page * PageCount::PAGE, 1).unwrap();
                stream.content().write_all(&[7; PageCount::PAGE as usize]).unwrap();
            }
            stream.end().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let mut input = Inflow::new(std::iter::once(bytes.into()));
            store(directory.path(), &mut input, Room::within(PageCount(OFFERED).bytes()), || ())
        };
        for object in [Object::Process(5), Object::Shared(9)] {
            let again: Vec<u64> = (0..100).map(|number| number % OFFERED).collect();
            send(object, &again).unwrap();
            let refused = send(object, &[0, 1, 2, 3, 1 << 20]);
            assert!(matches!(refused, Err(StoreError::Room(RoomError::Offered(_)))), "{object:?}: {refused:?}");
        }
    }
}
