//! Bringing pages: those that somebody waits for, those that nobody waits for yet, and those that come from the source.

use std::ops::Range;

use drover_model::PageCount;
use rustix::fs::{FallocateFlags, fallocate};

use super::process::{Placed, place};
use super::{FillError, Filler, cannot_fill};
use crate::following::HEADER;
use crate::mappings::{inside, wiped_on_fork};
use crate::pages::PageSet;

const PAGE: u64 = PageCount::PAGE;
/// How much is brought at once without anybody waiting, in bytes: so long may a thread wait that begins to meanwhile.
const STRIDE: u64 = 128 << 10;
/// How much is brought around a page that somebody waits for, in bytes, from a multiple of it on.
const AROUND: u64 = 64 << 10;

impl Filler<'_> {
    /// Deals with everything that has happened in a process.
    pub(super) fn answer(&mut self, index: usize) -> Result<(), FillError> {
        let process = &mut self.processes[index];
        process.hear().map_err(cannot_fill(process.id))?;
        let Some(mut children) = process.settle() else { return Ok(()) };
        self.filled.pages += process.arrive_late().map_err(cannot_fill(process.id))?;
        let waiting = std::mem::take(&mut process.waiting);
        if !children.is_empty() {
            self.shared = true;
            // What is there already has been wiped by the kernel.
            if children.iter().any(|child| !child.is_served()) {
                let wiped = self.wiped_on_fork(self.processes[index].id);
                children.iter_mut().for_each(|child| wiped.iter().for_each(|range| child.forget_range(range)));
            }
            self.processes.extend(children);
        }
        waiting.into_iter().try_for_each(|address| self.bring_around(index, address))
    }

    /// What a child that has just been forked finds empty. The process that CRIU has restored says so, or if it has ended,
    /// those that were forked of it: the advice travels with the memory.
    fn wiped_on_fork(&self, id: u64) -> Vec<Range<u64>> {
        let listed: Vec<(u32, u64)> =
            (self.pids)().into_iter().filter_map(|pid| Some((pid, inside(pid).ok()?))).collect();
        let is_there = listed.iter().any(|(_, found)| *found == id);
        let is_restored = |found: &u64| self.restored.contains(found);
        let related = listed.iter().filter(|(_, found)| if is_there { *found == id } else { !is_restored(found) });
        // What cannot be read has gone.
        related.flat_map(|(pid, _)| wiped_on_fork(*pid).unwrap_or_default()).collect()
    }

    /// Brings the page that somebody waits for, and those around it.
    fn bring_around(&mut self, index: usize, address: u64) -> Result<(), FillError> {
        let process = &mut self.processes[index];
        if process.is_changing() {
            process.waiting.push(address);
            return Ok(());
        }
        if let Some((_, end)) = process.missing.at(address) {
            self.hurried += 1;
            let around = address - address % AROUND;
            let around = around..around.saturating_add(AROUND);
            self.bring(index, address..end.min(around.end))?;
            if self.processes[index].missing.at(address).is_some() {
                self.processes[index].waiting.push(address);
                return Ok(());
            }
            let mut at = around.start;
            while let Some((start, pages)) = self.processes[index].missing.from(at).filter(|(at, _)| *at < around.end) {
                at = around.end.min(start + pages * PAGE);
                self.bring(index, start..at)?;
            }
            return Ok(());
        }
        if let Some((page, end)) = process.awaited.at(address) {
            self.wishes.hurry(process.id, page * PAGE, end - address);
            return Ok(());
        }
        // Nothing was ever written there, or it was given back; or another thread's wait has brought it meanwhile.
        let failed = cannot_fill(process.id);
        match place(&process.faults, address, None).map_err(failed)? {
            Placed::Done(_) | Placed::Needless => {}
            Placed::Later => process.waiting.push(address),
            Placed::Nowhere if !process.is_settled().map_err(failed)? => process.waiting.push(address),
            // It looks again, and is told by the kernel.
            Placed::Nowhere => drop(process.faults.wake(address, PAGE)),
            Placed::Gone => process.forget(),
        }
        Ok(())
    }

    /// Brings the next pages that nobody waits for yet.
    pub(super) fn go_on(&mut self, index: usize) -> Result<(), FillError> {
        match self.processes[index].next(STRIDE) {
            Some(range) => self.bring(index, range),
            None => Ok(()),
        }
    }

    /// Gives back the store's memory of what has been brought.
    pub(super) fn give_back(&mut self) {
        self.twice_bytes = 0;
        let twice = PageSet::of(std::mem::take(&mut self.twice));
        // A child of a fork needs it, too.
        for run in twice.runs().iter().filter(|_| !self.shared) {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file that cannot have holes only takes more room.
            let _ = fallocate(&self.stored.content, hole, run.start, run.end - run.start);
        }
    }

    /// Brings pages that are in one piece.
    fn bring(&mut self, index: usize, range: Range<u64>) -> Result<(), FillError> {
        let process = &mut self.processes[index];
        let mut at = range.start;
        while at < range.end && !process.is_changing() {
            let Some((slot, _)) = process.missing.at(at) else { return Ok(()) };
            let offset = (slot * PAGE) as usize;
            let bytes = &self.content.bytes()[offset..offset + (range.end - at) as usize];
            let failed = cannot_fill(process.id);
            let done = match place(&process.faults, at, Some(bytes)).map_err(failed)? {
                Placed::Done(length) => {
                    self.filled.pages += length / PAGE;
                    length
                }
                Placed::Needless => PAGE,
                Placed::Later => return Ok(()),
                Placed::Nowhere if !process.is_settled().map_err(failed)? => return Ok(()),
                // A child of a fork does not have every mapping of its parent.
                Placed::Nowhere => PAGE,
                Placed::Gone => {
                    process.forget();
                    return Ok(());
                }
            };
            process.missing.remove(at..at + done);
            self.twice.push(offset as u64..offset as u64 + done);
            self.twice_bytes += done;
            at += done;
        }
        Ok(())
    }

    /// Takes in what has come from the source.
    pub(super) fn take_in(&mut self) -> Result<(), FillError> {
        while let Some((wish, length)) = self.wishes.brought(&mut self.buffer) {
            let content = &self.buffer[HEADER..HEADER + length];
            for page in 0..u64::from(wish.pages) {
                let bytes = content.get((page * PAGE) as usize..((page + 1) * PAGE) as usize);
                let origin = wish.address / PAGE + page;
                for process in self.processes.iter_mut().filter(|process| process.id == wish.process) {
                    self.filled.pages += process.arrive(origin, bytes).map_err(cannot_fill(process.id))?;
                }
            }
        }
        Ok(())
    }
}
