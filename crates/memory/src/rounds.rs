//! The source's side of the rounds: what was written since the last one is read, and sent as a page stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;

use drover_model::{Bytes, Compression, PageCount};

use crate::hash::Names;
use crate::outflow::{Outflow, Outlet};
use crate::reader::{Reader, normal};
use crate::sent::ROOM;
use crate::store::{KEEP, ZERO};
use crate::stream::{MAX_RUN, Object};
use crate::tracker::{TrackError, Tracker};

const PAGE: u64 = PageCount::PAGE;

/// Why pages could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The stream refused.
    #[error("cannot send pages")]
    Send(#[from] io::Error),
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundDone {
    /// Pages whose content was sent.
    pub pages: PageCount,
    /// What crossed, in bytes.
    pub bytes: Bytes,
    /// Pages that were written meanwhile.
    pub dirty_after: PageCount,
}

/// Pages that the target has, by process: mapping after mapping, but for those that CRIU must dump.
pub type Covered = BTreeMap<u32, Vec<Range<u64>>>;

/// What the last round gave.
#[derive(Debug)]
pub struct Last<O> {
    /// What need not be dumped.
    pub covered: Covered,
    /// How many pages were sent.
    pub pages: PageCount,
    /// Where the stream went, which has ended.
    pub out: O,
    /// To be kept as long as nothing may be lost by waiting: taking the protection off again takes the longer the more
    /// memory there is.
    pub trackers: Vec<Tracker>,
}

#[derive(Debug)]
struct Process {
    /// Its id in its own namespace.
    inside: u64,
    tracker: Tracker,
    reader: Reader,
    /// What is to be sent in the next round.
    pending: Vec<Range<u64>>,
}

/// The rounds of one migration.
#[derive(Debug)]
pub struct Rounds<O> {
    stream: Outflow<O>,
    processes: BTreeMap<u32, Process>,
    /// Processes that cannot be followed, and why.
    refused: BTreeMap<u32, TrackError>,
    names: Names,
    /// Ids that processes had by now, each in its own namespace.
    inside: BTreeSet<u64>,
}

impl<O: Outlet> Rounds<O> {
    /// Begins a stream. `seed` is by chance, and another one for each move.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new(out: O, compression: Compression, seed: u64) -> Result<Self, RoundError> {
        let stream = Outflow::new(out, compression, ZERO)?;
        let (processes, refused, inside) = Default::default();
        Ok(Self { stream, processes, refused, names: Names::new(seed), inside })
    }

    /// Sends what the given processes, all that there are, have written since the last round: in the first, everything.
    ///
    /// # Errors
    /// When the stream refuses. A process that cannot be followed is left out, and is not covered in the end.
    pub fn round(&mut self, pids: &[u32]) -> Result<RoundDone, RoundError> {
        self.processes.retain(|pid, _| pids.contains(pid));
        for pid in pids {
            if self.processes.contains_key(pid) || self.refused.contains_key(pid) {
                continue;
            }
            match Process::begin(*pid, &mut self.inside) {
                Ok(process) => drop(self.processes.insert(*pid, process)),
                Err(error) => drop(self.refused.insert(*pid, error)),
            }
        }
        let before = self.stream.sums();
        self.send()?;
        let sums = self.stream.sums();
        let mut dirty = 0;
        let refused = &mut self.refused;
        self.processes.retain(|pid, process| match process.tracker.written() {
            Ok(written) => {
                dirty += count(&written);
                process.pending = written;
                true
            }
            Err(error) => {
                refused.insert(*pid, error);
                false
            }
        });
        let (pages, bytes) = (PageCount(sums.pages - before.pages), Bytes(sums.bytes - before.bytes));
        Ok(RoundDone { pages, bytes, dirty_after: PageCount(dirty) })
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

    /// Sends the rest while every process stands still, and says which pages are to be kept.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn last(mut self) -> Result<Last<O>, RoundError> {
        let mut covered = Covered::new();
        let mut present = BTreeMap::new();
        self.processes.retain(|pid, process| {
            let ended = process.tracker.written().and_then(|written| Ok((written, process.tracker.present()?)));
            let Ok((written, pages)) = ended else { return false };
            // Without knowing where its stacks are CRIU must dump it whole.
            let Ok(stacks) = stack_pages(*pid) else { return false };
            process.pending.extend(written);
            covered.insert(*pid, without(process.tracker.mappings(), &stacks));
            present.insert(*pid, pages);
            true
        });
        let before = self.stream.sums().pages;
        self.send()?;
        let sent = self.stream.sums().pages - before;
        for (pid, process) in &self.processes {
            self.stream.object(Object::Process(process.inside))?;
            for run in present.get(pid).into_iter().flatten() {
                for piece in pieces(run.clone()) {
                    self.stream.run(KEEP, piece.start, pages_of(&piece))?;
                }
            }
        }
        let (_, out) = self.stream.end()?;
        let trackers = self.processes.into_values().map(|process| process.tracker).collect();
        Ok(Last { covered, pages: PageCount(sent), out, trackers })
    }

    /// Sends what is pending of all processes.
    fn send(&mut self) -> Result<(), RoundError> {
        let Self { stream, processes, names, .. } = self;
        let kept: usize = processes.values().map(|process| process.reader.chunks()).sum();
        let mut room = ROOM.saturating_sub(kept);
        for process in processes.values_mut() {
            let pending = normal(std::mem::take(&mut process.pending));
            if pending.is_empty() {
                continue;
            }
            stream.object(Object::Process(process.inside))?;
            process.reader.send(&pending, stream, *names, &mut room)?;
        }
        Ok(stream.flush()?)
    }
}

impl Process {
    fn begin(pid: u32, ids: &mut BTreeSet<u64>) -> Result<Self, TrackError> {
        let failed = |error| TrackError::Follow(pid, error);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed)?;
        let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let inside = inside.and_then(|ids| ids.split_whitespace().next_back()).and_then(|id| id.parse().ok());
        let inside = inside.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(failed)?;
        let mut tracker = Tracker::attach(pid)?;
        let pending = tracker.written()?;
        Ok(Self { inside, tracker, reader: Reader::new(pid, memory, !ids.insert(inside)), pending })
    }
}

/// A run in pieces that a record can say.
fn pieces(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let most = u64::from(MAX_RUN) * PAGE;
    let starts = (run.start..run.end).step_by(usize::try_from(most).unwrap_or(usize::MAX));
    starts.map(move |start| start..(start + most).min(run.end))
}

fn pages_of(run: &Range<u64>) -> u32 {
    u32::try_from((run.end - run.start) / PAGE).unwrap_or(MAX_RUN)
}

fn count(runs: &[Range<u64>]) -> u64 {
    runs.iter().map(|run| (run.end - run.start) / PAGE).sum()
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

/// Mappings without single pages, both in ascending order.
fn without(mappings: &[Range<u64>], pages: &[u64]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    for mapping in mappings {
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
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::inflow::Inflow;
    use crate::store::{Stored, store};

    #[test]
    fn stacks_are_not_covered() {
        let mappings = [0x1000..0x5000, 0x9000..0xa000];
        assert_eq!(without(&mappings, &[0x2000, 0x9000]), [0x1000..0x2000, 0x3000..0x5000]);
        assert_eq!(without(&mappings, &[0x1000, 0x7000]), [0x2000..0x5000, 0x9000..0xa000]);
    }

    #[test]
    fn what_a_program_has_in_the_end_is_what_was_stored() {
        let script =
            "x=$(head -c 2000000 /dev/zero | tr '\\0' a); y=$(head -c 999999 /dev/zero | tr '\\0' b); echo ready
            while read -r line; do eval \"$line\"; echo done; done";
        let mut child =
            Command::new("bash").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut heard = || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            line
        };
        assert_eq!(heard(), "ready\n");
        let pid = child.id();
        let mut stream = Vec::new();
        let mut rounds = Rounds::new(&mut stream, Compression::Auto, 1).unwrap();
        let first = rounds.round(&[pid]).unwrap();
        assert!(first.pages.0 > 600, "{first:?}");
        for line in ["y=; z=$(head -c 500000 /dev/zero | tr '\\0' c)", "x=${x/aaa/xyz}"] {
            writeln!(input, "{line}").unwrap();
            assert_eq!(heard(), "done\n");
            let done = rounds.round(&[pid]).unwrap();
            assert!(done.dirty_after.0 > 0, "{done:?}");
        }
        assert!(rounds.follows() && rounds.refusal().is_none());
        let stopped = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
        while std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap().starts_with("running") {
            std::thread::yield_now();
        }
        let Last { covered, .. } = rounds.last().unwrap();
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), Inflow::new(std::iter::once(stream.into()))).unwrap();
        let stored = Stored::open(directory.path()).unwrap().unwrap();
        let mut content = Vec::new();
        (&stored.content).read_to_end(&mut content).unwrap();
        let pieces = &stored.processes[&u64::from(pid)];
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut pages = 0;
        for run in &covered[&pid] {
            for address in (run.start..run.end).step_by(PAGE as usize) {
                let mut own = [0; PAGE as usize];
                // What may not be read has nothing in it, as behind a stack.
                memory.read_exact_at(&mut own, address).unwrap_or_default();
                let found = pieces.at(address);
                let stored = found.map_or(vec![0; PAGE as usize], |(slot, _)| {
                    content[(slot * PAGE) as usize..][..PAGE as usize].to_vec()
                });
                assert!(own[..] == stored[..], "page {address:#x}, stored {}", found.is_some());
                pages += u64::from(found.is_some());
            }
        }
        assert!(pages > 600, "{pages}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
