//! Following by write protection that a write lifts by itself (`UFFD_FEATURE_WP_ASYNC`, since Linux 6.7).
//!
//! A userfaultfd is made inside the process and taken from it; through it its private anonymous mappings are
//! write-protected. `PAGEMAP_SCAN` finds the pages without protection, which have been written, and protects them again in
//! the same step. When the descriptor is closed nothing of it is left in the process.

use std::io;
use std::ops::Range;

use drover_sys::inject::make_descriptor;
use drover_sys::pagemap::{Category, Scan};
use drover_sys::uffd::{self, Userfaultfd, feature};

use super::TrackError;
use crate::mappings::followed;

/// A process whose memory is write-protected.
#[derive(Debug)]
pub(super) struct Protected {
    pid: u32,
    faults: Userfaultfd,
    scan: Scan,
    mappings: Vec<Range<u64>>,
}

impl Protected {
    pub fn attach(pid: u32) -> Result<Self, TrackError> {
        let made = make_descriptor(pid, uffd::NUMBER, [uffd::FLAGS | uffd::USER_MODE_ONLY, 0, 0]);
        let faults = Userfaultfd::from_descriptor(made.map_err(|error| TrackError::Attach(pid, error))?);
        faults.agree(feature::WP_ASYNC | feature::WP_UNPOPULATED).map_err(TrackError::Kernel)?;
        let scan = Scan::open(pid).map_err(|error| TrackError::Follow(pid, error))?;
        Ok(Self { pid, faults, scan, mappings: Vec::new() })
    }

    /// What was written since the last call; it is protected again.
    pub fn written(&mut self) -> io::Result<Vec<Range<u64>>> {
        let mut written = Vec::new();
        self.mappings.clear();
        for mapping in followed(self.pid)? {
            // Again for those that are known: it costs little, and one that was moved or replaced looks the same.
            match self.faults.register_write_protection(mapping.start, mapping.end - mapping.start) {
                Ok(()) => {}
                // It has gone since the list was read, or something else is in its place, which is seen next time. What
                // is not followed when everything stands still is dumped by CRIU. (`ENOMEM` would say that all of the
                // memory has gone: the process has ended, or has become another program.)
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => continue,
                Err(error) => return Err(error),
            }
            match self.scan.written(mapping.start, mapping.end) {
                Ok(runs) => written.extend(runs),
                // It has changed since it was registered.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(error),
            }
            self.mappings.push(mapping);
        }
        Ok(written)
    }

    pub fn mappings(&self) -> &[Range<u64>] {
        &self.mappings
    }

    pub fn present(&self) -> io::Result<Vec<Range<u64>>> {
        find_present(&self.scan, &self.mappings)
    }
}

/// The pages with content in mappings.
pub(super) fn find_present(scan: &Scan, mappings: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    let mut present = Vec::new();
    for mapping in mappings {
        present.extend(scan.find(mapping.start, mapping.end, Category::Present)?);
    }
    Ok(present)
}
