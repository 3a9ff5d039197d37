//! One process whose pages are brought, and putting pages in their place.

use std::io;
use std::ops::Range;

use drover_model::PageCount;
use drover_sys::uffd::{Event, Userfaultfd};
use rustix::io::Errno;

use super::changes::{Change, in_order};
use crate::pieces::Pieces;

const PAGE: u64 = PageCount::PAGE;
/// How many pages that came too early are kept, at most, before no more are asked for.
const LATE: usize = 1024;
/// How often it is looked whether a thread has gone on, which takes as long as for it to be woken: some ten microseconds.
const LOOKS: u32 = 200;

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub id: u64,
    pub faults: Userfaultfd,
    /// What is in the store and not in the process yet.
    pub missing: Pieces,
    /// What is on the source alone; the slots are the numbers of the pages there.
    pub awaited: Pieces,
    /// What is brought before all else: it was written shortly before the freeze, so it will soon be used.
    pub recent: Vec<Range<u64>>,
    /// Pages that somebody waits for and that could not be put there while the mappings were changing.
    pub waiting: Vec<u64>,
    /// Pages that came from the source, by their numbers there, and could not be put there likewise; `None` is zeros.
    late: Vec<(u64, Option<Box<[u8]>>)>,
    /// How its mappings have changed, as it was told; not carried out while others are changing.
    told: Vec<Change>,
    /// The children it has forked, and how many changes had been told of by then.
    forked: Vec<(Userfaultfd, usize)>,
    /// Times that a thread had to wait.
    pub faults_heard: u64,
}

impl Process {
    pub fn new(id: u64, faults: Userfaultfd, missing: Pieces, awaited: Pieces) -> Self {
        let (recent, waiting, late, told, forked, faults_heard) = Default::default();
        Self { id, faults, missing, awaited, recent, waiting, late, told, forked, faults_heard }
    }

    /// What to bring next, at most so many bytes.
    pub fn next(&mut self, most: u64) -> Option<Range<u64>> {
        while let Some(recent) = self.recent.pop() {
            let Some((start, pages)) = self.missing.from(recent.start).filter(|(start, _)| *start < recent.end) else {
                continue;
            };
            let end = recent.end.min(start + (pages * PAGE).min(most));
            if end < recent.end {
                self.recent.push(end..recent.end);
            }
            return Some(start..end);
        }
        let (start, piece) = self.missing.first()?;
        Some(start..start + (piece.pages * PAGE).min(most))
    }

    pub fn is_served(&self) -> bool {
        self.missing.is_empty() && self.awaited.is_empty() && !self.is_hindered()
    }

    /// Whether its mappings may be other than what is known of them.
    pub fn is_changing(&self) -> bool {
        !(self.told.is_empty() && self.forked.is_empty())
    }

    /// Whether something could not be done because its mappings are changing.
    pub fn is_hindered(&self) -> bool {
        self.is_changing() || !self.waiting.is_empty() || !self.late.is_empty()
    }

    /// Whether so much has come and could not be put there that no more is to be asked for.
    pub fn is_full(&self) -> bool {
        self.late.len() >= LATE
    }

    /// Whether there is something to bring that nobody waits for.
    pub fn can_go_on(&self) -> bool {
        !self.missing.is_empty() && !self.is_changing()
    }

    /// Hears what it tells: who waits, and how its mappings have changed; no more of these than happened at once.
    pub fn hear(&mut self) -> io::Result<()> {
        while let Some(event) = self.faults.event()? {
            let change = match event {
                Event::Fault(address) => {
                    self.faults_heard += 1;
                    self.waiting.push(address & !(PAGE - 1));
                    continue;
                }
                Event::Fork(faults) => {
                    self.forked.push((faults, self.told.len()));
                    None
                }
                Event::Remap { from, to, length } => Some(Change::Moved { from: from..from + length, to }),
                Event::Unmap { start, end } => Some(Change::Gone(start..end)),
                Event::Remove { start, end } => Some(Change::Emptied(start..end)),
            };
            self.told.extend(change);
            // The thread goes on now. If no other was about to change anything, what it does next comes after this.
            if (0..LOOKS).any(|_| self.is_still()) {
                break;
            }
        }
        Ok(())
    }

    /// Whether no thread is changing mappings, so that no event is to come.
    fn is_still(&self) -> bool {
        // Whatever there is at this address: it is about the changes. One whose memory has gone has no more of them.
        !matches!(self.faults.covers(0), Ok(None))
    }

    /// Carries out what has been heard, once nothing more is about to be told; gives the children of its forks. `None` when
    /// its mappings are changing.
    pub fn settle(&mut self) -> Option<Vec<Self>> {
        if !self.is_changing() {
            return Some(Vec::new());
        }
        if !self.is_still() {
            return None;
        }
        let ordered = in_order(self.told.clone(), |address| self.faults.covers(address).unwrap_or(Some(false)))?;
        let (told, forked) = (std::mem::take(&mut self.told), std::mem::take(&mut self.forked));
        let children = forked.into_iter().map(|(faults, count)| self.child(faults, &told, count)).collect();
        ordered.iter().for_each(|change| self.carry_out(change));
        Some(children)
    }

    /// A child, which lacks what its parent lacks; but for what had happened when it was forked, which is most likely what
    /// had been told of by then.
    fn child(&self, faults: Userfaultfd, told: &[Change], count: usize) -> Self {
        let mut child = Self::new(self.id, faults, self.missing.clone(), self.awaited.clone());
        let is_mapped = |address| child.faults.covers(address).unwrap_or(Some(false));
        let had_happened =
            told.iter().enumerate().filter(|(index, change)| change.precedes_fork(is_mapped, *index < count));
        let had_happened = had_happened.map(|(_, change)| change.clone()).collect();
        let ordered = in_order(had_happened, |address| Some(is_mapped(address).unwrap_or(true))).unwrap_or_default();
        ordered.iter().for_each(|change| child.carry_out(change));
        // They have come for its parent, and are not sent again.
        child.late = self.late.clone();
        child
    }

    /// Whoever waits for what is no longer there looks again.
    fn carry_out(&mut self, change: &Change) {
        let range = change.affected().clone();
        let _ = self.faults.wake(range.start, range.end - range.start);
        match change {
            Change::Moved { to, .. } => {
                self.missing.shift(range.clone(), *to);
                self.awaited.shift(range, *to);
            }
            Change::Gone(_) | Change::Emptied(_) => self.forget_range(&range),
        }
    }

    /// What is missing there is zero.
    pub fn forget_range(&mut self, range: &Range<u64>) {
        self.missing.remove(range.clone());
        self.awaited.remove(range.clone());
    }

    /// Whether a page that has no place will not have one: no change is under way that nobody has heard of.
    pub fn is_settled(&mut self) -> io::Result<bool> {
        self.hear()?;
        Ok(!self.is_changing() && self.is_still())
    }

    /// Puts a page of the source, or zeros, where it belongs now, if it is still awaited, or keeps it until mappings no
    /// longer change. Gives how many pages that were.
    pub fn arrive(&mut self, origin: u64, content: Option<&[u8]>) -> io::Result<u64> {
        let Some(address) = self.awaited.find(origin) else { return Ok(0) };
        let placed = if self.is_changing() { Placed::Later } else { place(&self.faults, address, content)? };
        let done = match placed {
            Placed::Done(_) => 1,
            Placed::Needless => 0,
            Placed::Nowhere if self.is_settled()? => 0,
            Placed::Later | Placed::Nowhere => {
                self.late.push((origin, content.map(Into::into)));
                return Ok(0);
            }
            Placed::Gone => {
                self.forget();
                return Ok(0);
            }
        };
        self.awaited.remove(address..address + PAGE);
        Ok(done)
    }

    /// The same for those that could not be put there before.
    pub fn arrive_late(&mut self) -> io::Result<u64> {
        let late = std::mem::take(&mut self.late);
        late.into_iter().map(|(origin, content)| self.arrive(origin, content.as_deref())).sum()
    }

    /// Its address space has gone.
    pub fn forget(&mut self) {
        (self.missing, self.awaited) = Default::default();
        self.waiting.clear();
        self.late.clear();
    }
}

/// What became of pages that were to be put in their place.
pub(super) enum Placed {
    /// So many bytes of them are there.
    Done(u64),
    /// The first is there already.
    Needless,
    /// The mappings are changing: an event says, or will say, how.
    Later,
    /// Nothing is mapped there, or something else; an event may say why.
    Nowhere,
    /// The process has ended.
    Gone,
}

/// Puts pages in their place: this content, or a page of zeros.
pub(super) fn place(faults: &Userfaultfd, address: u64, content: Option<&[u8]>) -> io::Result<Placed> {
    let mut length = content.map_or(PAGE as usize, <[u8]>::len);
    loop {
        let done = match content {
            Some(content) => faults.copy(address, &content[..length]),
            None => faults.zero(address, PAGE),
        };
        let error = match done {
            Ok(done) => return Ok(Placed::Done(done)),
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => return Ok(Placed::Later),
            Some(Errno::SRCH) => return Ok(Placed::Gone),
            Some(Errno::EXIST) => {
                let _ = faults.wake(address, PAGE);
                return Ok(Placed::Needless);
            }
            // The range may reach over the end of a mapping: the smaller, the sooner it does not.
            Some(Errno::NOENT) if length > PAGE as usize => length = (length / 2).next_multiple_of(PAGE as usize),
            Some(Errno::NOENT) => return Ok(Placed::Nowhere),
            _ => return Err(error),
        }
    }
}
