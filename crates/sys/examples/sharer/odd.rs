//! Memory that is rare: each process has its own.

use crate::Chance;
use crate::region::{PAGE, WORDS, check, content, failed, map, memfd};

const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// The numbers of the pieces, and of their pages' content.
const CONSTANT: u64 = 100;
const LOOSE: u64 = 101;
const UNEVEN: u64 = 102;
const PRIVATE: u64 = 103;
const HIDDEN: u64 = 104;
const GUARDED: u64 = 105;
const LOCKED: u64 = 106;
const WANDERING: u64 = 107;
const ELASTIC: u64 = 108;
const HUGE: u64 = 109;
const LARGEST: usize = 64;
const HUGE_BYTES: usize = 2 << 20;
/// `MADV_GUARD_INSTALL`, since Linux 6.13.
const GUARD_INSTALL: i32 = 102;

pub struct Odd {
    me: u64,
    /// A memfd that is sealed against writing, mapped.
    constant: *mut u64,
    /// A memfd that nobody has mapped.
    loose: i32,
    loose_generation: u32,
    /// A memfd whose length is no multiple of a page.
    uneven: i32,
    uneven_words: *mut u64,
    /// A file's private mapping, of which every other page was written.
    private: *mut u64,
    private_generation: u32,
    before: Vec<u64>,
    /// Memory that may not be touched most of the time.
    hidden: *mut u64,
    hidden_generation: u32,
    /// Memory with a page between that must never be touched.
    guarded: *mut u64,
    locked: Option<*mut u64>,
    /// Shared memory that changes its place and length.
    wandering: *mut u64,
    wandering_pages: usize,
    /// A memfd that grows and shrinks, and a mapping of all that it may have.
    elastic: i32,
    elastic_words: *mut u64,
    elastic_generations: Vec<u32>,
    huge: Option<*mut u64>,
}

fn write(at: *mut u64, id: u64, page: usize, generation: u32) {
    for (index, word) in content(id, page, generation).into_iter().enumerate() {
        // SAFETY: the callers' pages are their own.
        unsafe { at.add(page * WORDS + index).write_volatile(word) };
    }
}

fn look(at: *const u64, id: u64, page: usize, generation: u32, how: &str) -> Result<(), String> {
    // SAFETY: the callers' pages are their own.
    unsafe { check(at.add(page * WORDS), id, page, generation, how) }
}

fn truncate(file: i32, length: usize) -> Result<(), String> {
    // SAFETY: the descriptor is our own.
    if unsafe { libc::ftruncate(file, length as i64) } == 0 { Ok(()) } else { Err(failed("set a length")) }
}

fn protect(at: *mut u64, pages: usize, protection: i32) -> Result<(), String> {
    // SAFETY: the pages are our own.
    let done = unsafe { libc::mprotect(at.cast(), pages * PAGE, protection) };
    if done == 0 { Ok(()) } else { Err(failed("protect")) }
}

impl Odd {
    pub fn new(me: u64) -> Result<Self, String> {
        let private = |pages: usize| map(pages * PAGE, WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        let constant_file = memfd(c"sealed", 4 * PAGE)?;
        for page in 0..4 {
            let content = content(CONSTANT + me, page, 1);
            // SAFETY: the buffer is alive and as long.
            unsafe { libc::pwrite(constant_file, content.as_ptr().cast(), PAGE, (page * PAGE) as i64) };
        }
        // SAFETY: the descriptor is our own.
        if unsafe { libc::fcntl(constant_file, libc::F_ADD_SEALS, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK) } != 0 {
            return Err(failed("seal"));
        }
        let constant = map(4 * PAGE, libc::PROT_READ, libc::MAP_PRIVATE, constant_file, 0)?;
        let uneven = memfd(c"uneven", 3 * PAGE - 100)?;
        let uneven_words = map(3 * PAGE, WRITE, libc::MAP_SHARED, uneven, 0)?;
        (0..2).for_each(|page| write(uneven_words, UNEVEN + me, page, 1));
        // SAFETY: the path is a string.
        let program = unsafe { libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY) };
        let file = map(8 * PAGE, WRITE, libc::MAP_PRIVATE, program, 0)?;
        // SAFETY: it was mapped with so many words.
        let before = (0..8 * WORDS).map(|index| unsafe { file.add(index).read() }).collect();
        // SAFETY: the descriptors are our own, and no longer needed: the mappings stay.
        unsafe { (libc::close(program), libc::close(constant_file)) };
        let guarded = private(3)?;
        [0, 2].into_iter().for_each(|page| write(guarded, GUARDED + me, page, 1));
        // SAFETY: the page is our own. Older kernels refuse, and then nobody guards it.
        unsafe { libc::madvise(guarded.add(WORDS).cast(), PAGE, GUARD_INSTALL) };
        let hidden = private(4)?;
        (0..4).for_each(|page| write(hidden, HIDDEN + me, page, 1));
        protect(hidden, 4, libc::PROT_NONE)?;
        // A process with locked memory is not followed: one of them is enough.
        let locked = if me == 1 { Some(private(4)?) } else { None };
        if let Some(locked) = locked {
            (0..4).for_each(|page| write(locked, LOCKED + me, page, 1));
            // SAFETY: the pages are our own. Who may not lock has a page like any other.
            unsafe { libc::mlock(locked.cast(), 4 * PAGE) };
        }
        let wandering = map(LARGEST * PAGE, WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
        (0..LARGEST).for_each(|page| write(wandering, WANDERING + me, page, 1));
        let elastic = memfd(c"elastic", LARGEST * PAGE)?;
        let elastic_words = map(LARGEST * PAGE, WRITE, libc::MAP_SHARED, elastic, 0)?;
        let huge = map(HUGE_BYTES, WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB, -1, 0).ok();
        if let Some(huge) = huge {
            (0..HUGE_BYTES / PAGE).for_each(|page| write(huge, HUGE + me, page, 1));
        }
        Ok(Self {
            me,
            constant,
            loose: memfd(c"loose", 4 * PAGE)?,
            loose_generation: 0,
            uneven,
            uneven_words,
            private: file,
            private_generation: 0,
            before,
            hidden,
            hidden_generation: 1,
            guarded,
            locked,
            wandering,
            wandering_pages: LARGEST,
            elastic,
            elastic_words,
            elastic_generations: vec![0; LARGEST],
            huge,
        })
    }

    pub fn step(&mut self, chance: &mut Chance) -> Result<(), String> {
        match chance.below(400) {
            0 => self.check()?,
            1 => {
                self.loose_generation += 1;
                let content = content(LOOSE + self.me, 2, self.loose_generation);
                // SAFETY: the buffer is alive and as long.
                unsafe { libc::pwrite(self.loose, content.as_ptr().cast(), PAGE, 2 * PAGE as i64) };
            }
            2 => {
                self.private_generation += 1;
                [1, 3, 5].into_iter().for_each(|page| write(self.private, PRIVATE, page, self.private_generation));
            }
            3 => {
                protect(self.hidden, 4, WRITE)?;
                look(self.hidden, HIDDEN + self.me, 3, self.hidden_generation, "hidden")?;
                self.hidden_generation += 1;
                (0..4).for_each(|page| write(self.hidden, HIDDEN + self.me, page, self.hidden_generation));
                protect(self.hidden, 4, libc::PROT_NONE)?;
            }
            4 if self.wandering_pages > 8 => self.wander()?,
            5..15 => self.breathe(chance)?,
            15 => drop(deep(chance.below(200))?),
            _ => {}
        }
        Ok(())
    }

    /// It is one page shorter, and somewhere else.
    fn wander(&mut self) -> Result<(), String> {
        let length = self.wandering_pages * PAGE;
        let place = map(length, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both places are our own.
        let moved = unsafe { libc::mremap(self.wandering.cast(), length, length - PAGE, flags, place) };
        if moved == libc::MAP_FAILED {
            return Err(failed("remap"));
        }
        self.wandering = moved.cast();
        self.wandering_pages -= 1;
        Ok(())
    }

    /// Grows or shrinks, and writes one page.
    fn breathe(&mut self, chance: &mut Chance) -> Result<(), String> {
        let pages = 1 + chance.below(LARGEST as u64) as usize;
        truncate(self.elastic, pages * PAGE)?;
        // What was behind the new end is gone, and comes back as zeros.
        self.elastic_generations.resize(pages, 0);
        let page = chance.below(pages as u64) as usize;
        let generation = self.elastic_generations[page];
        look(self.elastic_words, ELASTIC + self.me, page, generation, "elastic")?;
        write(self.elastic_words, ELASTIC + self.me, page, generation + 1);
        self.elastic_generations[page] += 1;
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let me = self.me;
        (0..4).try_for_each(|page| look(self.constant, CONSTANT + me, page, 1, "sealed"))?;
        (0..2).try_for_each(|page| look(self.uneven_words, UNEVEN + me, page, 1, "uneven"))?;
        let mut read = [0; WORDS];
        // SAFETY: the buffer is alive and as long.
        unsafe { libc::pread(self.loose, read.as_mut_ptr().cast(), PAGE, 2 * PAGE as i64) };
        // SAFETY: as above.
        unsafe { check(read.as_ptr(), LOOSE + me, 2, self.loose_generation, "loose")? };
        // SAFETY: there is room for a `stat`, of which nothing is looked at before it was written.
        let length = unsafe {
            let mut status: libc::stat = std::mem::zeroed();
            libc::fstat(self.uneven, &raw mut status);
            status.st_size
        };
        if length != 3 * PAGE as i64 - 100 {
            return Err(format!("a memfd has {length} bytes"));
        }
        for page in 0..8 {
            if page % 2 == 1 && page < 7 && self.private_generation > 0 {
                look(self.private, PRIVATE, page, self.private_generation, "in a file's private mapping")?;
            } else {
                for index in page * WORDS..(page + 1) * WORDS {
                    // SAFETY: it was mapped with so many words.
                    if unsafe { self.private.add(index).read_volatile() } != self.before[index] {
                        return Err(format!("word {index} of a file's private mapping has changed"));
                    }
                }
            }
        }
        [0, 2].into_iter().try_for_each(|page| look(self.guarded, GUARDED + me, page, 1, "beside a guard"))?;
        if let Some(locked) = self.locked {
            (0..4).try_for_each(|page| look(locked, LOCKED + me, page, 1, "locked"))?;
        }
        (0..self.wandering_pages).try_for_each(|page| look(self.wandering, WANDERING + me, page, 1, "wandering"))?;
        for (page, generation) in self.elastic_generations.iter().enumerate() {
            look(self.elastic_words, ELASTIC + me, page, *generation, "elastic")?;
        }
        if let Some(huge) = self.huge {
            (0..HUGE_BYTES / PAGE).try_for_each(|page| look(huge, HUGE + me, page, 1, "huge"))?;
        }
        Ok(())
    }

    pub fn end(self) -> Result<(), String> {
        protect(self.hidden, 4, WRITE)?;
        (0..4).try_for_each(|page| look(self.hidden, HIDDEN + self.me, page, self.hidden_generation, "hidden"))?;
        self.check()?;
        // SAFETY: the descriptors and mappings are our own, and nobody uses them any more.
        unsafe { (libc::close(self.loose), libc::munmap(self.guarded.cast(), 3 * PAGE)) };
        Ok(())
    }
}

/// Lets the stack grow, and looks at it on the way back.
#[inline(never)]
fn deep(depth: u64) -> Result<u64, String> {
    let frame: [u64; WORDS] = std::hint::black_box(std::array::from_fn(|index| depth ^ index as u64));
    if depth > 0 {
        deep(depth - 1)?;
    }
    let frame = std::hint::black_box(frame);
    let wrong = frame.iter().enumerate().find(|(index, word)| **word != depth ^ *index as u64);
    wrong.map_or(Ok(depth), |(index, _)| Err(format!("word {index} of the stack at depth {depth}")))
}
