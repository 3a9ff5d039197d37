//! The source's side of the rounds: what was written since the last one is read, and sent as a page stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use drover_model::{Compression, PageCount};
use drover_sys::process::share_memory;

use crate::direct::{Direct, direct};
use crate::hash::Names;
use crate::mappings::{inside, parent};
use crate::outflow::{Outflow, Sums};
use crate::pages::PageSet;
use crate::reader::Reader;
use crate::record::Object;
use crate::sent::ROOM;
use crate::shared::Shared;
use crate::store::ZERO;
use crate::tracker::{Backend, Motion, TrackError, Tracker};
use drover_packing::Outlet;

/// Why pages could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The stream refused.
    #[error("cannot send pages")]
    Send(#[from] io::Error),
}

#[derive(Debug)]
pub(crate) struct Process {
    /// Its id in its own namespace.
    pub inside: u64,
    pub tracker: Tracker,
    reader: Reader,
    /// What is to be sent in the next round.
    pub pending: PageSet,
}

/// The rounds of one migration.
#[derive(Debug)]
pub struct Rounds<O> {
    pub(crate) stream: Outflow<O>,
    /// How processes are followed, if at all.
    backend: Option<Backend>,
    pub(crate) processes: BTreeMap<u32, Process>,
    /// Processes that cannot be followed, and why.
    refused: BTreeMap<u32, TrackError>,
    names: Names,
    /// The ids that processes had by now, each in its own namespace.
    inside: BTreeSet<u64>,
    pub(crate) shared: Shared,
}

impl<O: Outlet> Rounds<O> {
    /// Begins a stream. Processes are followed by `backend`: without one none is. `seed` is by chance, and another one for
    /// each move.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new(out: O, compression: Compression, seed: u64, backend: Option<Backend>) -> Result<Self, RoundError> {
        let stream = Outflow::new(out, compression, ZERO)?;
        let (processes, refused, inside) = Default::default();
        let names = Names::new(seed);
        Ok(Self { stream, backend, processes, refused, names, inside, shared: Shared::new(names) })
    }

    /// Begins to follow those of the given processes, all that there are, that are new: all that they have is pending. A
    /// process that cannot be followed is left out, and is not covered in the end. Gives whether the processes must stand
    /// still once before the round is sent, for devices may still be writing what they will not be seen to have written.
    pub fn meet(&mut self, pids: &[u32]) -> bool {
        self.processes.retain(|pid, _| pids.contains(pid));
        self.begin_following(pids);
        let refused = &mut self.refused;
        let mut wait = false;
        // Pages that are pinned for a read keep their soft-dirty bits.
        if self.backend == Some(Backend::Userfaultfd) {
            self.processes.retain(|pid, _| {
                let why = match direct(*pid) {
                    Ok(Direct::Never) => return true,
                    Ok(Direct::Waiting) => {
                        wait = true;
                        return true;
                    }
                    Ok(Direct::Beside) => TrackError::Direct(*pid),
                    Err(error) => TrackError::Follow(*pid, error),
                };
                refused.insert(*pid, why);
                false
            });
        }
        wait
    }

    /// Sends what was written by the last survey: of processes that are new, everything. Gives what was sent.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn round(&mut self, pids: &[u32]) -> Result<Sums, RoundError> {
        let before = self.stream.sums();
        self.send()?;
        self.shared.round(&mut self.stream, pids)?;
        self.stream.mark()?;
        self.stream.flush()?;
        Ok(self.stream.sums().since(before))
    }

    fn begin_following(&mut self, pids: &[u32]) {
        // Whoever joins those that are followed may share its memory with one of them, whose writes must not be forgotten.
        let first = self.processes.is_empty();
        let mut begun = Vec::new();
        for pid in pids {
            if self.processes.contains_key(pid) || self.refused.contains_key(pid) {
                continue;
            }
            match Process::begin(*pid, self.backend, first, &mut self.inside) {
                Ok(Some(process)) => begun.push((*pid, process)),
                Ok(None) => {}
                Err(error) => drop(self.refused.insert(*pid, error)),
            }
        }
        // Looked at after all bits were taken: what is written from here on is seen again by the next survey.
        for (pid, mut process) in begun {
            match process.tracker.written(Motion::Running) {
                Ok(written) => {
                    process.pending = PageSet::of(written);
                    self.processes.insert(pid, process);
                }
                Err(error) => drop(self.refused.insert(pid, error)),
            }
        }
    }

    /// Whether every process must stand still in `survey`.
    #[must_use]
    pub fn needs_standstill(&self) -> bool {
        self.backend.is_some_and(Backend::needs_standstill)
    }

    /// Finds what was written to private memory since the last survey: it is what the next round will send. Gives how many
    /// pages.
    pub fn survey(&mut self) -> PageCount {
        let mut dirty = 0;
        let refused = &mut self.refused;
        self.processes.retain(|pid, process| match process.tracker.written(Motion::Running) {
            Ok(written) => {
                process.pending = PageSet::of(written);
                dirty += process.pending.count();
                true
            }
            Err(error) => {
                refused.insert(*pid, error);
                false
            }
        });
        // All have been looked at: none loses what another one wrote to the same memory.
        self.processes.retain(|pid, process| {
            let rearmed = process.tracker.rearm();
            rearmed.map_err(|error| refused.insert(*pid, error)).is_ok()
        });
        PageCount(dirty)
    }

    /// Finds what of the shared memory of the given processes, all that there are, the target has otherwise: the next
    /// round will send it. Gives how many pages. Nobody need stand still.
    pub fn survey_shared(&mut self, pids: &[u32]) -> PageCount {
        PageCount(self.shared.survey(pids))
    }

    /// How many pages of private memory the next round will send.
    #[must_use]
    pub fn pending(&self) -> PageCount {
        PageCount(self.processes.values().map(|process| process.pending.count()).sum())
    }

    /// What has been sent in all rounds by now.
    #[must_use]
    pub fn sums(&self) -> Sums {
        self.stream.sums()
    }

    /// Whether any process is followed.
    #[must_use]
    pub fn follows(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Why a process is not followed, if there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&TrackError> {
        self.refused.values().next()
    }

    /// Sends what is pending of all processes, at least as far as to the packing.
    pub(crate) fn send(&mut self) -> Result<(), RoundError> {
        let Self { stream, processes, names, .. } = self;
        let kept: usize = processes.values().map(|process| process.reader.chunks()).sum();
        let mut room = ROOM.saturating_sub(kept);
        for process in processes.values_mut() {
            let pending = std::mem::take(&mut process.pending);
            if pending.runs().is_empty() {
                continue;
            }
            stream.object(Object::Process(process.inside))?;
            process.reader.send(&pending, stream, *names, &mut room)?;
        }
        Ok(stream.flush()?)
    }
}

impl Process {
    /// Begins to follow a process; what it wrote by now is forgotten in the `first` round. None while it has its parent's
    /// memory: it is about to become another program, and is followed then.
    fn begin(
        pid: u32,
        backend: Option<Backend>,
        first: bool,
        ids: &mut BTreeSet<u64>,
    ) -> Result<Option<Self>, TrackError> {
        let failed = |error| TrackError::Follow(pid, error);
        let backend = backend.ok_or(TrackError::Nothing)?;
        if share_memory(pid, parent(pid).map_err(failed)?).unwrap_or(false) {
            return Ok(None);
        }
        let inside = inside(pid).map_err(failed)?;
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(failed)?;
        let tracker = Tracker::attach(pid, backend)?;
        if first {
            tracker.rearm()?;
        }
        let reader = Reader::new(pid, memory, !ids.insert(inside));
        Ok(Some(Self { inside, tracker, reader, pending: PageSet::default() }))
    }
}

#[cfg(test)]
mod tests;
