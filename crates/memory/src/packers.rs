//! The threads that pack: blocks go in, and come out in any order, each by a way of its own.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::buffers::{Buffer, Buffers};
use crate::outflow::{HEADROOM, raw_block};
use crate::record::{Run, put_block};
use drover_packing::{Algorithm, Packer};

/// Pages that are to be sent together, and what stands before them in the stream.
#[derive(Debug)]
pub(crate) struct Block {
    /// Records that come first.
    pub head: Vec<u8>,
    /// What the pages are.
    pub runs: Vec<Run>,
    /// The content, behind the room for the header.
    pub buffer: Buffer,
    /// How long the content is, in bytes.
    pub length: usize,
}

/// A block as it crosses.
#[derive(Debug)]
pub(crate) struct Ready {
    /// What is sent, one behind the other.
    pub pieces: Vec<Bytes>,
    /// How it was packed in the end.
    pub algorithm: Algorithm,
    /// How long the content was.
    pub length: usize,
    /// What was tried, how long the content was then, and how long that took.
    pub tried: Option<(Algorithm, usize, Duration)>,
}

struct Job {
    block: Block,
    algorithm: Algorithm,
    done: SyncSender<Ready>,
}

/// The threads; dropped, they end.
#[derive(Debug)]
pub(crate) struct Packers {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Packers {
    /// Starts so many threads, of which each waits for blocks. At most `waiting` wait for a thread.
    pub fn start(threads: usize, waiting: usize, buffers: &Buffers) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(waiting);
        let queue = Arc::new(Mutex::new(queue));
        let mut packers = Self { jobs: Some(jobs), threads: Vec::new() };
        for _ in 0..threads {
            let (queue, buffers, packer) = (Arc::clone(&queue), buffers.clone(), Packer::new()?);
            let thread = std::thread::Builder::new().name("pack".into());
            packers.threads.push(thread.spawn(move || work(&queue, &buffers, packer))?);
        }
        Ok(packers)
    }

    /// Has a block packed; where it comes out.
    pub fn pack(&self, block: Block, algorithm: Algorithm) -> io::Result<Receiver<Ready>> {
        let (done, ready) = sync_channel(1);
        let ended = || io::Error::other("the threads that pack have ended");
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(Job { block, algorithm, done }).map_err(|_| ended())?;
        Ok(ready)
    }
}

impl Drop for Packers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, buffers: &Buffers, mut packer: Packer) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, algorithm, done }) = job else { return };
        // Nobody takes it when the stream was given up.
        let _ = done.send(pack(&mut packer, buffers, block, algorithm));
    }
}

fn pack(packer: &mut Packer, buffers: &Buffers, block: Block, algorithm: Algorithm) -> Ready {
    let begun = Instant::now();
    let length = block.length;
    let mut out = buffers.take();
    let packed = packer.pack(algorithm, &block.buffer[HEADROOM..HEADROOM + length], &mut out[HEADROOM..]);
    let tried = Some((algorithm, packed.unwrap_or(length), begun.elapsed()));
    let Some(packed) = packed else { return Ready { tried, ..raw_block(block) } };
    let Block { mut head, runs, .. } = block;
    put_block(&mut head, algorithm, &runs, packed);
    Ready { pieces: with_head(head, out, packed), algorithm, length, tried }
}

/// A buffer's content with records before it: in the room that was left for them, if it is large enough.
pub(crate) fn with_head(head: Vec<u8>, mut buffer: Buffer, length: usize) -> Vec<Bytes> {
    let content = HEADROOM..HEADROOM + length;
    match HEADROOM.checked_sub(head.len()) {
        Some(start) => {
            buffer[start..HEADROOM].copy_from_slice(&head);
            vec![buffer.share(start..content.end)]
        }
        None => vec![head.into(), buffer.share(content)],
    }
}
