//! Directories for what is not finished: locked by their user, and swept away when the user is gone.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::overlay::unmount;

/// Inside one: where several layers are looked at as one.
pub(super) const VIEW: &str = "view";
/// How many names are tried for a directory.
const ATTEMPTS: u32 = 100;

/// A directory of one's own, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    /// Held open: the kernel lets go of the lock however the process ends.
    lock: Option<File>,
}

impl Staging {
    pub fn new(parent: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..ATTEMPTS {
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = parent.join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // Between its making and its locking somebody else's sweep may have taken it.
            let locked = File::open(&path).and_then(|file| {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                Ok(file)
            });
            match locked {
                Ok(lock) if path.exists() => return Ok(Self { path, lock: Some(lock) }),
                _ => continue,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its final place, and whoever moved it its lock.
    pub fn move_to(mut self, place: &Path) -> io::Result<File> {
        std::fs::rename(&self.path, place)?;
        self.lock.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Removes it with all that is in it.
    pub fn remove(mut self) -> io::Result<()> {
        let _lock = self.lock.take();
        drover_sys::tree::remove(&self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What cannot be removed now is swept when the store is opened next.
            let _ = drover_sys::tree::remove(&self.path);
        }
    }
}

/// Removes the directories whose users are gone.
pub(super) fn sweep(parent: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        let Ok(file) = File::open(&path) else { continue };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Whoever looked into an image may have been killed while it did.
                let _ = unmount(&path.join(VIEW), true);
                drover_sys::tree::remove(&path)?;
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
