//! Following by write protection that a write lifts by itself (`UFFD_FEATURE_WP_ASYNC`, since Linux 6.7).
//!
//! A userfaultfd is made inside the process and taken from it; through it its private anonymous mappings are
//! write-protected. `PAGEMAP_SCAN` finds the pages without protection, which have been written, and protects them again in
//! the same step. When the descriptor is closed nothing of it is left in the process.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use drover_sys::inject::{make_descriptor, while_stopped};
use drover_sys::pagemap::{Category, Scan};
use drover_sys::uffd::{self, Userfaultfd, feature};

use super::{Motion, TrackError};
use crate::mappings::followed;

/// A process whose memory is write-protected.
#[derive(Debug)]
pub(super) struct Protected {
    pid: u32,
    faults: Userfaultfd,
    scan: Scan,
    mappings: Vec<Range<u64>>,
    /// Mappings that cannot be followed: nobody stands still for those again.
    refused: Vec<Range<u64>>,
}

/// What was written in mappings, by their first and last addresses.
type Seen = BTreeMap<(u64, u64), Vec<Range<u64>>>;

impl Protected {
    pub fn attach(pid: u32) -> Result<Self, TrackError> {
        let made = make_descriptor(pid, uffd::NUMBER, [uffd::FLAGS | uffd::USER_MODE_ONLY, 0, 0]);
        let faults = Userfaultfd::from_descriptor(made.map_err(|error| TrackError::Attach(pid, error))?);
        faults.agree(feature::WP_ASYNC | feature::WP_UNPOPULATED).map_err(TrackError::Kernel)?;
        let scan = Scan::open(pid).map_err(|error| TrackError::Follow(pid, error))?;
        Ok(Self { pid, faults, scan, mappings: Vec::new(), refused: Vec::new() })
    }

    /// What was written since the last call; it is protected again.
    pub fn written(&mut self, motion: Motion) -> io::Result<Vec<Range<u64>>> {
        let known = std::mem::take(&mut self.mappings);
        let listed = followed(self.pid)?;
        let mut seen = self.look_at(&listed, &known)?;
        if listed.iter().any(|mapping| self.is_new(mapping, &seen)) {
            let begun = match motion {
                Motion::Still => self.begin_new(&seen)?,
                Motion::Running => while_stopped(self.pid, || self.begin_new(&seen))??,
            };
            seen.retain(|(start, end), _| !overlaps(&begun, &(*start..*end)));
            for mapping in begun {
                // What has changed again is not known next time, when all of it counts as written. What is not followed when
                // everything stands still is dumped by CRIU.
                if let Some(found) = anew(&self.faults, &self.scan, &mapping)? {
                    seen.insert((mapping.start, mapping.end), found);
                }
            }
        }
        // A process that has ended, or has become another program, would otherwise look like one that wrote nothing.
        if let Some(known) = known.first() {
            self.faults.covers(known.start)?;
        }
        self.mappings = seen.keys().map(|(start, end)| *start..*end).collect();
        Ok(seen.into_values().flatten().collect())
    }

    /// What was written in those of the listed mappings that are followed already.
    fn look_at(&self, listed: &[Range<u64>], known: &[Range<u64>]) -> io::Result<Seen> {
        let mut seen = Seen::new();
        for mapping in listed {
            if overlaps(known, mapping)
                && let Some(found) = since(&self.scan, mapping)?
            {
                seen.insert((mapping.start, mapping.end), found);
            }
        }
        Ok(seen)
    }

    /// Whether a mapping can be followed and is not yet.
    fn is_new(&self, mapping: &Range<u64>, seen: &Seen) -> bool {
        !seen.contains_key(&(mapping.start, mapping.end)) && !self.refused.contains(mapping)
    }

    /// Has the kernel note what is written to new mappings, while nobody changes them. Gives those with which that
    /// is possible.
    ///
    /// In a process that runs, what is listed as one mapping may be another one's part by now: then only that part would be
    /// noted, and the kernel would have made two mappings of one. The program knows of one, and moves it (`mremap(2)`): of two
    /// mappings the kernel moves none, or the first one alone.
    fn begin_new(&mut self, seen: &Seen) -> io::Result<Vec<Range<u64>>> {
        let mut begun = Vec::new();
        self.refused.clear();
        for mapping in followed(self.pid)? {
            if seen.contains_key(&(mapping.start, mapping.end)) {
                continue;
            }
            match self.faults.register_write_protection(mapping.start, mapping.end - mapping.start) {
                Ok(()) => begun.push(mapping),
                Err(error) if is_unsuitable(&error) => self.refused.push(mapping),
                Err(error) => return Err(error),
            }
        }
        Ok(begun)
    }

    pub fn mappings(&self) -> &[Range<u64>] {
        &self.mappings
    }

    pub fn present(&self) -> io::Result<Vec<Range<u64>>> {
        find_present(&self.scan, &self.mappings)
    }
}

/// Whether a mapping has an address in common with one of these, which are in ascending order.
fn overlaps(mappings: &[Range<u64>], mapping: &Range<u64>) -> bool {
    let next = mappings.partition_point(|other| other.end <= mapping.start);
    mappings.get(next).is_some_and(|other| other.start < mapping.end)
}

/// The pages that were written in a known mapping. None when a part of it is not registered: in front of that, writes may
/// have been noted and forgotten already.
fn since(scan: &Scan, mapping: &Range<u64>) -> io::Result<Option<Vec<Range<u64>>>> {
    match scan.written(mapping.start, mapping.end) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        written => written.map(Some),
    }
}

/// Begins anew with a mapping that is registered: all of it was written. None when it is not what it was.
///
/// Marks are taken off first. Where memory is moved (`mremap(2)`) the kernel ends the registration of what it moves, and
/// with it that of a neighbour to which it joins it; the neighbour's pages it leaves marked as protected, and the mark then
/// outlives a write.
fn anew(faults: &Userfaultfd, scan: &Scan, mapping: &Range<u64>) -> io::Result<Option<Vec<Range<u64>>>> {
    let lifted = faults.lift_write_protection(mapping.start, mapping.end - mapping.start);
    match lifted.and_then(|()| scan.written(mapping.start, mapping.end)) {
        Ok(written) => Ok(Some(written)),
        Err(error) if is_unsuitable(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a mapping is not there, is not what it was, or is of a kind of which writes are not noted. (`ENOMEM` would say that
/// all of the memory has gone: the process has ended, or has become another program.)
fn is_unsuitable(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied, ResourceBusy};
    matches!(error.kind(), InvalidInput | NotFound | PermissionDenied | ResourceBusy)
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

    /// What was written in a mapping, with which it is begun anew if it must.
    fn survey(faults: &Userfaultfd, scan: &Scan, mapping: &Range<u64>) -> Vec<Range<u64>> {
        since(scan, mapping).unwrap().unwrap_or_else(|| {
            faults.register_write_protection(mapping.start, mapping.end - mapping.start).unwrap();
            anew(faults, scan, mapping).unwrap().unwrap()
        })
    }

    #[test]
    fn writes_in_front_of_a_part_that_has_changed_are_not_forgotten() {
        let memory = Anonymous::new(8 * PAGE as usize).unwrap();
        let start = memory.address();
        let (faults, scan) = begin();
        let whole = start..start + 8 * PAGE;
        faults.register_write_protection(start, 4 * PAGE).unwrap();
        memory.write(PAGE as usize, 1);
        let written = survey(&faults, &scan, &whole);
        assert!(written.iter().any(|run| run.contains(&(start + PAGE))), "{written:?}");
        assert_eq!(survey(&faults, &scan, &whole), []);
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
            assert_eq!(survey(&faults, &scan, mapping), std::slice::from_ref(mapping));
        }
        aside.move_onto(0, &memory, half, half).unwrap();
        memory.write(PAGE as usize, 2);
        let all = memory.address()..memory.address() + 8 * PAGE;
        let written = survey(&faults, &scan, &all);
        assert!(written.iter().any(|run| run.contains(&(all.start + PAGE))), "{written:?}");
        // And from then on, too.
        assert_eq!(survey(&faults, &scan, &all), []);
        memory.write(PAGE as usize, 3);
        memory.write(5 * PAGE as usize, 3);
        let pages = [1, 5].map(|page| all.start + page * PAGE..all.start + (page + 1) * PAGE);
        assert_eq!(survey(&faults, &scan, &all), pages);
    }

    #[test]
    fn memory_that_is_not_what_was_listed_is_left_for_the_next_time() {
        let (faults, scan) = begin();
        // So far down nothing is mapped.
        let range = 32 * PAGE..40 * PAGE;
        assert_eq!(since(&scan, &range).unwrap().unwrap_or_default(), []);
        let registered = faults.register_write_protection(range.start, range.end - range.start);
        assert!(is_unsuitable(&registered.unwrap_err()));
        assert_eq!(anew(&faults, &scan, &range).unwrap(), None);
    }
}
