//! Following which pages a running process writes, without its help.
//!
//! There are two ways, and [`Backend::probe`] says which one this machine has. By write protection a survey is one step for
//! the kernel. By soft-dirty bits it is two, to look and to clear: between them nobody may write, so every process stands
//! still, and all are looked at before any is cleared, for two may share one memory.

mod protected;
mod soft_dirty;

use std::io;
use std::ops::Range;

use drover_sys::pagemap::Scan;
use drover_sys::probe;
use protected::Protected;
use soft_dirty::SoftDirty;

/// Why a process cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// It cannot be made to make the descriptor.
    #[error("cannot attach to process {0}")]
    Attach(u32, #[source] io::Error),
    /// The kernel is older than 6.7, or lacks the means.
    #[error("the kernel cannot tell which pages were written")]
    Kernel(#[source] io::Error),
    /// Neither of the ways is open.
    #[error("this machine cannot tell which pages were written")]
    Nothing,
    /// It reads files past the page cache and does not wait for it: nobody knows when its memory is written.
    #[error("process {0} has files read past the page cache (`O_DIRECT`) while it goes on (`io_setup`)")]
    Direct(u32),
    /// Its mappings, or what was written to them.
    #[error("cannot follow process {0}")]
    Follow(u32, #[source] io::Error),
}

/// A way to follow what a process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Write protection by a userfaultfd.
    Userfaultfd,
    /// Soft-dirty bits.
    SoftDirty,
}

impl Backend {
    /// The better one of those that work on this machine.
    #[must_use]
    pub fn probe() -> Option<Self> {
        if probe::write_protection().and_then(|()| probe::injection()).is_ok() {
            return Some(Self::Userfaultfd);
        }
        probe::soft_dirty().is_ok().then_some(Self::SoftDirty)
    }

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Userfaultfd => "userfaultfd",
            Self::SoftDirty => "soft-dirty",
        }
    }

    /// Whether all processes must stand still while it is seen what they wrote.
    #[must_use]
    pub fn needs_standstill(self) -> bool {
        self == Self::SoftDirty
    }
}

/// What a process does while it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// It runs. Its threads are stopped for some microseconds when it has memory that is not followed yet.
    Running,
    /// Somebody has it stand still.
    Still,
}

/// A process whose writes are followed.
#[derive(Debug)]
pub struct Tracker {
    pid: u32,
    means: Means,
}

#[derive(Debug)]
enum Means {
    Protected(Protected),
    SoftDirty(SoftDirty),
}

impl Tracker {
    /// Begins to follow process `pid`: to begin with, all its pages count as written.
    ///
    /// # Errors
    /// When it cannot be held, its kernel cannot do it, or it keeps memory locked.
    pub fn attach(pid: u32, backend: Backend) -> Result<Self, TrackError> {
        let means = match backend {
            Backend::Userfaultfd => Means::Protected(Protected::attach(pid)?),
            Backend::SoftDirty => Means::SoftDirty(SoftDirty::attach(pid)?),
        };
        Ok(Self { pid, means })
    }

    /// The pages that were written since the last call and `rearm` after it, as runs in ascending order, none across two
    /// mappings. A mapping that is new since then counts as written. Where the backend needs it every process with this
    /// memory stands still from here until `rearm`.
    ///
    /// # Errors
    /// When the process is gone, has become another program, or has locked memory.
    pub fn written(&mut self, motion: Motion) -> Result<Vec<Range<u64>>, TrackError> {
        let written = match &mut self.means {
            Means::Protected(protected) => protected.written(motion),
            Means::SoftDirty(soft_dirty) => soft_dirty.written(),
        };
        written.map_err(|error| TrackError::Follow(self.pid, error))
    }

    /// Forgets what was written by now, if `written` has not done so.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rearm(&self) -> Result<(), TrackError> {
        match &self.means {
            Means::Protected(_) => Ok(()),
            Means::SoftDirty(soft_dirty) => soft_dirty.rearm().map_err(|error| TrackError::Follow(self.pid, error)),
        }
    }

    /// The mappings that are followed, as of the last call of `written`.
    #[must_use]
    pub fn mappings(&self) -> &[Range<u64>] {
        match &self.means {
            Means::Protected(protected) => protected.mappings(),
            Means::SoftDirty(soft_dirty) => soft_dirty.mappings(),
        }
    }

    /// The pages in these mappings that have content, after `written` and before the process runs again; all others are
    /// zero.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn present(&self) -> Result<Vec<Range<u64>>, TrackError> {
        match &self.means {
            Means::Protected(protected) => protected.present().map_err(|error| TrackError::Follow(self.pid, error)),
            Means::SoftDirty(soft_dirty) => Ok(soft_dirty.present()),
        }
    }
}

/// The pages with content in mappings of a process that nobody follows.
///
/// # Errors
/// When the process is gone.
pub(crate) fn present(pid: u32, mappings: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    match protected::find_present(&Scan::open(pid)?, mappings) {
        // The kernel is older than the call.
        Err(error) if error.raw_os_error() == Some(NOT_A_REQUEST) => soft_dirty::present(pid, mappings),
        found => found,
    }
}

/// `ENOTTY`.
const NOT_A_REQUEST: i32 = rustix::io::Errno::NOTTY.raw_os_error();

#[cfg(test)]
mod tests;
