//! One process whose pages are brought, and putting pages in their place.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use drover_model::PageCount;
use drover_sys::uffd::Userfaultfd;
use rustix::io::Errno;

use super::FillError;
use crate::pieces::Pieces;

const PAGE: u64 = PageCount::PAGE;
/// How long the kernel may take to tell of mappings that have changed.
const EVENT_COMES: Duration = Duration::from_secs(30);

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
    /// Since when its mappings have been changing, with no word about how.
    pub changing: Option<Instant>,
}

impl Process {
    pub fn new(id: u64, faults: Userfaultfd, missing: Pieces, awaited: Pieces) -> Self {
        Self { id, faults, missing, awaited, recent: Vec::new(), waiting: Vec::new(), changing: None }
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
        self.missing.is_empty() && self.awaited.is_empty() && self.waiting.is_empty()
    }

    /// Its mappings are changing. An event that never comes would leave a page out for ever.
    pub fn await_event(&mut self) -> Result<(), FillError> {
        let since = *self.changing.get_or_insert_with(Instant::now);
        if since.elapsed() < EVENT_COMES {
            return Ok(());
        }
        Err(FillError::Fill(
            self.id,
            io::Error::new(io::ErrorKind::TimedOut, "its mappings have changed without a word"),
        ))
    }

    /// Its address space has gone.
    pub fn forget(&mut self) {
        (self.missing, self.awaited) = Default::default();
        self.waiting.clear();
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
            Some(Errno::EXIST) => return Ok(Placed::Needless),
            // The range may reach over the end of a mapping: the smaller, the sooner it does not.
            Some(Errno::NOENT) if length > PAGE as usize => length = (length / 2).next_multiple_of(PAGE as usize),
            // A mapping that is moved is no longer in its old place before the kernel has told of it.
            Some(Errno::NOENT) => return Ok(Placed::Later),
            _ => return Err(error),
        }
    }
}

/// Whether a page that could not be put there is there already, or has no place any more.
pub(super) fn settled(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::EXIST | Errno::NOENT | Errno::SRCH))
}
