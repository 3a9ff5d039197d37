//! Bringing restored processes their pages: at once where a thread waits for one, and all others one after the other.
//!
//! The other side is `criu restore --lazy-pages`. It connects to a socket and sends, for each process, its id in its own
//! namespace (`i32`) and, with one byte of nothing, the userfaultfd of its memory; the negated id of a zombie, with no
//! descriptor; and in the end the word 0x52535446. Nothing is sent back. Source: CRIU's `criu/uffd.c`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use drover_model::PageCount;
use drover_sys::map::Content;
use drover_sys::uffd::{Event, Userfaultfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::pieces::Pieces;
use crate::store::Stored;

/// Why pages cannot be brought any more.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The socket to CRIU.
    #[error("cannot speak with criu about missing pages")]
    Criu(#[source] io::Error),
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
/// How much is brought at once without anybody waiting, in bytes: so long may a thread wait that begins to meanwhile.
const STRIDE: u64 = 1 << 20;
/// How much is brought around a page that somebody waits for, in bytes.
const AROUND: u64 = 64 << 10;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// One process.
#[derive(Debug)]
struct Process {
    id: u64,
    faults: Userfaultfd,
    missing: Pieces,
    /// Pages of zeros that somebody waits for and that could not be put there while the mappings were changing.
    waiting: Vec<u64>,
}

impl Process {
    fn is_served(&self) -> bool {
        self.missing.is_empty() && self.waiting.is_empty()
    }
}

/// Brings pages until none is missing.
#[derive(Debug)]
pub struct Filler {
    stored: Stored,
    content: Content,
    processes: Vec<Process>,
    /// Whether a process has forked: its child needs the same pages.
    shared: bool,
    filled: Filled,
}

impl Filler {
    /// Takes up what was stored.
    ///
    /// # Errors
    /// When the content cannot be mapped.
    pub fn new(stored: Stored) -> Result<Self, FillError> {
        let length = usize::try_from(stored.slots * PAGE).map_err(|_| io::ErrorKind::FileTooLarge);
        let content = length.map_err(io::Error::from).and_then(|length| Content::of(&stored.content, length));
        let content = content.map_err(FillError::Content)?;
        Ok(Self { stored, content, processes: Vec::new(), shared: false, filled: Filled::default() })
    }

    /// Accepts CRIU's connection and serves until every page is where it belongs. Before CRIU has finished nobody gets
    /// a page that nobody waits for: it is still arranging the mappings.
    ///
    /// # Errors
    /// When CRIU breaks off before it has finished, or a process's memory cannot be filled.
    pub fn serve(mut self, listener: &UnixListener) -> Result<Filled, FillError> {
        let (mut criu, _) = listener.accept().map_err(FillError::Criu)?;
        let mut finished = false;
        while !finished {
            let hurry = self.processes.iter().any(|process| !process.waiting.is_empty());
            let (speaks, waits) = self.wait(Some(&criu), hurry.then_some(&NOW))?;
            if speaks {
                finished = self.hear(&mut criu)?;
            }
            for index in waits {
                self.answer(index)?;
            }
        }
        while !self.processes.iter().all(Process::is_served) {
            let (_, waits) = self.wait(None, Some(&NOW))?;
            for index in waits {
                self.answer(index)?;
            }
            if let Some(index) = self.processes.iter().position(|process| !process.missing.is_empty()) {
                self.go_on(index)?;
            }
        }
        // Closing the descriptors leaves what is missing now, which is zero, to the kernel.
        Ok(self.filled)
    }

    /// Whether CRIU has something to say, and the processes that something happened in.
    fn wait(&self, criu: Option<&UnixStream>, limit: Option<&Timespec>) -> Result<(bool, Vec<usize>), FillError> {
        let mut waiting: Vec<PollFd<'_>> =
            self.processes.iter().map(|process| PollFd::new(&process.faults, PollFlags::IN)).collect();
        if let Some(criu) = criu {
            waiting.push(PollFd::new(criu, PollFlags::IN));
        }
        match poll(&mut waiting, limit) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(FillError::Criu(error.into())),
        }
        let happened: Vec<bool> = waiting.iter().map(|one| !one.revents().is_empty()).collect();
        let speaks = criu.is_some() && happened.last() == Some(&true);
        let again = |index: &usize| happened[*index] || !self.processes[*index].waiting.is_empty();
        let waits = (0..self.processes.len()).filter(again).collect();
        Ok((speaks, waits))
    }

    /// One message of CRIU; whether it was the last.
    fn hear(&mut self, criu: &mut UnixStream) -> Result<bool, FillError> {
        let mut word = [0; 4];
        io::Read::read_exact(criu, &mut word).map_err(FillError::Criu)?;
        if u32::from_ne_bytes(word) == FINISHED {
            return Ok(true);
        }
        if let Ok(id @ 1..) = u64::try_from(i32::from_ne_bytes(word)) {
            let faults = receive(criu).map_err(FillError::Criu)?;
            let missing = self.stored.processes.get(&id).cloned().unwrap_or_default();
            self.processes.push(Process {
                id,
                faults: Userfaultfd::from_descriptor(faults),
                missing,
                waiting: Vec::new(),
            });
        }
        Ok(false)
    }

    /// Deals with everything that has happened in a process.
    fn answer(&mut self, index: usize) -> Result<(), FillError> {
        let failed = |id| move |error| FillError::Fill(id, error);
        loop {
            let process = &mut self.processes[index];
            match process.faults.event().map_err(failed(process.id))? {
                None => {
                    for address in std::mem::take(&mut process.waiting) {
                        self.bring_around(index, address)?;
                    }
                    return Ok(());
                }
                Some(Event::Fault(address)) => {
                    self.filled.faults += 1;
                    self.bring_around(index, address & !(PAGE - 1))?;
                }
                // The child lacks what its parent lacks.
                Some(Event::Fork(faults)) => {
                    let missing = process.missing.clone();
                    let child = Process { id: process.id, faults, missing, waiting: Vec::new() };
                    self.processes.push(child);
                    self.shared = true;
                }
                Some(Event::Remap { from, to, length }) => process.missing.shift(from..from + length, to),
                Some(Event::Remove { start, end } | Event::Unmap { start, end }) => process.missing.remove(start..end),
            }
        }
    }

    /// Brings the page that somebody waits for, and some behind it.
    fn bring_around(&mut self, index: usize, address: u64) -> Result<(), FillError> {
        let process = &mut self.processes[index];
        match process.missing.at(address) {
            Some((_, end)) => self.bring(index, address..end.min(address + AROUND)),
            // Nothing was ever written there, or it was given back; or another thread's wait has brought it meanwhile.
            None => match process.faults.zero(address, PAGE) {
                Ok(_) => Ok(()),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => {
                    process.waiting.push(address);
                    Ok(())
                }
                Err(error) if settled(&error) => Ok(()),
                Err(error) => Err(FillError::Fill(process.id, error)),
            },
        }
    }

    /// Brings the next pages that nobody waits for yet.
    fn go_on(&mut self, index: usize) -> Result<(), FillError> {
        let Some((start, piece)) = self.processes[index].missing.first() else { return Ok(()) };
        self.bring(index, start..start + (piece.pages * PAGE).min(STRIDE))
    }

    /// Brings pages that are in one piece.
    fn bring(&mut self, index: usize, range: Range<u64>) -> Result<(), FillError> {
        let process = &mut self.processes[index];
        let (mut at, mut length) = (range.start, range.end - range.start);
        while at < range.end {
            let Some((slot, _)) = process.missing.at(at) else { return Ok(()) };
            let offset = (slot * PAGE) as usize;
            let bytes = &self.content.bytes()[offset..offset + length as usize];
            let done = match process.faults.copy(at, bytes) {
                Ok(done) => {
                    self.filled.pages += done / PAGE;
                    done
                }
                Err(error) => match Errno::from_io_error(&error) {
                    // The mappings are changing: the event that says how comes first.
                    Some(Errno::AGAIN) => return Ok(()),
                    Some(Errno::SRCH) => {
                        process.missing = Pieces::default();
                        return Ok(());
                    }
                    // The range may reach over the end of a mapping: the smaller, the sooner it does not.
                    Some(Errno::NOENT) if length > PAGE => {
                        length = (length / 2).next_multiple_of(PAGE);
                        continue;
                    }
                    // The page is there, or there is no place for it any more.
                    Some(Errno::EXIST | Errno::NOENT) => PAGE,
                    _ => return Err(FillError::Fill(process.id, error)),
                },
            };
            process.missing.remove(at..at + done);
            if !self.shared {
                // It is in memory twice until now. A file that cannot have holes only takes more room.
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = fallocate(&self.stored.content, hole, offset as u64, done);
            }
            at += done;
            length = (range.end - at).min(length);
        }
        Ok(())
    }
}

/// Whether a page that could not be put there is there already, or has no place any more.
fn settled(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::EXIST | Errno::NOENT | Errno::SRCH))
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
mod tests {
    use std::io::Write;

    use std::os::fd::AsFd;

    use drover_sys::map::Anonymous;
    use drover_sys::uffd::feature;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;
    use crate::inflow::Inflow;
    use crate::store::{KEEP, store};
    use crate::stream::{Object, PRESENT, StreamWriter};

    const PAGES: u64 = 700;

    /// The byte that a page is full of; every tenth page is zero and not in the store.
    fn byte(page: u64) -> u8 {
        if page.is_multiple_of(10) { 0 } else { (page % 251) as u8 + 1 }
    }

    #[test]
    fn every_page_comes_to_its_place_and_whoever_waits_goes_on() {
        let memory = Anonymous::new((PAGES * PAGE) as usize).unwrap();
        let start = memory.address();
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes).unwrap();
        writer.object(Object::Process(9)).unwrap();
        for page in (0..PAGES).filter(|page| byte(*page) != 0) {
            writer.run(PRESENT, start + page * PAGE, 1).unwrap();
            writer.content().write_all(&[byte(page); PAGE as usize]).unwrap();
        }
        writer.run(KEEP, start, PAGES as u32).unwrap();
        writer.end().unwrap();
        store(directory.path(), Inflow::new(std::iter::once(bytes.into()))).unwrap();

        let faults = Userfaultfd::new().unwrap();
        faults.agree(feature::EVENT_REMOVE | feature::EVENT_UNMAP | feature::EVENT_REMAP).unwrap();
        faults.register_missing(start, PAGES * PAGE).unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let filler = Filler::new(Stored::open(directory.path()).unwrap().unwrap()).unwrap();
        std::thread::scope(|scope| {
            let filling = scope.spawn(|| filler.serve(&listener).unwrap());
            // What CRIU does.
            let mut criu = UnixStream::connect(&path).unwrap();
            criu.write_all(&(-3_i32).to_ne_bytes()).unwrap();
            criu.write_all(&9_i32.to_ne_bytes()).unwrap();
            let descriptors = [faults.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            sendmsg(&criu, &[io::IoSlice::new(&[0])], &mut ancillary, SendFlags::empty()).unwrap();
            // A task closes its own, or nobody would ever leave what is zero to the kernel.
            drop(faults);
            // Somebody waits before CRIU has finished.
            for page in [333, 20, 699] {
                assert_eq!(memory.read((page * PAGE) as usize + 5), byte(page));
            }
            criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
            for page in 0..PAGES {
                assert_eq!(memory.read((page * PAGE) as usize + 7), byte(page), "page {page}");
            }
            let filled = filling.join().unwrap();
            assert_eq!(filled.pages, (0..PAGES).filter(|page| byte(*page) != 0).count() as u64);
            assert!(filled.faults >= 3);
        });
    }

    #[test]
    fn a_restore_that_breaks_off_ends_the_filling() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        StreamWriter::new(&mut bytes).unwrap().end().unwrap();
        store(directory.path(), Inflow::new(std::iter::once(bytes.into()))).unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        drop(UnixStream::connect(&path).unwrap());
        let filler = Filler::new(Stored::open(directory.path()).unwrap().unwrap()).unwrap();
        assert!(matches!(filler.serve(&listener), Err(FillError::Criu(_))));
    }
}
