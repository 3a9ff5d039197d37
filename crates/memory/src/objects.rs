//! The shared memory of processes on the source: which pieces there are, and a descriptor of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use drover_model::PageCount;
use drover_sys::shared::{SharedFile, identify};
use rustix::fs::{SealFlags, fcntl_get_seals};

use crate::mappings::inside;
use crate::record::Description;

/// The most pieces that are followed; what there is beyond crosses with CRIU.
const MOST: usize = 4096;

/// A piece of shared memory.
#[derive(Debug)]
pub(crate) struct Found {
    pub file: File,
    pub shared: SharedFile,
    pub description: Description,
}

/// Finds the shared memory that the given processes have mapped, by its number. Left out, and so left to CRIU, are: what
/// is sealed against writing, for it could not be written on the target either; what ends within a page, whose rest
/// cannot be read from the file; and what has gone meanwhile.
pub(crate) fn find(pids: &[u32]) -> BTreeMap<u64, Found> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    let mut ambiguous = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for pid in pids {
        let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { continue };
        for mapping in maps.lines().filter_map(Mapping::parse) {
            if found.len() >= MOST {
                return found;
            }
            if !seen.insert((mapping.device.to_owned(), mapping.inode, mapping.system_five)) {
                continue;
            }
            let Ok(Some(one)) = open(*pid, &mapping) else {
                // Another mapping of it may be easier to reach.
                seen.remove(&(mapping.device.to_owned(), mapping.inode, mapping.system_five));
                continue;
            };
            // Segments of System V have numbers of their own. What CRIU would confuse is left to it.
            if found.insert(one.shared.inode, one).is_some() {
                ambiguous.insert(mapping.inode);
            }
        }
    }
    found.retain(|inode, _| !ambiguous.contains(inode));
    found
}

fn open(pid: u32, mapping: &Mapping<'_>) -> io::Result<Option<Found>> {
    let link = PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end));
    let Some((shared, name)) = identify(&link)? else { return Ok(None) };
    let file = File::open(&link)?;
    let size = file.metadata()?.len();
    let seals = fcntl_get_seals(&file)?;
    if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) || !size.is_multiple_of(PageCount::PAGE) {
        return Ok(None);
    }
    let description = Description {
        id: shared.inode,
        last: false,
        // As CRIU makes it: what can never be sealed has this one from the beginning.
        sealable: seals != SealFlags::SEAL,
        system_five: shared.system_five,
        size,
        process: inside(pid)?,
        address: mapping.start,
        name: name.into_vec(),
    };
    Ok(Some(Found { file, shared, description }))
}

/// A line of `/proc/PID/maps` (`proc_pid_maps(5)`) that may be of shared memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mapping<'a> {
    pub start: u64,
    pub end: u64,
    device: &'a str,
    inode: u64,
    system_five: bool,
}

impl<'a> Mapping<'a> {
    pub fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let mut fields = rest.split_ascii_whitespace();
        let (device, inode, path) = (fields.nth(2)?, fields.next()?, fields.next()?);
        let system_five = path.starts_with("/SYSV");
        let address = |text| u64::from_str_radix(text, 16).ok();
        let likely = system_five || path.starts_with("/memfd:") || path == "/dev/zero";
        likely.then_some(Self {
            start: address(start)?,
            end: address(end)?,
            device,
            inode: inode.parse().ok()?,
            system_five,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_shared_memory_are_found_in_the_list() {
        let lines = "\
55d0a0001000-55d0a0002000 rw-p 00001000 fe:00 123                        /usr/bin/redis-server
55d0a1000000-55d0a1021000 rw-p 00000000 00:00 0                          [heap]
7f0001000000-7f0001200000 rw-p 00000000 00:10 77                         /anon_hugepage (deleted)
7f0002000000-7f0002001000 rw-s 00000000 00:01 9                          /dev/zero (deleted)
7f0003000000-7f0003001000 r--s 00000000 00:01 10                         /memfd:a\\012b c (deleted)
7f0004000000-7f0004001000 rw-s 00000000 00:01 9                          /SYSV0000002a (deleted)
7f0005000000-7f0005001000 rw-s 00000000 00:2a 11                         /dev/shm/x (deleted)
";
        let found: Vec<_> = lines.lines().filter_map(Mapping::parse).collect();
        let of =
            |start, inode, system_five| Mapping { start, end: start + 0x1000, device: "00:01", inode, system_five };
        assert_eq!(
            found,
            [of(0x7f00_0200_0000, 9, false), of(0x7f00_0300_0000, 10, false), of(0x7f00_0400_0000, 9, true)]
        );
    }
}
