//! `PAGEMAP_SCAN` on `/proc/PID/pagemap`: which pages a process has, and which it has written.
//!
//! Source of the format: `linux/fs.h`, `Documentation/admin-guide/mm/pagemap.rst`. Since Linux 6.7.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = ((3_u32 << 30) | (96 << 16) | (0x66 << 8) | 16) as libc::Ioctl;
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;

const IS_WRITTEN: u64 = 1 << 1;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;

/// How many regions are asked for at once.
const REGIONS: usize = 4096;

/// What pages are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// Those with content: in memory or swapped out, and not the page of zeros. Pages of files are among them: to leave
    /// them out (`PAGE_IS_FILE`) the kernel looks at each page's own record, which takes six times as long.
    Present,
    /// Those of them that were written since the last scan of this kind, or since they were first protected. They are
    /// protected again: the range must be registered for it.
    Written,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
struct Arguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    give: u64,
}

/// The page map of a process.
#[derive(Debug)]
pub struct Scan {
    map: File,
}

impl Scan {
    /// Opens the page map of process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { map: File::open(format!("/proc/{pid}/pagemap"))? })
    }

    /// The written pages from `start` to `end`, as runs in ascending order; they are protected again in the same step.
    ///
    /// # Errors
    /// `EPERM` when a part of the range is not registered for write protection.
    pub fn written(&self, start: u64, end: u64) -> io::Result<Vec<Range<u64>>> {
        self.find(start, end, Category::Written)
    }

    /// The pages of a kind from `start` to `end`, as runs in ascending order.
    ///
    /// # Errors
    /// When the kernel is older than the call.
    pub fn find(&self, start: u64, end: u64, category: Category) -> io::Result<Vec<Range<u64>>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut regions = vec![Region::default(); REGIONS];
        let mut from = start;
        while from < end {
            let mut arguments = Arguments {
                size: size_of::<Arguments>() as u64,
                start: from,
                end,
                regions: regions.as_mut_ptr() as u64,
                regions_length: REGIONS as u64,
                inverted: IS_PFNZERO,
                all_of: IS_PFNZERO,
                any_of: IS_PRESENT | IS_SWAPPED,
                give: IS_PRESENT,
                ..Arguments::default()
            };
            if category == Category::Written {
                arguments.flags = WP_MATCHING | CHECK_WPASYNC;
                arguments.all_of |= IS_WRITTEN;
            }
            // SAFETY: the kernel reads `arguments` and writes to it and at most `REGIONS` regions; both are alive.
            let found = unsafe { libc::ioctl(self.map.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) };
            let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
            for region in &regions[..found] {
                match runs.last_mut() {
                    Some(last) if last.end == region.start => last.end = region.end,
                    _ => runs.push(region.start..region.end),
                }
            }
            if arguments.walk_end <= from {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            from = arguments.walk_end;
        }
        Ok(runs)
    }
}
