//! The target's side of shared memory: each piece becomes a memfd, which fills while the container still runs on the
//! source. A CRIU that restores takes it instead of making one; what it has made itself all the same is filled after it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom, fallocate, memfd_create, seek};
use rustix::io::Errno;

use crate::mappings::inside;
use crate::objects::Mapping;
use crate::record::Description;
use crate::room::Room;
use crate::stream::StreamError;

/// Why shared memory is not where it belongs.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The links that CRIU finds it by.
    #[error("cannot offer shared memory to criu")]
    Offer(#[source] io::Error),
    /// No process has mapped anything there.
    #[error("cannot find the shared memory at {address:#x} of process {process}")]
    Missing {
        /// The process's id in its own namespace.
        process: u64,
        /// The address.
        address: u64,
    },
    /// What is there is of another length.
    #[error("the shared memory at {address:#x} of process {process} has {found} bytes instead of {wanted}")]
    Size {
        /// The process's id in its own namespace.
        process: u64,
        /// The address.
        address: u64,
        /// What it has.
        found: u64,
        /// What it must have.
        wanted: u64,
    },
    /// It cannot be written.
    #[error("cannot write the shared memory at {address:#x} of process {process}")]
    Write {
        /// The process's id in its own namespace.
        process: u64,
        /// The address.
        address: u64,
        /// Why.
        source: io::Error,
    },
}

/// What became of the pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// Pieces that CRIU took as they were.
    pub taken: usize,
    /// Pieces whose content was written after the restore.
    pub written: usize,
}

/// Shared memory that has arrived.
#[derive(Debug, Default)]
pub struct Arrived {
    pieces: BTreeMap<u64, Piece>,
    /// How many bytes the pieces hold at most: what was counted last, and all that has come since.
    held: u64,
}

#[derive(Debug)]
struct Piece {
    file: File,
    description: Description,
}

/// The most pieces that a peer may send.
const MOST: usize = 1 << 16;
/// How much is copied at once, in bytes.
const GULP: usize = 1 << 20;

impl Arrived {
    /// A piece begins, from zeros; or this is the last that is heard of it.
    pub(crate) fn describe(&mut self, description: Description) -> Result<(), StreamError> {
        let refused = |error: Errno| StreamError::Io(error.into());
        if description.last {
            let piece = self.piece(description.id)?;
            piece.file.set_len(description.size)?;
            piece.description = description;
            return Ok(());
        }
        if self.pieces.len() >= MOST {
            return Err(StreamError::Nonsense("too much shared memory"));
        }
        let name = CString::new(description.name.as_slice());
        let name = name.map_err(|_| StreamError::Nonsense("a name of shared memory"))?;
        let seals = if description.sealable { MemfdFlags::ALLOW_SEALING } else { MemfdFlags::empty() };
        let file = memfd_create(&name, seals | MemfdFlags::CLOEXEC).map_err(refused)?;
        self.pieces.insert(description.id, Piece { file: file.into(), description });
        Ok(())
    }

    fn piece(&mut self, id: u64) -> Result<&mut Piece, StreamError> {
        self.pieces.get_mut(&id).ok_or(StreamError::Nonsense("pages of unknown shared memory"))
    }

    #[cfg(test)]
    pub(crate) fn file(&self, id: u64) -> Option<&File> {
        self.pieces.get(&id).map(|piece| &piece.file)
    }

    /// How many bytes all pieces hold, or so many more that they would not fit beside `others`: they are counted only when it
    /// matters.
    pub(crate) fn held(&mut self, others: u64, room: &Room) -> Result<u64, StreamError> {
        const BLOCK: u64 = 512;
        if room.hold(others.saturating_add(self.held)).is_err() {
            let sizes = self.pieces.values().map(|piece| Ok(piece.file.metadata()?.blocks() * BLOCK));
            self.held = sizes.sum::<io::Result<u64>>()?;
        }
        Ok(self.held)
    }

    pub(crate) fn content(&mut self, id: u64, at: u64, content: &[u8]) -> Result<(), StreamError> {
        self.held = self.held.saturating_add(content.len() as u64);
        Ok(self.piece(id)?.file.write_all_at(content, at)?)
    }

    pub(crate) fn zero(&mut self, id: u64, at: u64, length: u64) -> Result<(), StreamError> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.piece(id)?.file, hole, at, length).map_err(|error| StreamError::Io(error.into()))
    }

    /// Forgets what has gone before the end.
    pub(crate) fn finish(&mut self) {
        self.pieces.retain(|_, piece| piece.description.last);
    }

    /// Lets CRIU find what it shall take: a link for each piece in the directory of its images
    /// (`drover_sys::interpose::hand_out_shared`). It holds as long as this process does.
    ///
    /// # Errors
    /// When the links cannot be made.
    pub fn offer(&self, images: &Path) -> Result<(), PlaceError> {
        // The tasks of a container have another root, and another `/proc`, but they go up from this directory to ours.
        let depth = images.components().count();
        let root = PathBuf::from_iter(std::iter::repeat_n("..", depth));
        for (id, piece) in self.pieces.iter().filter(|(_, piece)| !piece.description.system_five) {
            let descriptor = format!("proc/{}/fd/{}", std::process::id(), piece.file.as_raw_fd());
            symlink(root.join(descriptor), images.join(format!("shared-{id}"))).map_err(PlaceError::Offer)?;
        }
        Ok(())
    }

    /// Sees to it that every piece is what restored processes have mapped, `pids` being all of them, which stand still.
    ///
    /// # Errors
    /// When a piece is not there, or cannot be written.
    pub fn place(&self, pids: &[u32]) -> Result<Placed, PlaceError> {
        let mut placed = Placed::default();
        let pids: BTreeMap<u64, u32> = pids.iter().filter_map(|pid| Some((inside(*pid).ok()?, *pid))).collect();
        for piece in self.pieces.values() {
            let Description { process, address, size: wanted, .. } = piece.description;
            let failed = |source| PlaceError::Write { process, address, source };
            let link = pids.get(&process).and_then(|pid| find(*pid, address));
            let link = link.ok_or(PlaceError::Missing { process, address })?;
            let (there, ours) = (std::fs::metadata(&link).map_err(failed)?, piece.file.metadata().map_err(failed)?);
            if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
                placed.taken += 1;
                continue;
            }
            if there.len() != wanted {
                return Err(PlaceError::Size { process, address, found: there.len(), wanted });
            }
            copy(&piece.file, &link).map_err(failed)?;
            placed.written += 1;
        }
        Ok(placed)
    }
}

/// The link to what a process has mapped at an address.
fn find(pid: u32, address: u64) -> Option<PathBuf> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mapping = maps.lines().filter_map(Mapping::parse).find(|one| (one.start..one.end).contains(&address))?;
    Some(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end).into())
}

/// Writes what has content to a file that has nothing but zeros.
fn copy(from: &File, to: &Path) -> io::Result<()> {
    let to = OpenOptions::new().write(true).open(to)?;
    let mut buffer = vec![0; GULP];
    let mut at = 0;
    loop {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(from, SeekFrom::Hole(at))?;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(GULP);
            from.read_exact_at(&mut buffer[..most], at)?;
            to.write_all_at(&buffer[..most], at)?;
            at += most as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_sys::map::Content;
    use rustix::fs::memfd_create;

    use super::*;

    const PAGE: u64 = 4096;

    fn description(id: u64, size: u64, address: u64) -> Description {
        let process = std::process::id().into();
        Description { id, last: false, sealable: true, system_five: false, size, process, address, name: b"x".to_vec() }
    }

    #[test]
    fn what_criu_has_made_itself_is_filled() {
        let made = File::from(memfd_create("x", MemfdFlags::CLOEXEC).unwrap());
        made.set_len(9 * PAGE).unwrap();
        let mapped = Content::of(&made, 9 * PAGE as usize).unwrap();
        let address = mapped.bytes().as_ptr() as u64 + PAGE;
        let mut arrived = Arrived::default();
        let begun = description(7, 9 * PAGE, address);
        arrived.describe(begun.clone()).unwrap();
        arrived.describe(description(8, PAGE, 0)).unwrap();
        let content = [5; 4 * PAGE as usize];
        arrived.content(7, 3 * PAGE, &content).unwrap();
        arrived.zero(7, 4 * PAGE, PAGE).unwrap();
        arrived.describe(Description { last: true, ..begun.clone() }).unwrap();
        arrived.finish();
        assert!(arrived.file(8).is_none(), "it has gone");
        let pids = [std::process::id()];
        assert_eq!(arrived.place(&pids).unwrap(), Placed { taken: 0, written: 1 });
        let bytes: Vec<u8> = mapped.bytes().chunks(PAGE as usize).map(|page| page[99]).collect();
        assert_eq!(bytes, [0, 0, 0, 5, 0, 5, 5, 0, 0]);
        let taken = Content::of(arrived.file(7).unwrap(), 9 * PAGE as usize).unwrap();
        let address = taken.bytes().as_ptr() as u64;
        arrived.describe(Description { last: true, address, ..begun.clone() }).unwrap();
        assert_eq!(arrived.place(&pids).unwrap(), Placed { taken: 1, written: 0 });
        arrived.describe(Description { last: true, address: 0, ..begun.clone() }).unwrap();
        assert!(matches!(arrived.place(&pids), Err(PlaceError::Missing { .. })));
        made.set_len(8 * PAGE).unwrap();
        arrived.describe(Description { last: true, ..begun }).unwrap();
        assert!(matches!(arrived.place(&pids), Err(PlaceError::Size { .. })));
    }
}
