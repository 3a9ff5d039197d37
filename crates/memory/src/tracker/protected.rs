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
            written.extend(written_in(&self.scan, &mapping)?);
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

/// The pages that were written in a mapping.
fn written_in(scan: &Scan, mapping: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
    match scan.written(mapping.start, mapping.end) {
        // A part of it has changed since it was registered. In front of that, writes may have been noted and forgotten
        // already, so all that there is counts as written.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            scan.find(mapping.start, mapping.end, Category::Present)
        }
        written => written,
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

#[cfg(test)]
mod tests {
    use drover_sys::map::Anonymous;

    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn writes_in_front_of_a_part_that_has_changed_are_not_forgotten() {
        let memory = Anonymous::new(8 * PAGE as usize).unwrap();
        let start = memory.address();
        let faults = Userfaultfd::new().unwrap();
        faults.agree(feature::WP_ASYNC | feature::WP_UNPOPULATED).unwrap();
        faults.register_write_protection(start, 4 * PAGE).unwrap();
        let scan = Scan::open(std::process::id()).unwrap();
        memory.write(PAGE as usize, 1);
        let mapping = start..start + 8 * PAGE;
        for _ in 0..2 {
            let written = written_in(&scan, &mapping).unwrap();
            assert!(written.iter().any(|run| run.contains(&(start + PAGE))), "{written:?}");
        }
    }
}
