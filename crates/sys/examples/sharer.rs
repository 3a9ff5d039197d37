//! A program for tests: it keeps memory of every kind that its sibling `drover-check torture` cannot make without unsafe
//! code, changes it by chance in several processes, and knows what each word of each page must be.
//!
//! `sharer [MIB] [MICROSECONDS] [KINDS]`: so much of each of the large pieces of shared memory, so long between two steps,
//! and which pieces: letters of `amsl`, anonymous, memfd, System V, memfd with a sealed length. It prints `ready`, and on SIGTERM, after it has looked at every page through every mapping, what was wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[path = "sharer/odd.rs"]
mod odd;
#[path = "sharer/region.rs"]
mod region;

use odd::Odd;
use region::{Kind, PAGE, Region, WORDS, shared_anonymous};

/// Processes that share, the first one among them.
const PROCESSES: u64 = 3;
/// Words of the ledger before what each process leaves in the end: whether to end, and a counter for each process.
const STOP: usize = 0;
const COUNTERS: usize = 1;
const FIRST: usize = 16;

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: i32) {
    STOPPED.store(true, Ordering::SeqCst);
}

/// Chance that is the same in every run (xorshift).
pub struct Chance(u64);

impl Chance {
    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// What every process finds at the same place.
struct Ledger(*mut u64);

impl Ledger {
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the ledger was mapped for all words that are asked for, and lives as long as the program.
        unsafe { AtomicU64::from_ptr(self.0.add(index)) }
    }
}

/// One process's steps, until all are to stop. Its own pages are those whose number leaves its own number as the rest.
fn work(me: u64, regions: &[Region], ledger: &Ledger, pause: u64) -> Result<u64, String> {
    let mut chance = Chance(0x9e37_79b9 + me * 7919);
    let mut generations: Vec<Vec<u32>> = regions.iter().map(|region| vec![0; region.pages]).collect();
    let mut odd = Odd::new(me)?;
    let mut looked = 0;
    for (region, generations) in regions.iter().zip(&mut generations) {
        for page in (me as usize..region.pages).step_by(PROCESSES as usize) {
            region.write(page, 1);
            generations[page] = 1;
        }
    }
    ledger.word(COUNTERS + me as usize).store(1, Ordering::SeqCst);
    let mut seen = [0; PROCESSES as usize];
    while ledger.word(STOP).load(Ordering::SeqCst) == 0 {
        if me == 0 && STOPPED.load(Ordering::SeqCst) {
            ledger.word(STOP).store(1, Ordering::SeqCst);
        }
        let which = chance.below(regions.len() as u64) as usize;
        let (region, generations) = (&regions[which], &mut generations[which]);
        let page = (chance.below((region.pages as u64 - me).div_ceil(PROCESSES)) * PROCESSES + me) as usize;
        region.check(page, generations[page])?;
        looked += 1;
        generations[page] = match chance.below(100) {
            0..85 => generations[page] + 1,
            _ => 0,
        };
        match (generations[page], chance.below(3)) {
            (0, 0) => region.write(page, 0),
            (0, _) => region.punch(page)?,
            (generation, 0) => region.write_by_file(page, generation)?,
            (generation, _) => region.write(page, generation),
        }
        region.check(page, generations[page])?;
        odd.step(&mut chance)?;
        // Everybody sees what everybody counts, and never less than before.
        ledger.word(COUNTERS + me as usize).fetch_add(1, Ordering::SeqCst);
        for (other, seen) in seen.iter_mut().enumerate() {
            let now = ledger.word(COUNTERS + other).load(Ordering::SeqCst);
            if now < *seen {
                return Err(format!("process {other} has counted to {seen}, and now to {now}"));
            }
            *seen = now;
        }
        std::thread::sleep(std::time::Duration::from_micros(pause));
    }
    // What it has of every page is left to the first process.
    let mut at = FIRST;
    for (region, generations) in regions.iter().zip(&generations) {
        for (page, generation) in generations.iter().enumerate().filter(|(page, _)| *page as u64 % PROCESSES == me) {
            region.check(page, *generation)?;
            ledger.word(at + page).store((*generation).into(), Ordering::SeqCst);
        }
        at += region.pages;
    }
    odd.end()?;
    Ok(looked)
}

/// With all others gone: every page, through every mapping.
fn look_at_all(regions: &[Region], ledger: &Ledger) -> Result<(), String> {
    let mut at = FIRST;
    for region in regions {
        for page in 0..region.pages {
            region.check(page, ledger.word(at + page).load(Ordering::SeqCst) as u32)?;
        }
        at += region.pages;
    }
    Ok(())
}

fn run() -> Result<u64, String> {
    let argument = |index: usize, otherwise: u64| {
        std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let (mib, pause) = (argument(1, 8), argument(2, 300));
    let pages = (mib << 20) as usize / PAGE;
    let kinds = std::env::args().nth(3).unwrap_or_else(|| "amsl".to_owned());
    let mut regions = vec![Region::new(0, Kind::Anonymous, 1.max(pages / 64).max(PROCESSES as usize))?];
    for (letter, id) in kinds.chars().zip(1..) {
        regions.push(match letter {
            'a' => Region::new(id, Kind::Anonymous, pages)?,
            'm' => Region::new(id, Kind::Memfd, pages)?,
            's' => Region::new(id, Kind::SystemFive, pages)?,
            'l' => Region::new(id, Kind::Sealed, pages / 8)?,
            _ => return Err(format!("no kind is called {letter}")),
        });
    }
    let words = FIRST + regions.iter().map(|region| region.pages).sum::<usize>();
    let ledger = Ledger(shared_anonymous(words.div_ceil(WORDS) * PAGE)?);
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGTERM, stop as *const () as libc::sighandler_t) };
    let mut children = Vec::new();
    for me in 1..PROCESSES {
        // SAFETY: there is only one thread.
        match unsafe { libc::fork() } {
            -1 => return Err(format!("cannot fork: {}", std::io::Error::last_os_error())),
            0 => {
                let done = work(me, &regions, &ledger, pause);
                if let Err(wrong) = &done {
                    println!("process {me}: {wrong}");
                    ledger.word(STOP).store(2, Ordering::SeqCst);
                }
                std::process::exit(i32::from(done.is_err()));
            }
            child => children.push(child),
        }
    }
    while (1..PROCESSES as usize).any(|other| ledger.word(COUNTERS + other).load(Ordering::SeqCst) == 0) {
        std::thread::yield_now();
    }
    println!("ready");
    let looked = work(0, &regions, &ledger, pause);
    ledger.word(STOP).fetch_max(1, Ordering::SeqCst);
    for child in children {
        let mut status = 0;
        // SAFETY: the status is alive.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        if status != 0 {
            return Err(format!("process {child} ended with status {status:#x}"));
        }
    }
    let looked = looked?;
    look_at_all(&regions, &ledger)?;
    Ok(looked)
}

fn main() {
    let (pages, wrong) = match run() {
        Ok(pages) => (pages, None),
        Err(wrong) => (0, Some(wrong)),
    };
    let text = wrong.as_ref().map_or("null".to_owned(), |wrong| format!("{wrong:?}"));
    println!("{{\"pages\":{pages},\"wrong\":{text}}}");
    std::process::exit(i32::from(wrong.is_some()));
}
