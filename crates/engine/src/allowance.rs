//! How much a source may send of what it has offered. The offer was weighed against what the node has; whoever sends much more
//! than that has not told the truth, or has grown so much that it is to be weighed anew.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use drover_memory::{ImageError, MachineMemory, Room, RoomError, StoreError};
use drover_model::{Bytes, Explained};
use drover_protocol::Offer;

/// Each round brings at most four fifths of what the one before has brought (`drover_protocol`, "convergence"): all of them
/// together bring five times the first one, and the last one comes while the container is frozen.
const ROUNDS: u64 = 6;
/// What a container may grow by while it moves, beside that.
const GROWTH: u64 = 1 << 30;
/// Deleted files that are open cross with the checkpoint; so many of the largest that may.
const DELETED: u64 = 4;
/// How much is written before it is looked anew whether the node has room, in bytes.
const STEP: u64 = 16 << 20;
/// What is left of the disk to others, in bytes; of the memory, this part.
const SPARE: u64 = 64 << 20;
const SPARE_MEMORY: u64 = 32;

/// What can be done about a container that has grown.
pub(crate) const AGAIN: &str = "move it again: it is then weighed as it is by now";

/// Why nothing more is taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exceeded {
    /// It is more than the offer allows.
    #[error("more arrives than was offered: over {0}")]
    Offered(Bytes),
    /// The disk.
    #[error("too little disk room is left for what arrives: {0}")]
    Disk(Bytes),
    /// The memory.
    #[error("too little memory is left for what arrives: {0}")]
    Memory(Bytes),
}

/// What an offer allows its streams, each of them.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    /// For pages, and for trees of files.
    most: u64,
    /// For the checkpoint.
    checkpoint: u64,
    /// A directory on the disk that files come to.
    disk: PathBuf,
}

/// What is left of one stream's.
#[derive(Debug)]
pub(crate) struct Rest {
    most: u64,
    left: u64,
    unlooked: u64,
    disk: PathBuf,
}

impl Allowance {
    /// Of an offer that was accepted. `available` is the memory that the node had then: no offer allows more.
    pub fn of(offer: &Offer, available: u64, disk: &Path) -> Self {
        let offered = offer.memory.max(offer.resident).min(available).saturating_add(offer.upper);
        let most = offered.saturating_mul(ROUNDS).saturating_add(GROWTH);
        let checkpoint = most.saturating_add(offer.settings.deleted_files().0.saturating_mul(DELETED));
        Self { most, checkpoint, disk: disk.to_owned() }
    }

    /// For pages.
    pub fn room(&self) -> Room {
        Room::within(Bytes(self.most))
    }

    /// For trees of files.
    pub fn files(&self) -> Rest {
        self.rest(self.most)
    }

    /// The checkpoint, as it comes: what is on the stream is what it takes.
    pub fn checkpoint<R: Read>(&self, input: R) -> Guarded<R> {
        Guarded { input, rest: self.rest(self.checkpoint) }
    }

    fn rest(&self, most: u64) -> Rest {
        Rest { most, left: most, unlooked: 0, disk: self.disk.clone() }
    }
}

impl Rest {
    /// So many bytes are about to be written, to a tree in memory or to one on the disk.
    pub fn take(&mut self, bytes: u64, in_memory: bool) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| refuse(Exceeded::Offered(Bytes(self.most))))?;
        self.unlooked = self.unlooked.saturating_add(bytes);
        if self.unlooked < STEP {
            return Ok(());
        }
        if in_memory {
            let MachineMemory { total, available } = MachineMemory::look()?;
            if available.saturating_sub(bytes) < total / SPARE_MEMORY {
                return Err(refuse(Exceeded::Memory(Bytes(available))));
            }
        } else {
            let disk = rustix::fs::statvfs(&self.disk)?;
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if free.saturating_sub(bytes) < SPARE {
                return Err(refuse(Exceeded::Disk(Bytes(free))));
            }
        }
        self.unlooked = 0;
        Ok(())
    }
}

fn refuse(why: Exceeded) -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, why)
}

/// What crosses into memory, as long as there is room.
pub(crate) struct Guarded<R> {
    input: R,
    rest: Rest,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.rest.take(length as u64, true)?;
        Ok(length)
    }
}

/// With what the reader can do, if it is the offer that was exceeded.
pub(crate) fn hinted(why: Explained, error: &(dyn std::error::Error + 'static)) -> Explained {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let exceeded = inner.and_then(|inner| inner.downcast_ref::<Exceeded>());
        let memory = match (error.downcast_ref(), error.downcast_ref()) {
            (Some(StoreError::Room(room)), _) | (_, Some(ImageError::Room(room))) => Some(room),
            _ => None,
        };
        match (exceeded, memory) {
            (Some(Exceeded::Offered(_)), _) | (_, Some(RoomError::Offered(_))) => return why.with_hint(AGAIN),
            (Some(_), _) | (_, Some(_)) => return why.with_hint("choose another node, or make room there"),
            (None, None) => cause = error.source(),
        }
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(most: u64) -> Rest {
        Rest { most, left: most, unlooked: 0, disk: std::env::temp_dir() }
    }

    #[test]
    fn what_was_offered_is_taken_and_no_more() {
        let mut files = rest(3 * STEP);
        for _ in 0..3 {
            files.take(STEP, false).unwrap();
        }
        files.take(0, true).unwrap();
        let refused = files.take(1, false).unwrap_err();
        assert_eq!(refused.to_string(), "more arrives than was offered: over 48.0 MiB");
        let why = hinted(Explained { reason: String::new(), hint: None }, &refused);
        assert_eq!(why.hint.as_deref(), Some(AGAIN));
    }

    #[test]
    fn what_nothing_has_room_for_is_refused_however_much_was_offered() {
        for in_memory in [true, false] {
            let refused = rest(u64::MAX).take(1 << 60, in_memory).unwrap_err();
            assert!(refused.to_string().starts_with("too little"), "{refused}");
        }
    }

    #[test]
    fn a_checkpoint_that_does_not_end_is_cut_off() {
        let mut guarded = Guarded { input: io::repeat(7), rest: rest(1 << 20) };
        let mut read = 0;
        let mut buffer = vec![0; 64 << 10];
        let refused = loop {
            match guarded.read(&mut buffer) {
                Ok(length) => read += length,
                Err(error) => break error,
            }
        };
        assert_eq!((read, refused.kind()), (1 << 20, io::ErrorKind::QuotaExceeded));
    }
}
