//! Mapped memory of our own.

use std::io;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap_fixed, munmap};

/// Private anonymous memory, zero at first.
#[derive(Debug)]
pub struct Anonymous {
    pointer: *mut u8,
    length: usize,
}

// SAFETY: it owns its memory, and every access to it is volatile and of a single byte.
unsafe impl Send for Anonymous {}
// SAFETY: as above.
unsafe impl Sync for Anonymous {}

impl Anonymous {
    /// Maps this many bytes, whole pages.
    ///
    /// # Errors
    /// When there is no room.
    pub fn new(length: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where: nothing that is mapped is touched.
        let pointer = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE)? };
        Ok(Self { pointer: pointer.cast(), length })
    }

    /// Maps this many bytes from an address on, where nothing is mapped.
    ///
    /// # Errors
    /// When there is something, or no room.
    pub fn at(address: u64, length: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE);
        // SAFETY: nothing that is mapped is touched, for the kernel refuses it.
        let pointer = unsafe { mmap_anonymous(address as *mut _, length, protection, flags)? };
        Ok(Self { pointer: pointer.cast(), length })
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.pointer as u64
    }

    /// The byte at an offset.
    ///
    /// # Panics
    /// When the offset is outside.
    #[must_use]
    pub fn read(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        // SAFETY: the offset is inside of the mapping.
        unsafe { self.pointer.add(offset).read_volatile() }
    }

    /// Writes the byte at an offset.
    ///
    /// # Panics
    /// When the offset is outside.
    pub fn write(&self, offset: usize, value: u8) {
        assert!(offset < self.length);
        // SAFETY: the offset is inside of the mapping.
        unsafe { self.pointer.add(offset).write_volatile(value) };
    }

    /// Advises the kernel about all of it (`madvise(2)`).
    ///
    /// # Errors
    /// When the kernel does not know the advice.
    pub fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the mapping is alive and ours; advice that takes the content away is seen as zeros by `read`.
        match unsafe { libc::madvise(self.pointer.cast(), self.length, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Moves `length` bytes at an offset to another one in `other`, over what is there. What was moved is zero here.
    ///
    /// # Errors
    /// When the offsets are not those of pages, or there is no room.
    ///
    /// # Panics
    /// When an offset or an end is outside.
    pub fn move_onto(&self, from: usize, other: &Self, to: usize, length: usize) -> io::Result<()> {
        assert!(from + length <= self.length && to + length <= other.length);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: both ranges are inside of our own mappings, into which nobody has a reference. The hole that is left is
        // filled again at once, so that the mapping stays whole.
        unsafe {
            let (old, new) = (self.pointer.add(from).cast(), other.pointer.add(to).cast());
            mremap_fixed(old, length, length, MremapFlags::MAYMOVE, new)?;
            mmap_anonymous(old, length, protection, MapFlags::PRIVATE | MapFlags::FIXED)?;
        }
        Ok(())
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody has a reference into it.
        let _ = unsafe { munmap(self.pointer.cast(), self.length) };
    }
}

/// The content of a file that nobody else changes, mapped for reading.
#[derive(Debug)]
pub struct Content {
    pointer: *const u8,
    length: usize,
}

// SAFETY: it is only read.
unsafe impl Send for Content {}
// SAFETY: as above.
unsafe impl Sync for Content {}

impl Content {
    /// Maps the first `length` bytes of a file. An empty one is nothing.
    ///
    /// The file must be as long, and stay as long: whoever reads behind its end is killed.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn of(file: impl AsFd, length: usize) -> io::Result<Self> {
        if length == 0 {
            return Ok(Self { pointer: std::ptr::NonNull::dangling().as_ptr(), length });
        }
        // SAFETY: the kernel chooses where: nothing that is mapped is touched.
        let pointer = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0)? };
        Ok(Self { pointer: pointer.cast_const().cast(), length })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is as long, and lives as long as the reference; the caller of `of` keeps the file as it is.
        unsafe { std::slice::from_raw_parts(self.pointer, self.length) }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: it was mapped with this length, and no reference into it is left.
            let _ = unsafe { munmap(self.pointer.cast_mut().cast(), self.length) };
        }
    }
}
