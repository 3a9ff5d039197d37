//! Mapped memory in words of eight bytes, and what a program can do to it. For programs that put memory to the test.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::null_mut;

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect, mremap,
    mremap_fixed, munmap,
};

/// Words in a page.
pub const PAGE_WORDS: usize = 512;
const PAGE_BYTES: usize = PAGE_WORDS * 8;
const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// Who sees what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// This process.
    Private,
    /// Forked children, and all mappings of the same file.
    Shared,
}

impl Sharing {
    fn flag(self) -> MapFlags {
        match self {
            Self::Private => MapFlags::PRIVATE,
            Self::Shared => MapFlags::SHARED,
        }
    }
}

/// Neighbouring pages of our own, never empty. Pages are counted from the first one.
///
/// Nobody has a reference into it, and every access is volatile: its content may come and go by the kernel, and by other
/// processes where it is shared.
#[derive(Debug)]
pub struct Words {
    pointer: *mut u64,
    pages: usize,
}

// SAFETY: it owns its memory, which is bound to no thread.
unsafe impl Send for Words {}

impl Words {
    /// Memory without a file, zero at first.
    ///
    /// # Errors
    /// When there is no room.
    pub fn anonymous(pages: usize, sharing: Sharing) -> io::Result<Self> {
        Self::without_file(pages, READ_WRITE, sharing.flag())
    }

    /// Private memory in huge pages, zero at first.
    ///
    /// # Errors
    /// When the machine has no huge pages left, or `pages` is no multiple of their size.
    pub fn huge(pages: usize) -> io::Result<Self> {
        Self::without_file(pages, READ_WRITE, MapFlags::PRIVATE | MapFlags::HUGETLB)
    }

    fn without_file(pages: usize, protection: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses where: nothing that is mapped is touched.
        let pointer = unsafe { mmap_anonymous(null_mut(), pages * PAGE_BYTES, protection, flags)? };
        Ok(Self { pointer: pointer.cast(), pages })
    }

    /// Pages of a file from `first` on, to read and to write. Whoever touches one behind the file's end is killed.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn of_file(file: impl AsFd, first: usize, pages: usize, sharing: Sharing) -> io::Result<Self> {
        let (length, offset) = (pages * PAGE_BYTES, (first * PAGE_BYTES) as u64);
        // SAFETY: the kernel chooses where: nothing that is mapped is touched.
        let pointer = unsafe { mmap(null_mut(), length, READ_WRITE, sharing.flag(), file, offset)? };
        Ok(Self { pointer: pointer.cast(), pages })
    }

    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The address of a word.
    ///
    /// # Panics
    /// When it is outside.
    #[must_use]
    pub fn address(&self, index: usize) -> u64 {
        self.at(index) as u64
    }

    fn at(&self, index: usize) -> *mut u64 {
        assert!(index < self.pages * PAGE_WORDS);
        self.pointer.wrapping_add(index)
    }

    /// A word. Whoever reads a hidden page is killed.
    ///
    /// # Panics
    /// When it is outside.
    #[must_use]
    pub fn read(&self, index: usize) -> u64 {
        // SAFETY: the word is inside of the mapping.
        unsafe { self.at(index).read_volatile() }
    }

    /// Writes a word. Whoever writes to a hidden page is killed.
    ///
    /// # Panics
    /// When it is outside.
    pub fn write(&mut self, index: usize, value: u64) {
        // SAFETY: the word is inside of the mapping.
        unsafe { self.at(index).write_volatile(value) };
    }

    /// Has the kernel read a page of a file into a page (`pread(2)`). Whether all of it came.
    ///
    /// # Errors
    /// When the file or the page cannot be read.
    ///
    /// # Panics
    /// When the page is outside.
    pub fn fill(&mut self, page: usize, file: impl AsFd, of_file: usize) -> io::Result<bool> {
        // SAFETY: the page is inside of the mapping, and nobody else writes to it while it is held mutably.
        let into = unsafe { std::slice::from_raw_parts_mut(self.at(page * PAGE_WORDS).cast::<u8>(), PAGE_BYTES) };
        Ok(rustix::io::pread(file, into, (of_file * PAGE_BYTES) as u64)? == PAGE_BYTES)
    }

    /// Whether a page is mapped and can be read, without harm if it is not.
    ///
    /// # Panics
    /// When it is outside.
    #[must_use]
    pub fn readable(&self, page: usize) -> bool {
        // SAFETY: the kernel reads the text and says EFAULT when it cannot, and that there is no such file otherwise.
        let found = unsafe { libc::access(self.at(page * PAGE_WORDS).cast(), libc::F_OK) };
        found == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
    }

    fn range(&self, pages: &Range<usize>) -> (*mut std::ffi::c_void, usize) {
        assert!(pages.start < pages.end && pages.end <= self.pages);
        (self.at(pages.start * PAGE_WORDS).cast(), pages.len() * PAGE_BYTES)
    }

    /// Advises the kernel about some pages (`madvise(2)`).
    ///
    /// # Errors
    /// When the advice is unknown or does not suit the kind of memory.
    ///
    /// # Panics
    /// When there are none, or some are outside.
    pub fn advise(&mut self, pages: Range<usize>, advice: Advice) -> io::Result<()> {
        let (pointer, length) = self.range(&pages);
        // SAFETY: the pages are our own; advice that takes their content away is seen by `read`.
        unsafe { madvise(pointer, length, advice) }.map_err(io::Error::from)
    }

    /// Lets nobody touch some pages, which keep what they have.
    ///
    /// # Errors
    /// When there is no room for another mapping.
    ///
    /// # Panics
    /// When there are none, or some are outside.
    pub fn hide(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.protect(pages, MprotectFlags::empty())
    }

    /// Lets hidden pages be touched again.
    ///
    /// # Errors
    /// When there is no room for another mapping.
    ///
    /// # Panics
    /// When there are none, or some are outside.
    pub fn show(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.protect(pages, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    fn protect(&mut self, pages: Range<usize>, protection: MprotectFlags) -> io::Result<()> {
        let (pointer, length) = self.range(&pages);
        // SAFETY: the pages are our own, and nobody has a reference into them.
        unsafe { mprotect(pointer, length, protection) }.map_err(io::Error::from)
    }

    /// Keeps all of it in memory (`mlock(2)`).
    ///
    /// # Errors
    /// When it is more than the process may lock.
    pub fn lock(&mut self) -> io::Result<()> {
        let (pointer, length) = self.range(&(0..self.pages));
        // SAFETY: the pages are our own.
        unsafe { mlock(pointer, length) }.map_err(io::Error::from)
    }

    /// Makes it as many pages, wherever there is room for them (`mremap(2)`).
    ///
    /// # Errors
    /// When there is no room, or this kind of memory cannot grow or shrink.
    ///
    /// # Panics
    /// When it would be empty.
    pub fn resize(&mut self, pages: usize) -> io::Result<()> {
        assert!(pages > 0);
        let (old, new) = (self.pages * PAGE_BYTES, pages * PAGE_BYTES);
        // SAFETY: the mapping is our own, and nobody has a reference into it.
        self.pointer = unsafe { mremap(self.pointer.cast(), old, new, MremapFlags::MAYMOVE)?.cast() };
        self.pages = pages;
        Ok(())
    }

    /// Moves it to another address (`mremap(2)`).
    ///
    /// # Errors
    /// When there is no room.
    pub fn relocate(&mut self) -> io::Result<()> {
        let place = Self::without_file(self.pages, ProtFlags::empty(), MapFlags::PRIVATE)?;
        let length = self.pages * PAGE_BYTES;
        // SAFETY: both places are our own, and nobody has a reference into them.
        unsafe {
            mremap_fixed(self.pointer.cast(), length, length, MremapFlags::MAYMOVE, place.pointer.cast())?;
        }
        self.pointer = place.pointer;
        // What was moved has replaced it.
        std::mem::forget(place);
        Ok(())
    }

    /// Cuts off the pages from `page` on. Both parts stay where they are, and are given back on their own.
    ///
    /// # Panics
    /// When one part would be empty.
    #[must_use]
    pub fn split_off(&mut self, page: usize) -> Self {
        assert!(0 < page && page < self.pages);
        let rest = Self { pointer: self.at(page * PAGE_WORDS), pages: self.pages - page };
        self.pages = page;
        rest
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody has a reference into it.
        let _ = unsafe { munmap(self.pointer.cast(), self.pages * PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_keep_their_content_while_they_move_and_hide() {
        let mut words = Words::anonymous(4, Sharing::Private).unwrap();
        (0..4).for_each(|page| words.write(page * PAGE_WORDS + page, page as u64 + 1));
        let before = words.address(0);
        words.relocate().unwrap();
        assert_ne!(words.address(0), before);
        words.hide(1..3).unwrap();
        assert_eq!([0, 1, 2, 3].map(|page| words.readable(page)), [true, false, false, true]);
        words.show(1..3).unwrap();
        words.resize(64).unwrap();
        let mut rest = words.split_off(2);
        assert_eq!((words.pages(), rest.pages()), (2, 62));
        assert_eq!((words.read(PAGE_WORDS + 1), rest.read(2), rest.read(PAGE_WORDS + 3)), (2, 3, 4));
        rest.advise(0..1, Advice::LinuxDontNeed).unwrap();
        assert_eq!((rest.read(2), rest.read(PAGE_WORDS + 3), rest.read(61 * PAGE_WORDS)), (0, 4, 0));
        drop(words);
        assert_eq!(rest.read(PAGE_WORDS + 3), 4);
    }

    #[test]
    fn a_file_is_seen_by_both_and_changed_by_shared_mappings_alone() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 3 * PAGE_BYTES]).unwrap();
        let (mut shared, mut private) = (
            Words::of_file(&file, 1, 2, Sharing::Shared).unwrap(),
            Words::of_file(&file, 0, 3, Sharing::Private).unwrap(),
        );
        private.write(2 * PAGE_WORDS, 1);
        shared.write(0, 2);
        shared.write(PAGE_WORDS, 3);
        assert_eq!(private.read(0), 0x0707_0707_0707_0707);
        assert_eq!((private.read(PAGE_WORDS), private.read(2 * PAGE_WORDS)), (2, 1));
        assert_eq!((shared.read(0), shared.read(PAGE_WORDS)), (2, 3));
    }
}
