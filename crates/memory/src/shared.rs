//! The source's side of shared memory: what the target has of it is known by a name of each page, and what differs is sent.
//!
//! Shared memory may be written through any mapping in any process, also in one that has ended since, and by `write(2)`:
//! no page table knows it all. So all of it is read, in every round, and in the last one while everything stands still.
//! The names have 128 bits and a secret seed: that two contents of a page have the same one by chance does not happen.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use drover_model::PageCount;
use drover_sys::shared::SharedFile;

use crate::compare::{BLOCK, BlockNames, blocks, differing, differing_in_parallel, read, runs};
use crate::hash::{Names, ZEROS};
use crate::objects::{Found, find};
use crate::outflow::{Outflow, Verdict};
use crate::record::{Object, Run};
use drover_packing::Outlet;

const PAGE: u64 = PageCount::PAGE;

/// The shared memory of a container.
#[derive(Debug)]
pub(crate) struct Shared {
    names: Names,
    known: BTreeMap<u64, Known>,
}

/// What the target has of a piece of shared memory.
#[derive(Debug)]
struct Known {
    name: Vec<u8>,
    sealable: bool,
    system_five: bool,
    /// The names of its pages by block; of blocks that are not listed it has zeros.
    pages: BTreeMap<u64, Box<BlockNames>>,
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
    pub fn new(names: Names) -> Self {
        Self { names, known: BTreeMap::new() }
    }

    /// Sends what differed by the last survey, and of new pieces everything.
    pub fn round(&mut self, stream: &mut Outflow<impl Outlet>, pids: &[u32]) -> io::Result<()> {
        let found = find(pids);
        self.meet(stream, &found)?;
        for (id, one) in &found {
            let Some(known) = self.known.get_mut(id) else { continue };
            let pending = std::mem::take(&mut known.pending);
            send(stream, self.names, *id, one, known, &pending)?;
        }
        Ok(())
    }

    /// Finds the pages that differ now from what the target has: they are what the next round will send. Gives how many.
    /// Pieces that are new have their turn in that round.
    pub fn survey(&mut self, pids: &[u32]) -> u64 {
        let mut differ = 0;
        let found = find(pids);
        let names = self.names;
        self.known.retain(|id, known| {
            let Some(one) = found.get(id).filter(|one| known.is(one)) else { return false };
            let looked =
                blocks(&one.file, &known.pages).and_then(|blocks| differing(names, &one.file, &known.pages, &blocks));
            // One that cannot be read is sent from the beginning, or says then why not.
            let Ok(pending) = looked else { return false };
            differ += pending.iter().map(|run| run.end - run.start).sum::<u64>();
            known.pending = pending;
            true
        });
        differ
    }

    /// Finds what there is while everything stands still; it must stand still until it was sent.
    pub fn still(self, pids: &[u32]) -> Still {
        Still { found: find(pids), shared: self }
    }

    /// Forgets pieces that have gone, and says what is new.
    fn meet(&mut self, stream: &mut Outflow<impl Outlet>, found: &BTreeMap<u64, Found>) -> io::Result<()> {
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
                pages: BTreeMap::new(),
                pending: Vec::new(),
            };
            known.pending =
                runs(blocks(&one.file, &known.pages)?.into_iter().map(|block| block * BLOCK..(block + 1) * BLOCK));
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

    /// Notes that a page has this name now; what the target must hear of that.
    fn judge(&mut self, page: u64, name: u128) -> Verdict {
        let names = self.pages.entry(page / BLOCK).or_insert_with(|| Box::new([ZEROS; BLOCK as usize]));
        let theirs = std::mem::replace(&mut names[(page % BLOCK) as usize], name);
        match name {
            name if name == theirs => Verdict::Skip,
            ZEROS => Verdict::Zero,
            _ => Verdict::Send,
        }
    }
}

impl Still {
    /// What will have been sent.
    pub fn covered(&self) -> BTreeSet<SharedFile> {
        self.found.values().map(|one| one.shared).collect()
    }

    /// Sends what differs, and where each piece belongs.
    pub fn send(self, stream: &mut Outflow<impl Outlet>) -> io::Result<()> {
        let Self { mut shared, found } = self;
        shared.meet(stream, &found)?;
        for (id, one) in found {
            let Some(known) = shared.known.get_mut(&id) else { continue };
            let blocks: Vec<u64> = blocks(&one.file, &known.pages)?.into_iter().collect();
            let differ = differing_in_parallel(shared.names, &one.file, &known.pages, &blocks)?;
            send(stream, shared.names, id, &one, known, &differ)?;
            let mut description = one.description;
            description.last = true;
            stream.describe(&description)?;
        }
        Ok(())
    }
}

/// Sends those of the given pages that the target has otherwise, as they are now.
fn send(
    stream: &mut Outflow<impl Outlet>,
    names: Names,
    id: u64,
    one: &Found,
    known: &mut Known,
    pages: &[Range<u64>],
) -> io::Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    stream.object(Object::Shared(id))?;
    for run in pages {
        let mut from = run.start;
        while from < run.end {
            let room = stream.room()?;
            let to = run.end.min(from + room.len() as u64 / PAGE);
            // The very bytes that are sent are those that get a name.
            read(&one.file, from * PAGE, &mut room[..((to - from) * PAGE) as usize])?;
            let run = Run { address: from * PAGE, pages: (to - from) as u32 };
            stream.put(std::iter::once(run), |address, page| known.judge(address / PAGE, names.of_page(page)))?;
            from = to;
        }
    }
    known.pages.retain(|_, names| names.iter().any(|name| *name != ZEROS));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use drover_model::Compression;
    use drover_sys::map::Content;
    use proptest::prelude::*;
    use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

    use super::*;
    use crate::store::{ZERO, store_whole};

    /// The most pages that it has.
    const MOST: u64 = 300;

    /// What happens to it.
    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, u64, u8),
        Punch(u64, u64),
        Length(u64),
        Survey,
        Round,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..MOST, 1..90_u64, 0..=9_u8).prop_map(|(page, pages, byte)| Step::Write(page, pages, byte)),
            2 => (0..MOST, 1..90_u64).prop_map(|(page, pages)| Step::Punch(page, pages)),
            1 => (1..=MOST).prop_map(Step::Length),
            2 => Just(Step::Survey),
            3 => Just(Step::Round),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_a_piece_has_in_the_end_is_what_arrives(
            steps in proptest::collection::vec(step(), 0..25),
            compression in proptest::sample::select(&Compression::ALL[..]),
        ) {
            let file = File::from(memfd_create("piece", MemfdFlags::CLOEXEC).unwrap());
            file.set_len(MOST * PAGE).unwrap();
            let mapped = Content::of(&file, PAGE as usize).unwrap();
            let id = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
            // Other tests of this process may have shared memory, too: it is sent as well, and looked at by nobody.
            let pids = [std::process::id()];
            let mut bytes = Vec::new();
            let mut stream = Outflow::new(&mut bytes, compression, ZERO).unwrap();
            let mut shared = Shared::new(Names::new(1));
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
                    Step::Survey => drop(shared.survey(&pids)),
                    Step::Round => shared.round(&mut stream, &pids).unwrap(),
                }
            }
            let still = shared.still(&pids);
            prop_assert!(still.covered().iter().any(|file| file.inode == id));
            still.send(&mut stream).unwrap();
            stream.end().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let arrived = store_whole(directory.path(), bytes);
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
        let mut bytes = Vec::new();
        let mut stream = Outflow::new(&mut bytes, Compression::None, ZERO).unwrap();
        let mut shared = Shared::new(Names::new(1));
        shared.round(&mut stream, &pids).unwrap();
        stream.flush().unwrap();
        assert!(stream.sums().pages >= 100);
        shared.survey(&pids);
        assert_eq!(shared.known[&id].pending, []);
        file.write_all_at(&[8], 9 * PAGE + 100).unwrap();
        file.write_all_at(&[7; PAGE as usize], 20 * PAGE).unwrap();
        assert!(shared.survey(&pids) >= 1);
        assert_eq!(shared.known[&id].pending.first(), Some(&(9..10)));
        assert_eq!(shared.known[&id].pending.len(), 1);
        drop(mapped);
    }
}
