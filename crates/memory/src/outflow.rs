//! The source's end of a page stream: pages are gathered into blocks, packed by threads of their own, and sent in order.
//!
//! The caller's thread reads pages and sends what is ready; packing, and what happens to the bytes behind the outlet, go
//! on meanwhile. At most [`DEPTH`] blocks are on their way from one to the other.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, TryRecvError};

use drover_model::{Compression, PageCount};
use drover_packing::{Algorithm, Chooser, Outlet, room_for};

use crate::buffers::{Buffer, Buffers};
use crate::packers::{Block, Packers, Ready, with_head};
use crate::record::{
    BLOCK_HEADER, Description, MAX_BLOCK, Object, Run, in_pieces, put_block, put_description, put_end, put_magic,
    put_mark, put_object, put_run,
};

const PAGE: usize = PageCount::PAGE as usize;
/// The longest content of a block, in bytes.
const BLOCK: usize = MAX_BLOCK as usize * PAGE;
/// The room before a block's content: for its header, and for some records before that.
pub(crate) const HEADROOM: usize = 2048;
/// How many blocks may be on their way to the outlet.
const DEPTH: usize = 12;
/// So many bytes of records without content are sent at once.
const RECORDS: usize = 64 << 10;
/// The most threads that pack.
const THREADS: usize = 4;

const _: () = assert!(BLOCK_HEADER <= HEADROOM);

/// What is to become of a page that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its content is sent.
    Send,
    /// It has become zero, which the target must hear.
    Zero,
    /// The target has it, or need not have it.
    Skip,
}

/// What has been sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Pages with content.
    pub pages: u64,
    /// Bytes of the stream, all in all.
    pub bytes: u64,
    /// Pages by how they were packed, in the order of [`Algorithm::ALL`].
    pub packed: [u64; 3],
}

impl Sums {
    /// What was sent since there were these.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        let packed = std::array::from_fn(|index| self.packed[index] - before.packed[index]);
        Self { pages: self.pages - before.pages, bytes: self.bytes - before.bytes, packed }
    }
}

#[derive(Debug)]
enum Pending {
    Ready(Ready),
    Packing(Receiver<Ready>),
}

/// A page stream that is being written.
#[derive(Debug)]
pub struct Outflow<O> {
    out: O,
    chooser: Chooser,
    packers: Option<Packers>,
    buffers: Buffers,
    /// Records that come before the block.
    head: Vec<u8>,
    runs: Vec<Run>,
    buffer: Buffer,
    /// How long the block's content is by now, in bytes.
    length: usize,
    pending: VecDeque<Pending>,
    sums: Sums,
    /// The flag of runs of pages that have become zero.
    zero: u32,
}

impl<O: Outlet> Outflow<O> {
    /// Begins a stream. `zero` is the flag of runs of pages that have become zero.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new(out: O, compression: Compression, zero: u32) -> io::Result<Self> {
        // What is not packing reads, encrypts, and lets the container run.
        let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, THREADS));
        let chooser = Chooser::new(compression, threads);
        let buffers = Buffers::new(HEADROOM + room_for(BLOCK), 2 * DEPTH);
        let packers = chooser.packs().then(|| Packers::start(threads, DEPTH, &buffers)).transpose()?;
        let mut head = Vec::new();
        put_magic(&mut head);
        let (runs, buffer) = (Vec::new(), buffers.take());
        let (pending, sums) = (VecDeque::new(), Sums::default());
        Ok(Self { out, chooser, packers, buffers, head, runs, buffer, length: 0, pending, sums, zero })
    }

    /// What follows belongs to `object`.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn object(&mut self, object: Object) -> io::Result<()> {
        self.emit()?;
        put_object(&mut self.head, object);
        Ok(())
    }

    /// Shared memory begins, or ends behind all that was given until now.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn describe(&mut self, description: &Description) -> io::Result<()> {
        self.emit()?;
        put_description(&mut self.head, description);
        Ok(())
    }

    /// A run without content.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn run(&mut self, flags: u32, address: u64, pages: u32) -> io::Result<()> {
        let run = Run { address, pages };
        // It comes before the block that is being gathered, and must not where both say something of one page.
        let meets = self.runs.iter().any(|other| other.address < run.end() && run.address < other.end());
        if meets || self.head.len() >= RECORDS {
            self.emit()?;
        }
        put_run(&mut self.head, flags, run);
        Ok(())
    }

    /// Runs without content, of any length.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn runs(&mut self, flags: u32, runs: &[Range<u64>]) -> io::Result<()> {
        for run in runs {
            for piece in in_pieces(run) {
                self.run(flags, piece.address, piece.pages)?;
            }
        }
        Ok(())
    }

    /// A round ends behind all that was given until now.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn mark(&mut self) -> io::Result<()> {
        self.emit()?;
        put_mark(&mut self.head);
        Ok(())
    }

    /// Room for content that is to be sent: at least a page, whole pages. What was written there is given to `put`.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.length == BLOCK {
            self.emit()?;
        }
        Ok(&mut self.buffer[HEADROOM + self.length..HEADROOM + BLOCK])
    }

    /// Sends the pages that stand in the room, one behind the other, as `judge` decides for each of them.
    ///
    /// # Errors
    /// When the outlet refuses.
    ///
    /// # Panics
    /// When there are more of them than there was room for.
    pub fn put(
        &mut self,
        runs: impl Iterator<Item = Run>,
        mut judge: impl FnMut(u64, &[u8]) -> Verdict,
    ) -> io::Result<()> {
        let mut zeros: Vec<Run> = Vec::new();
        let mut from = HEADROOM + self.length;
        for run in runs {
            for address in (run.address..run.end()).step_by(PAGE) {
                match judge(address, &self.buffer[from..from + PAGE]) {
                    Verdict::Send => {
                        let to = HEADROOM + self.length;
                        assert!(to + PAGE <= HEADROOM + BLOCK, "more pages than there was room for");
                        if from != to {
                            self.buffer.copy_within(from..from + PAGE, to);
                        }
                        self.length += PAGE;
                        append(&mut self.runs, address);
                    }
                    Verdict::Zero => append(&mut zeros, address),
                    Verdict::Skip => {}
                }
                from += PAGE;
            }
        }
        zeros.into_iter().try_for_each(|run| self.run(self.zero, run.address, run.pages))
    }

    /// Sends everything that is here.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn flush(&mut self) -> io::Result<()> {
        self.emit()?;
        self.drain(0)
    }

    /// What has been sent.
    #[must_use]
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// Ends the stream; gives what was sent, and where it went.
    ///
    /// # Errors
    /// When the outlet refuses.
    pub fn end(mut self) -> io::Result<(Sums, O)> {
        self.flush()?;
        put_end(&mut self.head, self.sums.pages);
        self.flush()?;
        Ok((self.sums, self.out))
    }

    /// Passes the block on, and what comes before it.
    fn emit(&mut self) -> io::Result<()> {
        if self.head.is_empty() && self.length == 0 {
            return Ok(());
        }
        let head = std::mem::take(&mut self.head);
        if self.length == 0 {
            let ready = Ready { pieces: vec![head.into()], algorithm: Algorithm::None, length: 0, tried: None };
            self.pending.push_back(Pending::Ready(ready));
            return self.drain(DEPTH);
        }
        let buffer = std::mem::replace(&mut self.buffer, self.buffers.take());
        let block =
            Block { head, runs: std::mem::take(&mut self.runs), buffer, length: std::mem::take(&mut self.length) };
        let pending = match (self.chooser.choose(self.out.rate()), &self.packers) {
            (Algorithm::None, _) | (_, None) => Pending::Ready(raw_block(block)),
            (algorithm, Some(packers)) => Pending::Packing(packers.pack(block, algorithm)?),
        };
        self.pending.push_back(pending);
        self.drain(DEPTH)
    }

    /// Sends what is ready, in order; waits until at most `most` blocks are left.
    fn drain(&mut self, most: usize) -> io::Result<()> {
        let ended = || io::Error::other("a thread that packs has ended");
        while let Some(first) = self.pending.pop_front() {
            let ready = match first {
                Pending::Ready(ready) => ready,
                Pending::Packing(packing) if self.pending.len() >= most => packing.recv().map_err(|_| ended())?,
                Pending::Packing(packing) => match packing.try_recv() {
                    Ok(ready) => ready,
                    Err(TryRecvError::Disconnected) => return Err(ended()),
                    Err(TryRecvError::Empty) => {
                        self.pending.push_front(Pending::Packing(packing));
                        return Ok(());
                    }
                },
            };
            if let Some((algorithm, packed, busy)) = ready.tried {
                self.chooser.learn(algorithm, ready.length, packed, busy);
            }
            let pages = (ready.length / PAGE) as u64;
            self.sums.pages += pages;
            self.sums.packed[ready.algorithm as usize] += pages;
            for piece in ready.pieces {
                self.sums.bytes += piece.len() as u64;
                self.out.send(piece)?;
            }
        }
        Ok(())
    }
}

/// A block that crosses as it is.
pub(crate) fn raw_block(block: Block) -> Ready {
    let Block { mut head, runs, buffer, length } = block;
    put_block(&mut head, Algorithm::None, &runs, length);
    Ready { pieces: with_head(head, buffer, length), algorithm: Algorithm::None, length, tried: None }
}

/// Adds a page behind others.
fn append(runs: &mut Vec<Run>, address: u64) {
    match runs.last_mut() {
        Some(last) if last.end() == address => last.pages += 1,
        _ => runs.push(Run { address, pages: 1 }),
    }
}
