//! Bringing restored processes their pages: at once where a thread waits for one, and all others one after the other.
//!
//! The other side is `criu restore --lazy-pages`. It connects to a socket and sends, for each process, its id in its own
//! namespace (`i32`) and, with one byte of nothing, the userfaultfd of its memory; the negated id of a zombie, with no
//! descriptor; and in the end the word 0x52535446. Nothing is sent back. Source: CRIU's `criu/uffd.c`.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use drover_model::PageCount;
use drover_sys::map::Content;
use drover_sys::uffd::Userfaultfd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::following::Relay;
use crate::pieces::Pieces;
use crate::stored::Stored;
use crate::wishes::{self, Wishes};

mod bring;
mod changes;
mod process;

use process::Process;

/// Why pages cannot be brought any more.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The socket to CRIU.
    #[error("cannot speak with criu about missing pages")]
    Criu(#[source] io::Error),
    /// The socket to the agent.
    #[error("cannot hear the agent that brings pages from the source")]
    Agent(#[source] io::Error),
    /// The pages themselves.
    #[error("cannot read the stored pages")]
    Content(#[source] io::Error),
    /// A process's memory.
    #[error("cannot fill the memory of process {0}")]
    Fill(u64, #[source] io::Error),
}

/// What was brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filled {
    /// Pages, all in all.
    pub pages: u64,
    /// Times that a thread had to wait for one.
    pub faults: u64,
}

const PAGE: u64 = PageCount::PAGE;
/// "Restore finished".
const FINISHED: u32 = 0x5253_5446;
/// So long nothing else is brought after a page that somebody waited for, or until as many were waited for. The most, for a
/// program that always waits must not keep the rest from coming.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: wishes::SOON.subsec_nanos() as i64 };
const PATIENCE: u32 = 32;
/// However much happens, the rest goes on as often as this.
const LATE: Duration = Duration::from_millis(5);
/// How much may be in memory twice, in the store and in its place, in bytes: to give it back takes as long as to bring it.
const TWICE: u64 = 8 << 20;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How long a thread whose event was read may take to say that its change is done, before it is looked at again.
const SETTLED: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000 };

/// Brings pages until none is missing.
pub struct Filler<'a> {
    stored: Stored,
    /// Lists the container's processes, as they are called here.
    pids: &'a (dyn Fn() -> Vec<u32> + Sync),
    content: Content,
    processes: Vec<Process>,
    /// Those that CRIU has restored, by their ids, whatever became of them.
    restored: BTreeSet<u64>,
    wishes: Wishes,
    /// Whether a process has forked: its child needs the same pages.
    shared: bool,
    filled: Filled,
    /// How many pages were waited for since the last that nobody waited for.
    hurried: u32,
    /// When something was brought last that nobody waited for.
    went_on: Instant,
    /// Where in the content is what has been brought, and how much that is: it is in memory twice.
    twice: Vec<Range<u64>>,
    twice_bytes: u64,
    buffer: Vec<u8>,
}

/// Of process `id`.
fn cannot_fill(id: u64) -> impl Fn(io::Error) -> FillError + Copy {
    move |error| FillError::Fill(id, error)
}

/// What may be waited for at once.
#[derive(Debug, Default)]
struct Happened {
    criu: bool,
    agent: bool,
    relay: bool,
    processes: Vec<usize>,
}

impl<'a> Filler<'a> {
    /// Takes up what was stored for the processes that `pids` lists.
    ///
    /// # Errors
    /// When the content cannot be mapped.
    pub fn new(stored: Stored, pids: &'a (dyn Fn() -> Vec<u32> + Sync)) -> Result<Self, FillError> {
        let length = usize::try_from(stored.slots * PAGE).map_err(|_| io::ErrorKind::FileTooLarge);
        let content = length.map_err(io::Error::from).and_then(|length| Content::of(&stored.content, length));
        let content = content.map_err(FillError::Content)?;
        let wishes = Wishes::new(stored.awaited.clone());
        let (processes, filled, buffer) = (Vec::new(), Filled::default(), vec![0; Relay::LONGEST]);
        let (twice, twice_bytes) = Default::default();
        Ok(Self {
            stored,
            pids,
            content,
            processes,
            restored: BTreeSet::new(),
            wishes,
            shared: false,
            filled,
            hurried: 0,
            went_on: Instant::now(),
            twice,
            twice_bytes,
            buffer,
        })
    }

    /// Accepts CRIU's connection and serves until every page is where it belongs. Before CRIU has finished nobody gets
    /// a page that nobody waits for: it is still arranging the mappings. What is on the source alone comes over the
    /// newest of the relays that connect to `agents`; each of them hears when nothing is.
    ///
    /// # Errors
    /// When CRIU breaks off before it has finished, or a process's memory cannot be filled.
    pub fn serve(mut self, criu: &UnixListener, agents: &OwnedFd) -> Result<Filled, FillError> {
        let (mut criu, _) = criu.accept().map_err(FillError::Criu)?;
        let mut finished = false;
        while !(finished && self.processes.iter().all(Process::is_served)) {
            let happened = self.wait((!finished).then_some(&criu), agents, self.limit(finished))?;
            let idle = happened.processes.is_empty();
            if happened.criu {
                finished = self.hear(&mut criu)?;
            }
            if happened.agent {
                self.wishes.take_relay(agents).map_err(FillError::Agent)?;
            }
            for index in happened.processes {
                self.answer(index)?;
            }
            if happened.relay {
                self.take_in()?;
            }
            let asked = self.wishes.ask_first();
            if finished {
                let late = self.went_on.elapsed() > LATE;
                if (idle || late || self.hurried >= PATIENCE)
                    && let Some(index) = self.processes.iter().position(Process::can_go_on)
                {
                    self.hurried = 0;
                    self.went_on = Instant::now();
                    self.go_on(index)?;
                    if self.twice_bytes >= TWICE {
                        self.give_back();
                    }
                }
                let processes = &self.processes;
                if asked && !processes.iter().any(Process::is_full) {
                    self.wishes.go_on(|id, page| {
                        processes.iter().any(|process| process.id == id && process.awaited.find(page).is_some())
                    });
                }
                self.let_go();
            }
            if self.nothing_follows(finished) {
                self.wishes.dismiss();
            }
        }
        self.let_go();
        Ok(self.filled)
    }

    /// Lets go of processes of which no page is missing: closing their descriptors leaves what is missing now, which is
    /// zero, to the kernel. A program may fork all the time.
    fn let_go(&mut self) {
        let faults = &mut self.filled.faults;
        self.processes.retain(|process| {
            *faults += if process.is_served() { process.faults_heard } else { 0 };
            !process.is_served()
        });
    }

    /// How long to wait for anything to happen.
    fn limit(&self, finished: bool) -> Option<&'static Timespec> {
        let any = |has: fn(&Process) -> bool| self.processes.iter().any(has);
        // Changes are told of when they are done; one that is broken off is not.
        if any(Process::is_hindered) {
            return Some(&SETTLED);
        }
        if finished && self.wishes.is_held() && any(|process| !process.awaited.is_empty()) {
            return Some(&SOON);
        }
        let goes_on = finished && any(Process::can_go_on);
        goes_on.then_some(if (1..PATIENCE).contains(&self.hurried) { &SOON } else { &NOW })
    }

    /// Whether no page is on the source alone.
    fn nothing_follows(&self, finished: bool) -> bool {
        match finished {
            true => self.processes.iter().all(|process| process.awaited.is_empty()),
            // Not all processes are there yet.
            false => self.stored.awaited.values().all(Pieces::is_empty),
        }
    }

    /// Waits until something has happened, at most as long as `limit`.
    fn wait(
        &self,
        criu: Option<&UnixStream>,
        agents: &OwnedFd,
        limit: Option<&Timespec>,
    ) -> Result<Happened, FillError> {
        let mut waiting: Vec<PollFd<'_>> =
            self.processes.iter().map(|process| PollFd::new(&process.faults, PollFlags::IN)).collect();
        waiting.push(PollFd::new(agents, PollFlags::IN));
        // Of those that may not be there, what is behind them must be found all the same.
        let relay = self.wishes.relay().map(|relay| {
            waiting.push(PollFd::new(relay, PollFlags::IN));
            waiting.len() - 1
        });
        let criu = criu.map(|criu| {
            waiting.push(PollFd::new(criu, PollFlags::IN));
            waiting.len() - 1
        });
        match poll(&mut waiting, limit) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(FillError::Criu(error.into())),
        }
        let is = |index: usize| !waiting[index].revents().is_empty();
        let count = self.processes.len();
        let again = |index: &usize| is(*index) || self.processes[*index].is_hindered();
        Ok(Happened {
            criu: criu.is_some_and(is),
            agent: is(count),
            relay: relay.is_some_and(is),
            processes: (0..count).filter(again).collect(),
        })
    }

    /// One message of CRIU; whether it was the last.
    fn hear(&mut self, criu: &mut UnixStream) -> Result<bool, FillError> {
        let mut word = [0; 4];
        io::Read::read_exact(criu, &mut word).map_err(FillError::Criu)?;
        if u32::from_ne_bytes(word) == FINISHED {
            return Ok(true);
        }
        if let Ok(id @ 1..) = u64::try_from(i32::from_ne_bytes(word)) {
            let faults = Userfaultfd::from_descriptor(receive(criu).map_err(FillError::Criu)?);
            let missing = self.stored.processes.get(&id).cloned().unwrap_or_default();
            let awaited = self.stored.awaited.get(&id).cloned().unwrap_or_default();
            let mut process = Process::new(id, faults, missing, awaited);
            self.restored.insert(id);
            process.recent = self.stored.recent.get(&id).cloned().unwrap_or_default();
            self.processes.push(process);
        }
        Ok(false)
    }
}

/// The descriptor that comes with one byte of nothing.
fn receive(criu: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(criu, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests;
