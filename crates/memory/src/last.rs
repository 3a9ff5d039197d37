//! The end of the rounds, while every process stands still: what is left is sent, or named when it will follow.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use drover_model::PageCount;
use drover_sys::shared::SharedFile;

use crate::mappings::{followed, inside};
use crate::outflow::{Outflow, Sums};
use crate::pages::PageSet;
use crate::record::Object;
use crate::rounds::{RoundError, Rounds};
use crate::shared::Still;
use crate::store::{AWAIT, KEEP};
use crate::tracker::{Motion, Tracker, present};
use drover_packing::Outlet;

const PAGE: u64 = PageCount::PAGE;

/// What CRIU need not dump, by process: mapping after mapping, but for the pages that it must.
pub type Covered = BTreeMap<u32, Vec<Range<u64>>>;

/// What the last round gave.
#[derive(Debug)]
pub struct Last<O> {
    /// What need not be dumped.
    pub covered: Covered,
    /// Shared memory that need not be dumped: `rest` brings it.
    pub shared: BTreeSet<SharedFile>,
    /// How many pages were sent.
    pub pages: PageCount,
    /// What was sent in all rounds, without the rest.
    pub sums: Sums,
    /// How many will follow.
    pub following: PageCount,
    /// What is still to be sent, while everything stands still and CRIU dumps.
    pub rest: Rest<O>,
    /// To be kept as long as nothing may be lost by waiting: taking the protection off again takes the longer the more
    /// memory there is.
    pub trackers: Vec<Tracker>,
}

/// The last differences of shared memory.
#[derive(Debug)]
pub struct Rest<O> {
    stream: Outflow<O>,
    shared: Still,
}

impl<O: Outlet> Rest<O> {
    /// Sends them and ends the stream. Gives what was sent in all rounds, and where the stream went.
    ///
    /// # Errors
    /// When the stream refuses, or the memory cannot be read.
    pub fn send(mut self) -> Result<(Sums, O), RoundError> {
        self.shared.send(&mut self.stream)?;
        Ok(self.stream.end()?)
    }
}

impl<O: Outlet> Rounds<O> {
    /// Sends what is left of the given processes, all that there are, while they stand still, and says which pages are to
    /// be kept. Shared memory is left to what is given.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn last(mut self, pids: &[u32]) -> Result<Last<O>, RoundError> {
        let standing = self.stand();
        let before = self.stream.sums();
        self.send()?;
        let sent = self.stream.sums().since(before);
        self.end(pids, standing, PageCount(sent.pages), PageCount(0))
    }

    /// As `last`, but what is left of private memory is only named: it will follow. So will all of those of the given
    /// processes that were not followed.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn last_follows(mut self, pids: &[u32]) -> Result<Last<O>, RoundError> {
        let mut standing = self.stand();
        let mut following = 0;
        for pid in pids {
            let awaited = match (self.processes.get_mut(pid), standing.get(pid)) {
                (Some(process), Some(found)) => std::mem::take(&mut process.pending).and(&found.present),
                _ => match Standing::whole(*pid) {
                    Ok(found) => standing.entry(*pid).or_insert(found).present.clone(),
                    // CRIU dumps it whole.
                    Err(_) => continue,
                },
            };
            following += awaited.count();
            self.stream.object(Object::Process(standing[pid].inside))?;
            self.stream.runs(AWAIT, awaited.runs())?;
        }
        self.end(pids, standing, PageCount(0), PageCount(following))
    }

    /// What the processes that were followed have, now that they stand still. One for which that cannot be seen is
    /// dumped whole by CRIU.
    fn stand(&mut self) -> BTreeMap<u32, Standing> {
        let mut standing = BTreeMap::new();
        self.processes.retain(|pid, process| {
            let ended =
                process.tracker.written(Motion::Still).and_then(|written| Ok((written, process.tracker.present()?)));
            let Ok((written, present)) = ended else { return false };
            let found = Standing::new(*pid, process.inside, process.tracker.mappings().to_vec(), present);
            process.pending = std::mem::take(&mut process.pending).or(PageSet::of(written));
            found.map(|found| standing.insert(*pid, found)).is_ok()
        });
        standing
    }

    fn end(
        mut self,
        pids: &[u32],
        standing: BTreeMap<u32, Standing>,
        pages: PageCount,
        following: PageCount,
    ) -> Result<Last<O>, RoundError> {
        for found in standing.values() {
            self.stream.object(Object::Process(found.inside))?;
            self.stream.runs(KEEP, found.present.runs())?;
        }
        // It crosses while CRIU dumps, and does not wait for the rest.
        self.stream.flush()?;
        let trackers = self.processes.into_values().map(|process| process.tracker).collect();
        let covered = standing.into_iter().map(|(pid, found)| (pid, found.covered)).collect();
        let still = self.shared.still(pids);
        let (shared, sums) = (still.covered(), self.stream.sums());
        let rest = Rest { stream: self.stream, shared: still };
        Ok(Last { covered, shared, pages, sums, following, rest, trackers })
    }
}

/// What a process that stands still has.
#[derive(Debug)]
struct Standing {
    inside: u64,
    covered: Vec<Range<u64>>,
    present: PageSet,
}

impl Standing {
    /// Without knowing where its stacks are CRIU must dump it whole.
    fn new(pid: u32, inside: u64, mappings: Vec<Range<u64>>, present: Vec<Range<u64>>) -> io::Result<Self> {
        let stacks = stack_pages(pid)?;
        let covered = mappings.iter().flat_map(|mapping| without(mapping, &stacks)).collect();
        let stacks = PageSet::of(stacks.iter().map(|page| *page..page + PAGE).collect());
        Ok(Self { inside, covered, present: PageSet::of(present).without(&stacks) })
    }

    /// Of one that nobody has followed.
    fn whole(pid: u32) -> io::Result<Self> {
        let mappings = followed(pid)?;
        let present = present(pid, &mappings)?;
        Self::new(pid, inside(pid)?, mappings, present)
    }
}

/// The pages that the stacks of a process's threads end in, in ascending order. All threads stand still.
fn stack_pages(pid: u32) -> io::Result<Vec<u64>> {
    let mut pages = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // `proc_pid_syscall(5)`: the last two words are the stack pointer and the instruction.
        let text = std::fs::read_to_string(thread?.path().join("syscall"))?;
        let pointer = text.split_whitespace().rev().nth(1).and_then(|word| word.strip_prefix("0x"));
        let pointer = pointer.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        pages.push(pointer.ok_or(io::ErrorKind::WouldBlock)? & !(PAGE - 1));
    }
    pages.sort_unstable();
    pages.dedup();
    Ok(pages)
}

/// A mapping without single pages, in ascending order.
fn without(mapping: &Range<u64>, pages: &[u64]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    let mut start = mapping.start;
    for page in pages.iter().filter(|page| mapping.contains(page)) {
        if *page > start {
            rest.push(start..*page);
        }
        start = page + PAGE;
    }
    if start < mapping.end {
        rest.push(start..mapping.end);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_not_covered() {
        assert_eq!(without(&(0x1000..0x5000), &[0x2000, 0x9000]), [0x1000..0x2000, 0x3000..0x5000]);
        assert_eq!(without(&(0x1000..0x5000), &[0x1000, 0x4000]), *std::slice::from_ref(&(0x2000..0x4000)));
        assert_eq!(without(&(0x9000..0xa000), &[0x9000]), []);
    }
}
