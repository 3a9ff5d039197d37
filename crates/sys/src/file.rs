//! What the kernel knows of a file's pages: where they lie on the disk (fiemap), and which are dirty in its cache.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A piece of a file as it lies on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// Where it begins on the disk.
    pub physical: u64,
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
}

impl Extent {
    /// Whether its place on the disk says that its content is what it was when it lay there before. Not so while it has no
    /// place yet, or shares one with other data.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        const UNKNOWN: u32 = 0x2;
        const DELALLOC: u32 = 0x4;
        const ENCODED: u32 = 0x8;
        const NOT_ALIGNED: u32 = 0x100;
        const INLINE: u32 = 0x200;
        const TAIL: u32 = 0x400;
        self.flags & (UNKNOWN | DELALLOC | ENCODED | NOT_ALIGNED | INLINE | TAIL) == 0
    }

    /// Where it ends in the file.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// How many extents are asked for at once.
const BATCH: usize = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_32: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// `_IOWR('f', 11, struct fiemap)`; the size is that of the header.
const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
/// The last extent of the file.
const LAST: u32 = 0x1;

/// Where a file lies on the disk, ascending; at most `most` extents, `None` when there are more.
///
/// # Errors
/// When the file system cannot say it.
pub fn extents(file: impl AsFd, most: usize) -> io::Result<Option<Vec<Extent>>> {
    let mut found: Vec<Extent> = Vec::new();
    let blank = RawExtent { logical: 0, physical: 0, length: 0, reserved: [0; 2], flags: 0, reserved_32: [0; 3] };
    let mut map = Box::new(Fiemap {
        start: 0,
        length: u64::MAX,
        flags: 0,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [blank; BATCH],
    });
    loop {
        map.start = found.last().map_or(0, Extent::end);
        map.length = u64::MAX - map.start;
        (map.mapped, map.flags) = (0, 0);
        // SAFETY: the structure is what the request expects, with room for as many extents as it says.
        let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut *map) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let mapped = &map.extents[..(map.mapped as usize).min(BATCH)];
        for raw in mapped {
            found.push(Extent { offset: raw.logical, length: raw.length, physical: raw.physical, flags: raw.flags });
        }
        if found.len() > most {
            return Ok(None);
        }
        if mapped.last().is_none_or(|raw| raw.flags & LAST != 0) {
            return Ok(Some(found));
        }
    }
}

/// How many pages of a file are dirty in its cache; `None` on kernels before 6.5.
///
/// # Errors
/// When the file cannot be asked.
pub fn dirty_pages(file: impl AsFd) -> io::Result<Option<u64>> {
    /// cachestat(2) has the same number on all architectures.
    const CACHESTAT: libc::c_long = 451;
    // Offset and length; a length of zero is all of the file.
    let range = [0_u64; 2];
    // In cache, dirty, under writeback, evicted, recently evicted.
    let mut counts = [0_u64; 5];
    let file = file.as_fd().as_raw_fd();
    // SAFETY: both structures are as large as the kernel's.
    let result = unsafe { libc::syscall(CACHESTAT, file, range.as_ptr(), counts.as_mut_ptr(), 0) };
    if result == 0 {
        return Ok(Some(counts[1]));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
        error => Err(error),
    }
}

/// Has the dirty pages of a file written to the disk, from its cache alone: neither its size nor its times are made durable.
/// Every page that was dirty is clean for a moment, so that the kernel notices when a program that has it mapped writes to
/// it again. `wait`: until it is written; otherwise pages that are being written already may be left as they are.
///
/// # Errors
/// When writing fails.
pub fn clean_pages(file: impl AsFd, wait: bool) -> io::Result<()> {
    let flags = if wait {
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER
    } else {
        libc::SYNC_FILE_RANGE_WRITE
    };
    // SAFETY: it takes no pointers.
    if unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_on_a_disk_has_a_place_and_its_dirty_pages_become_clean() {
        // Beside this program, which is on no file system in memory.
        let program = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 4096], 64 << 10).unwrap();
        let dirty = dirty_pages(&file).unwrap();
        assert!(dirty.is_none_or(|pages| pages > 0), "{dirty:?}");
        clean_pages(&file, true).unwrap();
        assert!(dirty_pages(&file).unwrap().is_none_or(|pages| pages == 0));
        // Not every file system can say it.
        if let Ok(extents) = extents(&file, 100) {
            let extents = extents.unwrap();
            assert!(extents.iter().any(|e| e.offset <= 64 << 10 && e.end() >= (64 << 10) + 4096), "{extents:?}");
            assert!(extents.iter().all(Extent::is_fixed), "{extents:?}");
        }
    }
}
