//! `drover-check torture`: the witness of memory. It writes, grows, shrinks, frees and clears pages by chance, in many
//! threads and processes, knows what each word of each page must be, and looks at every page before it touches it.
//!
//! Large vectors are mappings of their own, which the allocator makes, moves, cuts and gives back (mmap, mremap, munmap,
//! madvise): so their pages come, go and change places as those of any program.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::stop::{STEP, Stop, WatchError};

/// Words of eight bytes in a page.
const WORDS: usize = 512;
/// The largest block in pages.
const LARGEST: usize = 1024;

/// How much, and how fast.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// MiB of memory of each process, on average.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub mib: u64,
    /// Threads of each process.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: u64,
    /// Further processes of the same kind.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=64))]
    pub children: u64,
    /// Microseconds between two steps of a thread.
    #[arg(long, value_name = "US", default_value_t = 200)]
    pub pause_us: u64,
    /// The seed of chance.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Pages that were looked at, in this process.
    pub pages: u64,
    /// Processes beside this one that ended well.
    pub children: u64,
    /// What was wrong first, if anything was.
    pub wrong: Option<String>,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn passed(&self) -> bool {
        self.wrong.is_none()
    }
}

/// Torture that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TortureError {
    /// No signals.
    #[error("cannot begin")]
    Watch(#[from] WatchError),
    /// No further process.
    #[error("cannot start another process")]
    Child(#[source] std::io::Error),
}

/// Neighbouring pages, and how often each was written since it was last zero.
#[derive(Debug)]
struct Block {
    id: u64,
    words: Vec<u64>,
    generations: Vec<u32>,
}

/// What a word must be; a page of generation 0 is zero.
fn word(block: u64, page: usize, generation: u32, index: usize) -> u64 {
    if generation == 0 {
        return 0;
    }
    let mixed = block ^ (page as u64) << 40 ^ u64::from(generation) << 8 ^ index as u64;
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Block {
    fn new(id: u64, pages: usize) -> Self {
        Self { id, words: vec![0; pages * WORDS], generations: vec![0; pages] }
    }

    fn pages(&self) -> usize {
        self.generations.len()
    }

    fn check(&self, page: usize) -> Result<(), String> {
        let generation = self.generations[page];
        let words = &self.words[page * WORDS..(page + 1) * WORDS];
        let wrong =
            words.iter().enumerate().find(|(index, word)| **word != self::word(self.id, page, generation, *index));
        wrong.map_or(Ok(()), |(index, found)| {
            let wanted = word(self.id, page, generation, index);
            let address = words.as_ptr() as u64 + index as u64 * 8;
            Err(format!("{found:#x} instead of {wanted:#x} at {address:#x} (page {page}, generation {generation})"))
        })
    }

    fn write(&mut self, page: usize, generation: u32) {
        self.generations[page] = generation;
        for index in 0..WORDS {
            self.words[page * WORDS + index] = word(self.id, page, generation, index);
        }
    }

    /// Makes it as many pages; new ones are zero.
    fn resize(&mut self, pages: usize) {
        self.words.resize(pages * WORDS, 0);
        self.generations.resize(pages, 0);
        self.words.shrink_to_fit();
    }
}

/// One thread's memory.
fn work(options: &Options, seed: u64, stop: &AtomicBool, looked: &AtomicU64) -> Result<(), String> {
    let mut chance = SmallRng::seed_from_u64(seed);
    let wanted = usize::try_from((options.mib << 8) / options.threads).unwrap_or(usize::MAX).max(LARGEST);
    let mut blocks: Vec<Block> = Vec::new();
    let mut pages = 0;
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        if pages < wanted {
            next += 1;
            let mut block = Block::new(seed << 32 | next, chance.random_range(1..=LARGEST));
            (0..block.pages()).for_each(|page| block.write(page, 1));
            pages += block.pages();
            blocks.push(block);
            continue;
        }
        let index = chance.random_range(0..blocks.len());
        let block = &mut blocks[index];
        let page = chance.random_range(0..block.pages());
        block.check(page)?;
        looked.fetch_add(1, Ordering::Relaxed);
        match chance.random_range(0..1000) {
            0..900 => block.write(page, block.generations[page] + 1),
            900..950 => block.write(page, 0),
            950..975 => {
                let before = block.pages();
                block.resize(chance.random_range(1..=LARGEST));
                pages = pages + block.pages() - before;
            }
            975..985 => {
                (0..block.pages()).try_for_each(|page| block.check(page))?;
                pages -= blocks.swap_remove(index).pages();
            }
            _ => (0..block.pages()).try_for_each(|page| block.check(page))?,
        }
        std::thread::sleep(Duration::from_micros(options.pause_us));
    }
    for block in &blocks {
        (0..block.pages()).try_for_each(|page| block.check(page))?;
        looked.fetch_add(block.pages() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Tortures until SIGTERM; then every page is looked at once more.
pub fn run(options: &Options) -> Result<Report, TortureError> {
    let stop = Stop::on_signal_or_file(None)?;
    let mut children = Vec::new();
    for number in 1..=options.children {
        let program = std::env::current_exe().map_err(TortureError::Child)?;
        let mut command = Command::new(program);
        let seed = options.seed.wrapping_add(number * 1000);
        command.args(["torture", "--children", "0", "--mib", &options.mib.to_string(), "--seed", &seed.to_string()]);
        command.args(["--threads", &options.threads.to_string(), "--pause-us", &options.pause_us.to_string()]);
        children.push(command.spawn().map_err(TortureError::Child)?);
    }
    println!("ready");
    let mut report = torture(options, || stop.asked(), &stop);
    for mut child in children {
        // Its own signals are its own; without a parent to ask, it is told the same way.
        let told = Command::new("kill").arg(child.id().to_string()).status();
        let ended = told.and_then(|_| child.wait());
        match ended {
            Ok(status) if status.success() => report.children += 1,
            other => drop(report.wrong.get_or_insert(format!("a child ended with {other:?}"))),
        }
    }
    Ok(report)
}

fn torture(options: &Options, asked: impl Fn() -> bool, stop: &Stop) -> Report {
    let (ended, looked) = (AtomicBool::new(false), AtomicU64::new(0));
    let wrong = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|number| {
                let (ended, looked) = (&ended, &looked);
                let seed = options.seed.wrapping_mul(100).wrapping_add(number);
                scope.spawn(move || {
                    let done = work(options, seed, ended, looked);
                    // One that found something ends the others.
                    ended.store(true, Ordering::Relaxed);
                    done
                })
            })
            .collect();
        while !asked() && !ended.load(Ordering::Relaxed) {
            stop.sleep_until(std::time::Instant::now() + STEP);
        }
        ended.store(true, Ordering::Relaxed);
        let done = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())));
        done.filter_map(Result::err).next()
    });
    Report { pages: looked.into_inner(), children: 0, wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_memory_passes_and_a_single_wrong_bit_is_found() {
        let stop = Stop::on_file(None);
        stop.after(Duration::from_millis(300));
        let options = Options { mib: 8, threads: 2, children: 0, pause_us: 0, seed: 3 };
        let report = torture(&options, || stop.asked(), &stop);
        assert!(report.passed() && report.pages > 1000, "{report:?}");
        let mut block = Block::new(7, 4);
        block.write(2, 5);
        block.check(2).unwrap();
        block.words[2 * WORDS + 9] ^= 1 << 33;
        assert!(block.check(2).unwrap_err().contains("page 2"));
        block.write(2, 0);
        block.check(2).unwrap();
    }
}
