//! The source's side of the rounds: what was written since the last one is read, and sent as a page stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::str::FromStr;

use drover_model::{Compression, PageCount};
use drover_sys::process::share_memory;

use crate::hash::Names;
use crate::mappings::followed;
use crate::outflow::{Outflow, Outlet, Sums};
use crate::pages::PageSet;
use crate::reader::Reader;
use crate::sent::ROOM;
use crate::store::{AWAIT, KEEP, ZERO};
use crate::stream::Object;
use crate::tracker::{Backend, TrackError, Tracker, present};

const PAGE: u64 = PageCount::PAGE;

/// Why pages could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The stream refused.
    #[error("cannot send pages")]
    Send(#[from] io::Error),
}

/// What CRIU need not dump, by process: mapping after mapping, but for the pages that it must.
pub type Covered = BTreeMap<u32, Vec<Range<u64>>>;

/// What the last round gave.
#[derive(Debug)]
pub struct Last<O> {
    /// What need not be dumped.
    pub covered: Covered,
    /// How many pages were sent.
    pub pages: PageCount,
    /// What was sent in all rounds.
    pub sums: Sums,
    /// How many will follow.
    pub following: PageCount,
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
    pending: PageSet,
}

/// The rounds of one migration.
#[derive(Debug)]
pub struct Rounds<O> {
    stream: Outflow<O>,
    /// How processes are followed, if at all.
    backend: Option<Backend>,
    processes: BTreeMap<u32, Process>,
    /// Processes that cannot be followed, and why.
    refused: BTreeMap<u32, TrackError>,
    names: Names,
    /// The ids that processes had by now, each in its own namespace.
    inside: BTreeSet<u64>,
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
        Ok(Self { stream, backend, processes, refused, names: Names::new(seed), inside })
    }

    /// Sends what the given processes, all that there are, had written by the last survey: in the first round, everything.
    /// Gives what was sent.
    ///
    /// # Errors
    /// When the stream refuses. A process that cannot be followed is left out, and is not covered in the end.
    pub fn round(&mut self, pids: &[u32]) -> Result<Sums, RoundError> {
        let before = self.stream.sums();
        self.processes.retain(|pid, _| pids.contains(pid));
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
        for (pid, mut process) in begun {
            match process.tracker.written() {
                Ok(written) => {
                    process.pending = PageSet::of(written);
                    self.processes.insert(pid, process);
                }
                Err(error) => drop(self.refused.insert(pid, error)),
            }
        }
        self.send()?;
        self.stream.mark()?;
        self.stream.flush()?;
        Ok(self.stream.sums().since(before))
    }

    /// Whether every process must stand still in `survey`.
    #[must_use]
    pub fn needs_standstill(&self) -> bool {
        self.backend.is_some_and(Backend::needs_standstill)
    }

    /// Finds what was written since the last survey: it is what the next round will send. Gives how many pages.
    pub fn survey(&mut self) -> PageCount {
        let mut dirty = 0;
        let refused = &mut self.refused;
        self.processes.retain(|pid, process| match process.tracker.written() {
            Ok(written) => {
                process.pending = PageSet::of(written);
                dirty += process.pending.count();
                true
            }
            Err(error) => drop_refused(refused, *pid, error),
        });
        // All have been looked at: none loses what another one wrote to the same memory.
        self.processes.retain(|pid, process| match process.tracker.rearm() {
            Ok(()) => true,
            Err(error) => drop_refused(refused, *pid, error),
        });
        PageCount(dirty)
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

    /// Sends the rest while every process stands still, and says which pages are to be kept.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn last(mut self) -> Result<Last<O>, RoundError> {
        let standing = self.stand();
        let before = self.stream.sums();
        self.send()?;
        let sent = self.stream.sums().since(before);
        self.end(standing, PageCount(sent.pages), PageCount(0))
    }

    /// As `last`, but the rest is only named: it will follow. So will all of those of the given processes, all that
    /// there are, that were not followed.
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
        self.end(standing, PageCount(0), PageCount(following))
    }

    /// What the processes that were followed have, now that they stand still. One for which that cannot be seen is
    /// dumped whole by CRIU.
    fn stand(&mut self) -> BTreeMap<u32, Standing> {
        let mut standing = BTreeMap::new();
        self.processes.retain(|pid, process| {
            let ended = process.tracker.written().and_then(|written| Ok((written, process.tracker.present()?)));
            let Ok((written, present)) = ended else { return false };
            let found = Standing::new(*pid, process.inside, process.tracker.mappings().to_vec(), present);
            process.pending = std::mem::take(&mut process.pending).or(PageSet::of(written));
            found.map(|found| standing.insert(*pid, found)).is_ok()
        });
        standing
    }

    fn end(
        mut self,
        standing: BTreeMap<u32, Standing>,
        pages: PageCount,
        following: PageCount,
    ) -> Result<Last<O>, RoundError> {
        for found in standing.values() {
            self.stream.object(Object::Process(found.inside))?;
            self.stream.runs(KEEP, found.present.runs())?;
        }
        let (sums, out) = self.stream.end()?;
        let trackers = self.processes.into_values().map(|process| process.tracker).collect();
        let covered = standing.into_iter().map(|(pid, found)| (pid, found.covered)).collect();
        Ok(Last { covered, pages, sums, following, out, trackers })
    }

    /// Sends what is pending of all processes, at least as far as to the packing.
    fn send(&mut self) -> Result<(), RoundError> {
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

/// Keeps no process that cannot be followed.
fn drop_refused(refused: &mut BTreeMap<u32, TrackError>, pid: u32, error: TrackError) -> bool {
    refused.insert(pid, error);
    false
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

/// The id of a process in its own namespace.
pub(crate) fn inside(pid: u32) -> io::Result<u64> {
    status(pid, "NSpid:")
}

/// The parent of a process.
fn parent(pid: u32) -> io::Result<u32> {
    status(pid, "PPid:")
}

/// The last number of a line in `/proc/PID/status` (`proc_pid_status(5)`).
fn status<T: FromStr>(pid: u32, name: &str) -> io::Result<T> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = status.lines().find_map(|line| line.strip_prefix(name));
    let number = numbers.and_then(|numbers| numbers.split_whitespace().next_back()?.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
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
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::inflow::Inflow;
    use crate::store::{Stored, store};

    #[test]
    fn stacks_are_not_covered() {
        assert_eq!(without(&(0x1000..0x5000), &[0x2000, 0x9000]), [0x1000..0x2000, 0x3000..0x5000]);
        assert_eq!(without(&(0x1000..0x5000), &[0x1000, 0x4000]), *std::slice::from_ref(&(0x2000..0x4000)));
        assert_eq!(without(&(0x9000..0xa000), &[0x9000]), []);
    }

    /// A program that ends with the test, also when it stands still and the test fails.
    struct Own(std::process::Child);

    impl Drop for Own {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn what_a_program_has_in_the_end_is_what_was_stored() {
        stored_is_what_it_has(Backend::Userfaultfd);
    }

    #[test]
    #[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
    fn soft_dirty_stores_what_a_program_has_in_the_end() {
        stored_is_what_it_has(Backend::SoftDirty);
    }

    fn stored_is_what_it_has(backend: Backend) {
        let script =
            "x=$(head -c 2000000 /dev/zero | tr '\\0' a); y=$(head -c 999999 /dev/zero | tr '\\0' b); echo ready
            while read -r line; do eval \"$line\"; echo done; done";
        let child = Command::new("bash").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut own = Own(child.unwrap());
        let child = &mut own.0;
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
        let mut rounds = Rounds::new(&mut stream, Compression::Auto, 1, Some(backend)).unwrap();
        let first = rounds.round(&[pid]).unwrap();
        assert!(first.pages > 600, "{first:?}");
        for line in ["y=; z=$(head -c 500000 /dev/zero | tr '\\0' c)", "x=${x/aaa/xyz}"] {
            writeln!(input, "{line}").unwrap();
            assert_eq!(heard(), "done\n");
            assert!(rounds.survey().0 > 0);
            assert!(rounds.round(&[pid]).unwrap().pages > 0);
        }
        assert!(rounds.follows() && rounds.refusal().is_none());
        let stopped = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
        while std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap().starts_with("running") {
            std::thread::yield_now();
        }
        let Last { covered, .. } = rounds.last().unwrap();
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), &mut Inflow::new(std::iter::once(stream.into())), || ()).unwrap();
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
    }
}
