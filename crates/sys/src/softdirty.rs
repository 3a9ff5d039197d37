//! Soft-dirty bits: `/proc/PID/clear_refs` takes them from all pages of a process, a write gives a page its own back, and
//! `/proc/PID/pagemap` shows them.
//!
//! Source of the formats: `Documentation/admin-guide/mm/soft-dirty.rst` and `pagemap.rst`. To look and to take away are
//! two steps: what is written between them is seen by nobody, unless the process stands still.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::map::Anonymous;

const PAGE: u64 = 4096;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// How many entries are read at once.
const GULP: usize = 32 << 10;

const DIRTY: u64 = 1 << 55;
const FILE: u64 = 1 << 61;
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;
/// Where in memory, or where in the swap space, the page is.
const FRAME: u64 = (1 << 55) - 1;

/// What the page map says of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// Whether it is in memory or swapped out, and is none of a file. The page of zeros, too, is in memory.
    #[must_use]
    pub fn has_content(self) -> bool {
        self.0 & (PRESENT | SWAPPED) != 0 && self.0 & FILE == 0
    }

    /// Whether it was written since the bits were cleared, or its mapping is newer than that.
    #[must_use]
    pub fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    /// Where its content is, as a number that is no other page's at the time; 0 when it has none, or when it is hidden
    /// from the caller (who lacks CAP_SYS_ADMIN).
    #[must_use]
    pub fn place(self) -> u64 {
        if self.has_content() && self.0 & FRAME != 0 { self.0 & (FRAME | SWAPPED | PRESENT) } else { 0 }
    }
}

/// The page map of a process, read entry by entry.
#[derive(Debug)]
pub struct PageMap {
    map: File,
    bytes: Vec<u8>,
}

impl PageMap {
    /// Opens the page map of the program that `pid` is now: of another one that it becomes nothing is seen.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { map: File::open(format!("/proc/{pid}/pagemap"))?, bytes: vec![0; GULP * ENTRY] })
    }

    /// Shows `each` the address and the entry of every page from `start` to `end`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the program has ended.
    pub fn read(&mut self, start: u64, end: u64, mut each: impl FnMut(u64, Entry)) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let length = usize::try_from((end - at) / PAGE).unwrap_or(GULP).min(GULP) * ENTRY;
            let bytes = &mut self.bytes[..length];
            self.map.read_exact_at(bytes, at / PAGE * ENTRY as u64)?;
            for entry in bytes.chunks_exact(ENTRY) {
                each(at, Entry(u64::from_ne_bytes(entry.try_into().expect("eight bytes"))));
                at += PAGE;
            }
        }
        Ok(())
    }
}

/// Takes the bits from all pages and mappings of a process.
///
/// # Errors
/// When there is no such process. A kernel without the bits may say nothing: see [`probe`].
pub fn clear(pid: u32) -> io::Result<()> {
    OpenOptions::new().write(true).open(format!("/proc/{pid}/clear_refs"))?.write_all(b"4")
}

/// Tries it out on a page of our own: whether the bits are kept, and whether places are shown.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] when the kernel has no such bits, [`io::ErrorKind::PermissionDenied`] when places are
/// hidden.
pub fn probe() -> io::Result<()> {
    let pid = std::process::id();
    let memory = Anonymous::new(PAGE as usize)?;
    let mut map = PageMap::open(pid)?;
    let mut look = || {
        let mut found = Entry(0);
        map.read(memory.address(), memory.address() + PAGE, |_, entry| found = entry).map(|()| found)
    };
    memory.write(0, 1);
    let written = look()?;
    clear(pid)?;
    let cleared = look()?;
    memory.write(0, 2);
    let again = look()?;
    if !written.is_dirty() || cleared.is_dirty() || !again.is_dirty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel keeps no soft-dirty bits"));
    }
    if again.place() == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the kernel hides where pages are"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_where_the_content_is() {
        let page = Entry(PRESENT | DIRTY | 1 << 56 | 0x1234);
        assert!(page.has_content() && page.is_dirty());
        assert_eq!(page.place(), Entry(PRESENT | 0x1234).place(), "neither bits nor other users belong to it");
        assert_ne!(page.place(), Entry(PRESENT | 0x1235).place());
        assert_ne!(page.place(), Entry(SWAPPED | 0x1234).place());
        assert_eq!(Entry(PRESENT | DIRTY).place(), 0, "it is hidden");
        assert!(!Entry(PRESENT | FILE | 0x1234).has_content());
        assert!(!Entry(DIRTY).has_content() && Entry(DIRTY).is_dirty(), "a mapping that is new");
    }

    #[test]
    fn entries_are_those_of_the_pages() {
        let memory = Anonymous::new(5 * PAGE as usize).unwrap();
        memory.write(PAGE as usize, 1);
        memory.write(3 * PAGE as usize, 1);
        let mut map = PageMap::open(std::process::id()).unwrap();
        let mut found = Vec::new();
        let (start, end) = (memory.address(), memory.address() + 5 * PAGE);
        map.read(start, end, |at, entry| found.extend(entry.has_content().then_some((at - start) / PAGE))).unwrap();
        assert_eq!(found, [1, 3]);
    }
}
