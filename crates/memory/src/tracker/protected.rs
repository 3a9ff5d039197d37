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
        let known = std::mem::take(&mut self.mappings);
        for mapping in followed(self.pid)? {
            let next = known.partition_point(|known| known.end <= mapping.start);
            let is_known = known.get(next).is_some_and(|known| known.start < mapping.end);
            // What is changing at this moment is not known next time, when all of it counts as written. What is not followed
            // when everything stands still is dumped by CRIU.
            if let Some(found) = written_in(&self.faults, &self.scan, &mapping, is_known)? {
                written.extend(found);
                self.mappings.push(mapping);
            }
        }
        // A process that has ended, or has become another program, would otherwise look like one that wrote nothing.
        if let Some(known) = known.first() {
            self.faults.covers(known.start)?;
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

/// The pages that were written in a mapping: all, if it is not `is_known` to have been registered. None when it is not what
/// it was when it was listed.
///
/// A known one is not simply registered again. Where memory is moved (`mremap(2)`) the kernel ends the registration of what
/// it moves, and with it that of a neighbour to which it joins it; the neighbour's pages it leaves marked as protected, and
/// the mark then outlives a write. Such a mapping must be found out, and begun anew without the marks.
fn written_in(
    faults: &Userfaultfd,
    scan: &Scan,
    mapping: &Range<u64>,
    is_known: bool,
) -> io::Result<Option<Vec<Range<u64>>>> {
    let (start, length) = (mapping.start, mapping.end - mapping.start);
    if is_known {
        match scan.written(mapping.start, mapping.end) {
            // A part of it is not registered. In front of that, writes may have been noted and forgotten already.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            written => return written.map(Some),
        }
    }
    let registered = faults.register_write_protection(start, length);
    let lifted = registered.and_then(|()| faults.lift_write_protection(start, length));
    match lifted.and_then(|()| scan.written(mapping.start, mapping.end)) {
        Ok(written) => Ok(Some(written)),
        // (`ENOMEM` would say that all of the memory has gone: the process has ended, or has become another program.)
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(error),
        },
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

    fn begin() -> (Userfaultfd, Scan) {
        let faults = Userfaultfd::new().unwrap();
        faults.agree(feature::WP_ASYNC | feature::WP_UNPOPULATED).unwrap();
        (faults, Scan::open(std::process::id()).unwrap())
    }

    #[test]
    fn writes_in_front_of_a_part_that_has_changed_are_not_forgotten() {
        let memory = Anonymous::new(8 * PAGE as usize).unwrap();
        let start = memory.address();
        let (faults, scan) = begin();
        let whole = start..start + 8 * PAGE;
        faults.register_write_protection(start, 4 * PAGE).unwrap();
        memory.write(PAGE as usize, 1);
        let written = written_in(&faults, &scan, &whole, true).unwrap().unwrap();
        assert!(written.iter().any(|run| run.contains(&(start + PAGE))), "{written:?}");
        assert_eq!(written_in(&faults, &scan, &whole, true).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn writes_beside_memory_that_was_moved_there_are_found() {
        let length = 8 * PAGE as usize;
        let (memory, aside) = (Anonymous::new(length).unwrap(), Anonymous::new(length).unwrap());
        (0..8).for_each(|page| memory.write(page * PAGE as usize, 1));
        let half = length / 2;
        memory.move_onto(half, &aside, 0, half).unwrap();
        let (faults, scan) = begin();
        let first = memory.address()..memory.address() + 4 * PAGE;
        let other = aside.address()..aside.address() + 4 * PAGE;
        for mapping in [&first, &other] {
            assert_eq!(written_in(&faults, &scan, mapping, false).unwrap().unwrap(), std::slice::from_ref(mapping));
        }
        aside.move_onto(0, &memory, half, half).unwrap();
        memory.write(PAGE as usize, 2);
        let all = memory.address()..memory.address() + 8 * PAGE;
        let written = written_in(&faults, &scan, &all, true).unwrap().unwrap();
        assert!(written.iter().any(|run| run.contains(&(all.start + PAGE))), "{written:?}");
        // And from then on, too.
        assert_eq!(written_in(&faults, &scan, &all, true).unwrap(), Some(Vec::new()));
        memory.write(PAGE as usize, 3);
        memory.write(5 * PAGE as usize, 3);
        let pages = [1, 5].map(|page| all.start + page * PAGE..all.start + (page + 1) * PAGE);
        assert_eq!(written_in(&faults, &scan, &all, true).unwrap().unwrap(), pages);
    }

    #[test]
    fn memory_that_is_not_what_was_listed_is_left_for_the_next_time() {
        let (faults, scan) = begin();
        // So far down nothing is mapped.
        let range = 32 * PAGE..40 * PAGE;
        for is_known in [false, true] {
            let written = written_in(&faults, &scan, &range, is_known).unwrap().unwrap_or_default();
            assert_eq!(written, []);
        }
    }
}
