//! Shared memory of one kind, with all its mappings.

use std::io;
use std::ptr::null_mut;

/// Bytes, and words of eight bytes, in a page.
pub const PAGE: usize = 4096;
pub const WORDS: usize = PAGE / 8;

/// How it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `MAP_SHARED | MAP_ANONYMOUS`.
    Anonymous,
    /// A memfd, of which a descriptor stays open.
    Memfd,
    /// The same, whose length can no longer change.
    Sealed,
    /// A segment of System V.
    SystemFive,
}

/// Shared pages.
pub struct Region {
    id: u64,
    pub pages: usize,
    words: *mut u64,
    /// Further mappings: one that can only be read, and where there is one, the second half that can be written.
    read_only: Option<*const u64>,
    half: Option<*mut u64>,
    file: Option<i32>,
}

/// What a word must be; a page of generation 0 is zero.
fn word(id: u64, page: usize, generation: u32, index: usize) -> u64 {
    if generation == 0 {
        return 0;
    }
    let mixed = id ^ (page as u64) << 40 ^ u64::from(generation) << 8 ^ index as u64;
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// A page's content.
pub fn content(id: u64, page: usize, generation: u32) -> [u64; WORDS] {
    std::array::from_fn(|index| word(id, page, generation, index))
}

pub fn failed(what: &str) -> String {
    format!("cannot {what}: {}", io::Error::last_os_error())
}

pub fn map(length: usize, protection: i32, flags: i32, file: i32, offset: usize) -> Result<*mut u64, String> {
    // SAFETY: the kernel chooses where: nothing that is mapped is touched.
    let pointer = unsafe { libc::mmap(null_mut(), length, protection, flags, file, offset as i64) };
    if pointer == libc::MAP_FAILED { Err(failed("map")) } else { Ok(pointer.cast()) }
}

pub fn shared_anonymous(length: usize) -> Result<*mut u64, String> {
    map(length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
}

/// A memfd with that many bytes.
pub fn memfd(name: &std::ffi::CStr, length: usize) -> Result<i32, String> {
    // SAFETY: the name is a string, and the descriptor our own.
    unsafe {
        let file = libc::memfd_create(name.as_ptr(), libc::MFD_ALLOW_SEALING);
        if file < 0 || libc::ftruncate(file, length as i64) != 0 {
            return Err(failed("make a memfd"));
        }
        Ok(file)
    }
}

/// Says where a page is not as it must be.
///
/// # Safety
/// The page is mapped and nobody writes it.
pub unsafe fn check(at: *const u64, id: u64, page: usize, generation: u32, how: &str) -> Result<(), String> {
    for index in 0..WORDS {
        // SAFETY: the caller's.
        let found = unsafe { at.add(index).read_volatile() };
        let wanted = word(id, page, generation, index);
        if found != wanted {
            return Err(format!(
                "{found:#x} instead of {wanted:#x} in word {index} of page {page} of {id}, generation {generation}, {how}"
            ));
        }
    }
    Ok(())
}

impl Region {
    pub fn new(id: u64, kind: Kind, pages: usize) -> Result<Self, String> {
        let length = pages * PAGE;
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let mut region = Self { id, pages, words: null_mut(), read_only: None, half: None, file: None };
        match kind {
            Kind::Anonymous => region.words = shared_anonymous(length)?,
            Kind::Memfd | Kind::Sealed => {
                let file = memfd(if kind == Kind::Memfd { c"torture" } else { c"sealed length" }, length)?;
                region.words = map(length, write, libc::MAP_SHARED, file, 0)?;
                region.read_only = Some(map(length, libc::PROT_READ, libc::MAP_SHARED, file, 0)?);
                let half = pages / 2 * PAGE;
                region.half = Some(map(length - half, write, libc::MAP_SHARED, file, half)?);
                region.file = Some(file);
                let seals = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
                // SAFETY: the descriptor is our own.
                if kind == Kind::Sealed && unsafe { libc::fcntl(file, libc::F_ADD_SEALS, seals) } != 0 {
                    return Err(failed("seal"));
                }
            }
            Kind::SystemFive => {
                // SAFETY: the kernel chooses where: nothing that is mapped is touched.
                unsafe {
                    let segment = libc::shmget(libc::IPC_PRIVATE, length, libc::IPC_CREAT | 0o600);
                    let words = libc::shmat(segment, std::ptr::null(), 0);
                    let read_only = libc::shmat(segment, std::ptr::null(), libc::SHM_RDONLY);
                    if segment < 0 || words as isize == -1 || read_only as isize == -1 {
                        return Err(failed("make a segment"));
                    }
                    region.words = words.cast();
                    region.read_only = Some(read_only.cast());
                }
            }
        }
        Ok(region)
    }

    /// Looks at a page of which nobody else is the owner, through every mapping.
    pub fn check(&self, page: usize, generation: u32) -> Result<(), String> {
        // SAFETY: the page is inside of the mappings, and its owner is here.
        unsafe {
            check(self.words.add(page * WORDS), self.id, page, generation, "as written")?;
            if let Some(words) = self.read_only {
                check(words.add(page * WORDS), self.id, page, generation, "where it can only be read")?;
            }
            let half = self.pages / 2;
            if let Some(words) = self.half.filter(|_| page >= half) {
                check(words.add((page - half) * WORDS), self.id, page, generation, "in the half")?;
            }
        }
        let Some(file) = self.file else { return Ok(()) };
        let mut read = [0; WORDS];
        // SAFETY: the buffer is alive and as long.
        let length = unsafe { libc::pread(file, read.as_mut_ptr().cast(), PAGE, (page * PAGE) as i64) };
        if length != PAGE as isize {
            return Err(failed("read a page"));
        }
        // SAFETY: as above.
        unsafe { check(read.as_ptr(), self.id, page, generation, "in the file") }
    }

    pub fn write(&self, page: usize, generation: u32) {
        let half = self.pages / 2;
        let at = match self.half.filter(|_| page >= half && generation % 2 == 1) {
            Some(words) => words.wrapping_add((page - half) * WORDS),
            None => self.words.wrapping_add(page * WORDS),
        };
        for (index, word) in content(self.id, page, generation).into_iter().enumerate() {
            // SAFETY: the page is inside of the mapping, and its owner is here.
            unsafe { at.add(index).write_volatile(word) };
        }
    }

    /// Writes by `write(2)` where there is a descriptor.
    pub fn write_by_file(&self, page: usize, generation: u32) -> Result<(), String> {
        let Some(file) = self.file else {
            self.write(page, generation);
            return Ok(());
        };
        let content = content(self.id, page, generation);
        // SAFETY: the buffer is alive and as long.
        let length = unsafe { libc::pwrite(file, content.as_ptr().cast(), PAGE, (page * PAGE) as i64) };
        if length == PAGE as isize { Ok(()) } else { Err(failed("write a page")) }
    }

    /// Gives a page back.
    pub fn punch(&self, page: usize) -> Result<(), String> {
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the page is our own.
        let done = unsafe {
            match self.file {
                Some(file) => libc::fallocate(file, hole, (page * PAGE) as i64, PAGE as i64),
                None => libc::madvise(self.words.add(page * WORDS).cast(), PAGE, libc::MADV_REMOVE),
            }
        };
        if done == 0 { Ok(()) } else { Err(failed("punch a hole")) }
    }
}
