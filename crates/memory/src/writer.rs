//! The thread that writes arriving pages into the file while others are still being received and unpacked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use bytes::Bytes;

/// How many contents may wait to be written: each at most as long as a block.
const WAITING: usize = 8;

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub length: usize,
}

enum Order {
    Write { places: Vec<Place>, content: Bytes },
    Say(SyncSender<()>),
}

/// Writes in the order in which it is told to: a page that comes again ends with its last content.
pub(crate) struct Writer<'scope> {
    orders: SyncSender<Order>,
    thread: ScopedJoinHandle<'scope, io::Result<()>>,
}

/// The thread has ended, for a reason that `end` gives.
#[derive(Debug)]
pub(crate) struct Ended;

impl<'scope> Writer<'scope> {
    /// Starts the thread.
    pub fn start<'env>(scope: &'scope Scope<'scope, 'env>, file: &'env File) -> io::Result<Self> {
        let (orders, queue) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("store".into());
        let thread = thread.spawn_scoped(scope, move || work(file, &queue))?;
        Ok(Self { orders, thread })
    }

    /// Has content written to places that have its length together.
    pub fn write(&self, places: Vec<Place>, content: Bytes) -> Result<(), Ended> {
        self.orders.send(Order::Write { places, content }).map_err(|_| Ended)
    }

    /// Waits until all that it was told has been written.
    pub fn finish(&self) -> Result<(), Ended> {
        let (done, said) = sync_channel(1);
        self.orders.send(Order::Say(done)).map_err(|_| Ended)?;
        said.recv().map_err(|_| Ended)
    }

    /// Waits for the end of the thread.
    pub fn end(self) -> io::Result<()> {
        drop(self.orders);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn work(file: &File, queue: &Receiver<Order>) -> io::Result<()> {
    for order in queue {
        match order {
            Order::Write { places, mut content } => {
                for place in places {
                    file.write_all_at(&content.split_to(place.length), place.offset)?;
                }
            }
            // Nobody listens any more: it had enough.
            Order::Say(done) => drop(done.send(())),
        }
    }
    Ok(())
}
