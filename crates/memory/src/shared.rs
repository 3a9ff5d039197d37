//! The source's side of shared memory: what the target has of it is known by a hash of each page, and what differs is sent.
//!
//! Shared memory may be written through any mapping in any process, also in one that has ended since, and by `write(2)`:
//! no page table knows it all. So all of it is read, in every round, and in the last one while everything stands still.
//! The hashes have 128 bits and a secret seed: that two contents of a page have the same one by chance does not happen.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::Range;

use drover_model::PageCount;
use drover_sys::shared::SharedFile;

use crate::compare::{BLOCK, BLOCK_BYTES, Hash, Hashes, blocks, differing, differing_in_parallel, read, runs};
use crate::objects::{Found, find};
use crate::store::ZERO;
use crate::stream::{Object, PRESENT, StreamWriter};

const PAGE: u64 = PageCount::PAGE;
/// The shared memory of a container.
#[derive(Debug)]
pub(crate) struct Shared {
    hash: Hash,
    known: BTreeMap<u64, Known>,
}

/// What the target has of a piece of shared memory.
#[derive(Debug)]
struct Known {
    name: Vec<u8>,
    sealable: bool,
    system_five: bool,
    /// The hashes of its pages by block; of blocks that are not listed it has zeros.
    hashes: BTreeMap<u64, Box<Hashes>>,
    /// The numbers of the pages that differed when they were last looked at.
    pending: Vec<Range<u64>>,
}

/// What stands still and is to be sent.
#[derive(Debug)]
pub(crate) struct Still {
    shared: Shared,
    found: BTreeMap<u64, Found>,
}

impl Shared {
    pub fn new() -> Self {
        Self { hash: Hash::new(), known: BTreeMap::new() }
    }

    /// Sends what differed at the end of the last round, and of new pieces everything. Gives how many pages had content,
    /// and how many differ now.
    pub fn round(&mut self, stream: &mut StreamWriter<impl Write>, pids: &[u32]) -> io::Result<(u64, u64)> {
        let found = find(pids);
        self.meet(stream, &found)?;
        let (mut sent, mut differ) = (0, 0);
        for (id, one) in &found {
            let Some(known) = self.known.get_mut(id) else { continue };
            let pending = std::mem::take(&mut known.pending);
            sent += send(stream, &self.hash, *id, one, known, &pending)?;
        }
        stream.content().flush()?;
        for (id, one) in &found {
            let Some(known) = self.known.get_mut(id) else { continue };
            let blocks = blocks(&one.file, &known.hashes)?;
            known.pending = differing(&self.hash, &one.file, &known.hashes, &blocks)?;
            differ += known.pending.iter().map(|run| run.end - run.start).sum::<u64>();
        }
        Ok((sent, differ))
    }

    /// Finds what there is while everything stands still; it must stand still until it was sent.
    pub fn still(self, pids: &[u32]) -> Still {
        Still { found: find(pids), shared: self }
    }

    /// Forgets pieces that have gone, and says what is new.
    fn meet(&mut self, stream: &mut StreamWriter<impl Write>, found: &BTreeMap<u64, Found>) -> io::Result<()> {
        // One that has the number of another that has gone is sent from the beginning.
        self.known.retain(|id, known| found.get(id).is_some_and(|one| known.is(one)));
        for (id, one) in found {
            if self.known.contains_key(id) {
                continue;
            }
            stream.describe(&one.description)?;
            let mut known = Known {
                name: one.description.name.clone(),
                sealable: one.description.sealable,
                system_five: one.description.system_five,
                hashes: BTreeMap::new(),
                pending: Vec::new(),
            };
            known.pending =
                runs(blocks(&one.file, &known.hashes)?.into_iter().map(|block| block * BLOCK..(block + 1) * BLOCK));
            self.known.insert(*id, known);
        }
        Ok(())
    }
}

impl Known {
    fn is(&self, one: &Found) -> bool {
        let description = &one.description;
        self.name == description.name
            && self.sealable == description.sealable
            && self.system_five == description.system_five
    }
}

impl Still {
    /// What will have been sent.
    pub fn covered(&self) -> BTreeSet<SharedFile> {
        self.found.values().map(|one| one.shared).collect()
    }

    /// Sends what differs, and where each piece belongs. Gives how many pages had content.
    pub fn send(self, stream: &mut StreamWriter<impl Write>) -> io::Result<u64> {
        let Self { mut shared, found } = self;
        shared.meet(stream, &found)?;
        let mut sent = 0;
        for (id, one) in found {
            let Some(known) = shared.known.get_mut(&id) else { continue };
            let blocks: Vec<u64> = blocks(&one.file, &known.hashes)?.into_iter().collect();
            let differ = differing_in_parallel(&shared.hash, &one.file, &known.hashes, &blocks)?;
            sent += send(stream, &shared.hash, id, &one, known, &differ)?;
            let mut description = one.description;
            description.last = true;
            stream.describe(&description)?;
        }
        Ok(sent)
    }
}

/// Sends those of the given pages that the target has otherwise, as they are now. Gives how many had content.
fn send(
    stream: &mut StreamWriter<impl Write>,
    hash: &Hash,
    id: u64,
    one: &Found,
    known: &mut Known,
    pages: &[Range<u64>],
) -> io::Result<u64> {
    if pages.is_empty() {
        return Ok(0);
    }
    stream.object(Object::Shared(id))?;
    let mut sent = 0;
    let mut buffer = vec![0; BLOCK_BYTES];
    for run in pages {
        let mut from = run.start;
        while from < run.end {
            let block = from / BLOCK;
            let to = run.end.min((block + 1) * BLOCK);
            let content = &mut buffer[..((to - from) * PAGE) as usize];
            read(&one.file, from * PAGE, content)?;
            let theirs = known.hashes.entry(block).or_insert_with(|| Box::new([hash.zero; BLOCK as usize]));
            sent += send_block(stream, hash, from, content, &mut theirs[(from % BLOCK) as usize..])?;
            if theirs.iter().all(|theirs| *theirs == hash.zero) {
                known.hashes.remove(&block);
            }
            from = to;
        }
    }
    Ok(sent)
}

fn send_block(
    stream: &mut StreamWriter<impl Write>,
    hash: &Hash,
    first: u64,
    content: &[u8],
    theirs: &mut [u128],
) -> io::Result<u64> {
    let mut sent = 0;
    // What becomes of each page; neighbours of one kind are sent together.
    let pages: Vec<(Option<u32>, &[u8])> = content
        .chunks(PAGE as usize)
        .zip(theirs)
        .map(|(page, theirs)| {
            let ours = hash.of(page);
            let differs = std::mem::replace(theirs, ours) != ours;
            (differs.then_some(if ours == hash.zero { ZERO } else { PRESENT }), page)
        })
        .collect();
    let mut number = first;
    for run in pages.chunk_by(|a, b| a.0 == b.0) {
        if let Some(flags) = run[0].0 {
            stream.run(flags, number * PAGE, u32::try_from(run.len()).unwrap_or(BLOCK as u32))?;
            if flags == PRESENT {
                let from = ((number - first) * PAGE) as usize;
                stream.content().write_all(&content[from..from + run.len() * PAGE as usize])?;
                sent += run.len() as u64;
            }
        }
        number += run.len() as u64;
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use drover_sys::map::Content;
    use proptest::prelude::*;
    use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

    use super::*;
    use crate::store::store;

    /// The most pages that it has.
    const MOST: u64 = 300;

    /// What happens to it.
    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, u64, u8),
        Punch(u64, u64),
        Length(u64),
        Round,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..MOST, 1..90_u64, 0..=9_u8).prop_map(|(page, pages, byte)| Step::Write(page, pages, byte)),
            2 => (0..MOST, 1..90_u64).prop_map(|(page, pages)| Step::Punch(page, pages)),
            1 => (1..=MOST).prop_map(Step::Length),
            3 => Just(Step::Round),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_a_piece_has_in_the_end_is_what_arrives(steps in proptest::collection::vec(step(), 0..25)) {
            let file = File::from(memfd_create("piece", MemfdFlags::CLOEXEC).unwrap());
            file.set_len(MOST * PAGE).unwrap();
            let mapped = Content::of(&file, PAGE as usize).unwrap();
            let id = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
            // Other tests of this process may have shared memory, too: it is sent as well, and looked at by nobody.
            let pids = [std::process::id()];
            let mut bytes = Vec::new();
            let mut stream = StreamWriter::new(&mut bytes).unwrap();
            let mut shared = Shared::new();
            for step in steps {
                let length = file.metadata().unwrap().len() / PAGE;
                match step {
                    Step::Write(page, pages, byte) if page < length => {
                        let pages = pages.min(length - page);
                        file.write_all_at(&vec![byte; (pages * PAGE) as usize], page * PAGE).unwrap();
                    }
                    Step::Write(..) => {}
                    Step::Punch(page, pages) => {
                        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                        fallocate(&file, hole, page * PAGE, pages * PAGE).unwrap();
                    }
                    Step::Length(pages) => file.set_len(pages * PAGE).unwrap(),
                    Step::Round => drop(shared.round(&mut stream, &pids).unwrap()),
                }
            }
            let still = shared.still(&pids);
            prop_assert!(still.covered().iter().any(|file| file.inode == id));
            still.send(&mut stream).unwrap();
            stream.end().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let arrived = store(directory.path(), &bytes[..]).unwrap();
            let there = arrived.file(id).unwrap();
            prop_assert_eq!(there.metadata().unwrap().len(), file.metadata().unwrap().len());
            let (mut ours, mut theirs) = (vec![0; (MOST * PAGE) as usize], vec![0; (MOST * PAGE) as usize]);
            read(&file, 0, &mut ours).unwrap();
            read(there, 0, &mut theirs).unwrap();
            prop_assert!(ours == theirs);
            drop(mapped);
        }
    }

    #[test]
    fn a_page_that_stays_is_not_sent_again() {
        let file = File::from(memfd_create("still", MemfdFlags::CLOEXEC).unwrap());
        file.write_all_at(&[7; 100 * PAGE as usize], 5 * PAGE).unwrap();
        let mapped = Content::of(&file, PAGE as usize).unwrap();
        let pids = [std::process::id()];
        let id = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        let mut stream = StreamWriter::new(io::sink()).unwrap();
        let mut shared = Shared::new();
        assert!(shared.round(&mut stream, &pids).unwrap().0 >= 100);
        assert_eq!(shared.known[&id].pending, []);
        file.write_all_at(&[8], 9 * PAGE + 100).unwrap();
        file.write_all_at(&[7; PAGE as usize], 20 * PAGE).unwrap();
        shared.round(&mut stream, &pids).unwrap();
        assert_eq!(shared.known[&id].pending.first(), Some(&(9..10)));
        assert_eq!(shared.known[&id].pending.len(), 1);
        drop(mapped);
    }
}
