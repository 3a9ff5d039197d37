//! Following by soft-dirty bits, for kernels older than 6.7.
//!
//! What is at an address may change without its bit: a page that was given back is the page of zeros when it is read again,
//! merging of equal pages (KSM) makes new entries, and `mremap(2)` may move whole tables of pages as they are. So the place
//! where the content is in memory is remembered, too: a page counts as written when its bit is set, or when its content is
//! elsewhere than it was. That nothing is missed: whatever is new at a place was written there, which sets the bit, and
//! what came from another address had another place. (Merged pages share one, and have the same content.)

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use drover_model::PageCount;
use drover_sys::softdirty::{PageMap, clear};

use super::TrackError;
use crate::mappings::followed;

const PAGE: u64 = PageCount::PAGE;
/// Pages whose places are kept side by side.
const CHUNK: u64 = 512;
/// The most pages that are looked at, with or without content: 64 GiB. The kernel tells of each, and the process stands
/// still meanwhile.
const MOST: u64 = 1 << 24;

/// A process whose soft-dirty bits are looked at.
#[derive(Debug)]
pub(super) struct SoftDirty {
    pid: u32,
    map: PageMap,
    mappings: Vec<Range<u64>>,
    /// Where pages were when they were last looked at, by the number of the chunk.
    places: Places,
}

type Places = BTreeMap<u64, Box<[u64]>>;

impl SoftDirty {
    pub fn attach(pid: u32) -> Result<Self, TrackError> {
        let map = PageMap::open(pid).map_err(|error| TrackError::Follow(pid, error))?;
        Ok(Self { pid, map, mappings: Vec::new(), places: Places::new() })
    }

    /// What was written since the bits were cleared, or has come from elsewhere since the last call.
    pub fn written(&mut self) -> io::Result<Vec<Range<u64>>> {
        let mappings = followed(self.pid)?;
        if too_many(&mappings) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it has more than 64 GiB of address space"));
        }
        let mut written = Vec::new();
        let mut places = Places::new();
        let mut hidden = false;
        for mapping in &mappings {
            let known = &self.places;
            self.map.read(mapping.start, mapping.end, |address, entry| {
                if !entry.has_content() {
                    return;
                }
                let (page, place) = (address / PAGE, entry.place());
                let (chunk, index) = (page / CHUNK, (page % CHUNK) as usize);
                let before = known.get(&chunk).map_or(0, |chunk| chunk[index]);
                hidden |= place == 0;
                places.entry(chunk).or_insert_with(|| vec![0; CHUNK as usize].into())[index] = place;
                if entry.is_dirty() || place != before {
                    extend(&mut written, mapping.start, address);
                }
            })?;
        }
        if hidden {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the kernel hides where its pages are"));
        }
        (self.mappings, self.places) = (mappings, places);
        Ok(written)
    }

    /// Takes the bits away. What was written since `written` is lost unless the process has stood still.
    pub fn rearm(&self) -> io::Result<()> {
        clear(self.pid)
    }

    pub fn mappings(&self) -> &[Range<u64>] {
        &self.mappings
    }

    /// What had content when it was last looked at.
    pub fn present(&self) -> Vec<Range<u64>> {
        let mut present = Vec::new();
        for mapping in &self.mappings {
            let chunks = mapping.start / PAGE / CHUNK..=(mapping.end - 1) / PAGE / CHUNK;
            for (chunk, places) in self.places.range(chunks) {
                let pages = (chunk * CHUNK..).zip(places).filter(|(_, place)| **place != 0);
                for address in pages.map(|(page, _)| page * PAGE).filter(|address| mapping.contains(address)) {
                    extend(&mut present, mapping.start, address);
                }
            }
        }
        present
    }
}

/// The pages with content in mappings of a process that nobody follows.
pub(super) fn present(pid: u32, mappings: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    if too_many(mappings) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut map = PageMap::open(pid)?;
    let mut present = Vec::new();
    for mapping in mappings {
        map.read(mapping.start, mapping.end, |address, entry| {
            if entry.has_content() {
                extend(&mut present, mapping.start, address);
            }
        })?;
    }
    Ok(present)
}

/// Whether there are more pages than are looked at one by one.
fn too_many(mappings: &[Range<u64>]) -> bool {
    mappings.iter().map(|mapping| (mapping.end - mapping.start) / PAGE).sum::<u64>() > MOST
}

/// Adds a page of the mapping that begins at `start` behind the others.
fn extend(runs: &mut Vec<Range<u64>>, start: u64, address: u64) {
    match runs.last_mut() {
        Some(last) if last.end == address && address != start => last.end += PAGE,
        _ => runs.push(address..address + PAGE),
    }
}
