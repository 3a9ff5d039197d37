//! The source's side of the rounds: what was written since the last one is read, and sent as a page stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use drover_model::PageCount;
use drover_sys::shared::SharedFile;

use crate::mappings::inside;
use crate::shared::{Shared, Still};
use crate::store::{KEEP, ZERO};
use crate::stream::{MAX_RUN, Object, PRESENT, StreamWriter};
use crate::tracker::{TrackError, Tracker};

const PAGE: u64 = PageCount::PAGE;
/// How much is read from a process at once, in bytes.
const GULP: usize = 1 << 20;

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
    /// Pages that were written meanwhile.
    pub dirty_after: PageCount,
}

/// Pages that the target has, by process: mapping after mapping, but for those that CRIU must dump.
pub type Covered = BTreeMap<u32, Vec<Range<u64>>>;

/// What the last round gave.
#[derive(Debug)]
pub struct Last<W> {
    /// What need not be dumped.
    pub covered: Covered,
    /// Shared memory that need not be dumped: `rest` brings it.
    pub shared: BTreeSet<SharedFile>,
    /// How many pages were sent.
    pub pages: PageCount,
    /// What is still to be sent, while everything stands still and CRIU dumps.
    pub rest: Rest<W>,
    /// To be kept as long as nothing may be lost by waiting: taking the protection off again takes the longer the more
    /// memory there is.
    pub trackers: Vec<Tracker>,
}

/// The last differences of shared memory.
#[derive(Debug)]
pub struct Rest<W> {
    stream: StreamWriter<W>,
    shared: Still,
}

impl<W: Write> Rest<W> {
    /// Sends them and ends the stream. Gives how many pages were sent, and where the stream went.
    ///
    /// # Errors
    /// When the stream refuses, or the memory cannot be read.
    pub fn send(mut self) -> Result<(PageCount, W), RoundError> {
        let pages = self.shared.send(&mut self.stream)?;
        let (_, out) = self.stream.end()?;
        Ok((PageCount(pages), out))
    }
}

#[derive(Debug)]
struct Process {
    /// Its id in its own namespace.
    inside: u64,
    tracker: Tracker,
    memory: File,
    /// What is to be sent in the next round.
    pending: Vec<Range<u64>>,
    /// Whether the target has pages of it: then zeros must be said.
    known: bool,
}

/// The rounds of one migration.
#[derive(Debug)]
pub struct Rounds<W> {
    stream: StreamWriter<W>,
    processes: BTreeMap<u32, Process>,
    /// Processes that cannot be followed, and why.
    refused: BTreeMap<u32, TrackError>,
    shared: Shared,
    buffer: Vec<u8>,
}

impl<W: Write> Rounds<W> {
    /// Begins a stream.
    ///
    /// # Errors
    /// When `out` refuses.
    pub fn new(out: W) -> Result<Self, RoundError> {
        let stream = StreamWriter::new(out)?;
        let (processes, refused) = Default::default();
        Ok(Self { stream, processes, refused, shared: Shared::new(), buffer: vec![0; GULP] })
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
            match Process::begin(*pid) {
                Ok(process) => drop(self.processes.insert(*pid, process)),
                Err(error) => drop(self.refused.insert(*pid, error)),
            }
        }
        let mut pages = self.send()?;
        let (shared_pages, mut dirty) = self.shared.round(&mut self.stream, pids)?;
        pages += shared_pages;
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
        Ok(RoundDone { pages: PageCount(pages), dirty_after: PageCount(dirty) })
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

    /// Sends the rest of the given processes, all that there are, while they stand still, and says which pages are to be
    /// kept. Shared memory is left to what is given.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn last(mut self, pids: &[u32]) -> Result<Last<W>, RoundError> {
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
        let sent = self.send()?;
        for (pid, process) in &self.processes {
            self.stream.object(Object::Process(process.inside))?;
            for run in present.get(pid).into_iter().flatten() {
                for piece in pieces(run.clone()) {
                    self.stream.run(KEEP, piece.start, pages_of(&piece))?;
                }
            }
        }
        let trackers = self.processes.into_values().map(|process| process.tracker).collect();
        let still = self.shared.still(pids);
        let (shared, rest) = (still.covered(), Rest { stream: self.stream, shared: still });
        Ok(Last { covered, shared, pages: PageCount(sent), rest, trackers })
    }

    /// Sends what is pending of all processes; how many pages had content.
    fn send(&mut self) -> Result<u64, RoundError> {
        let Self { stream, processes, buffer, .. } = self;
        let mut sent = 0;
        for process in processes.values_mut() {
            let pending = std::mem::take(&mut process.pending);
            if pending.is_empty() {
                continue;
            }
            stream.object(Object::Process(process.inside))?;
            for run in pending {
                let mut at = run.start;
                while at < run.end {
                    let length = usize::try_from(run.end - at).unwrap_or(usize::MAX).min(buffer.len());
                    let content = &mut buffer[..length];
                    if process.memory.read_exact_at(content, at).is_err() {
                        read_single(&process.memory, at, content);
                    }
                    sent += send_content(stream, at, content, process.known)?;
                    at += length as u64;
                }
            }
            process.known = true;
        }
        stream.content().flush()?;
        Ok(sent)
    }
}

impl Process {
    fn begin(pid: u32) -> Result<Self, TrackError> {
        let failed = |error| TrackError::Follow(pid, error);
        let inside = inside(pid).map_err(failed)?;
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(failed)?;
        let mut tracker = Tracker::attach(pid)?;
        let pending = tracker.written()?;
        Ok(Self { inside, tracker, memory, pending, known: false })
    }
}

/// Sends pages side by side: runs with content, and runs of zeros where the target might have something else.
fn send_content(
    stream: &mut StreamWriter<impl Write>,
    address: u64,
    content: &[u8],
    zeros: bool,
) -> Result<u64, RoundError> {
    let mut sent = 0;
    let pages: Vec<bool> = content.chunks(PAGE as usize).map(|page| page.iter().all(|byte| *byte == 0)).collect();
    let mut first = 0;
    for run in pages.chunk_by(|a, b| a == b) {
        let (from, to) = (first * PAGE as usize, (first + run.len()) * PAGE as usize);
        let count = u32::try_from(run.len()).unwrap_or(MAX_RUN);
        if !run[0] {
            stream.run(PRESENT, address + from as u64, count)?;
            stream.content().write_all(&content[from..to])?;
            sent += run.len() as u64;
        } else if zeros {
            stream.run(ZERO, address + from as u64, count)?;
        }
        first += run.len();
    }
    Ok(sent)
}

/// Reads page by page, where not all of them can be read: one has gone meanwhile, and is missing from those that are kept
/// in the end, or guards what is beside it. They count as zeros.
fn read_single(memory: &File, address: u64, content: &mut [u8]) {
    for (number, page) in content.chunks_mut(PAGE as usize).enumerate() {
        if memory.read_exact_at(page, address + number as u64 * PAGE).is_err() {
            page.fill(0);
        }
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
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    use super::*;
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
        let mut rounds = Rounds::new(&mut stream).unwrap();
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
        let Last { covered, rest, .. } = rounds.last(&[pid]).unwrap();
        rest.send().unwrap();
        let directory = tempfile::tempdir().unwrap();
        store(directory.path(), &stream[..]).unwrap();
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
        let mut content = vec![1; 2 * PAGE as usize];
        read_single(&memory, 0, &mut content);
        assert!(content.iter().all(|byte| *byte == 0), "nothing is mapped there");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
