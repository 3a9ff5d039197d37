//! `drover-check torture`: the witness of memory. It writes, grows, shrinks, moves, cuts, hides, frees and clears pages of
//! every kind by chance, in many threads and processes, knows what each word of each page must be, and looks at every page
//! before it touches it.

mod block;
mod child;
mod file;
mod kind;
mod pace;
mod stack;
mod tally;
mod worker;
mod wrong;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;

use crate::stop::{STEP, Stop, WatchError};
use crate::torture::file::PageFile;
use crate::torture::kind::Kind;
use crate::torture::pace::Pace;
use crate::torture::tally::{Act, Tally};
use crate::torture::worker::{Common, Worker, new_block};

/// Pages in a MiB.
const MIB: u64 = 256;
/// Every thread has at least as many pages.
const FEWEST: usize = 1024;
/// How deep the main thread dives, whose stack is the only one that the kernel lets grow: in frames of a page.
const DEEPEST: usize = 1000;

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
    #[arg(long, value_name = "US", default_value_t = 200, conflicts_with = "rate")]
    pub pause_us: u64,
    /// Instead: how many pages each process writes in a second.
    #[arg(long, value_name = "PAGES", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// The kinds of memory, and of other things that change it.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', default_values_t = Kind::USUAL)]
    pub kinds: Vec<Kind>,
    /// The seed of chance.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What was looked at and done, in this process.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Pages that were looked at.
    pub pages: u64,
    /// The same by kinds.
    pub looked: BTreeMap<Kind, u64>,
    /// Pages that were written after the first ones.
    pub written: u64,
    /// How often each thing was done.
    pub acts: BTreeMap<Act, u64>,
    /// The kinds that this machine does not have, and why.
    pub skipped: BTreeMap<Kind, String>,
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
    /// No file to map.
    #[error("cannot write a file of pages")]
    File(#[source] std::io::Error),
}

/// Tortures until SIGTERM; then every page is looked at once more.
pub fn run(options: &Options) -> Result<Report, TortureError> {
    let stop = Stop::on_signal_or_file(None)?;
    let program = std::env::current_exe().map_err(TortureError::Child)?;
    let mut children = Vec::new();
    for number in 1..=options.children {
        let seed = options.seed.wrapping_add(number * 1000);
        let kinds: Vec<String> = options.kinds.iter().map(Kind::to_string).collect();
        let mut command = Command::new(&program);
        command.args(["torture", "--children", "0", "--mib", &options.mib.to_string(), "--seed", &seed.to_string()]);
        command.args(["--threads", &options.threads.to_string(), "--kinds", &kinds.join(",")]);
        match options.rate {
            Some(rate) => command.args(["--rate", &rate.to_string()]),
            None => command.args(["--pause-us", &options.pause_us.to_string()]),
        };
        children.push(command.spawn().map_err(TortureError::Child)?);
    }
    let mut report = torture(options, &stop, DEEPEST, || println!("ready"))?;
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

/// The kinds of which this machine has some memory, and why it has none of the others.
fn probe(kinds: &[Kind], file: &PageFile) -> (Vec<Kind>, BTreeMap<Kind, String>) {
    let (mut found, mut skipped) = (Vec::new(), BTreeMap::new());
    let mut chance = SmallRng::seed_from_u64(0);
    for kind in kinds {
        match if kind.is_memory() { new_block(*kind, 0, 1, file, &mut chance).map(drop) } else { Ok(()) } {
            Ok(()) => found.push(*kind),
            Err(error) if *kind == Kind::Huge => {
                drop(skipped.insert(*kind, format!("the machine has no huge pages to spare: {error}")));
            }
            Err(error) => drop(skipped.insert(*kind, error.to_string())),
        }
    }
    (found, skipped)
}

/// Tortures this process until it is told to stop; says when all its memory is there. The calling thread's stack has room
/// for as many frames.
fn torture(options: &Options, stop: &Stop, deepest: usize, ready: impl FnOnce()) -> Result<Report, TortureError> {
    let file = PageFile::new().map_err(TortureError::File)?;
    let (kinds, skipped) = probe(&options.kinds, &file);
    let pages = usize::try_from(options.mib * MIB / options.threads).unwrap_or(usize::MAX).max(FEWEST);
    let program = std::env::current_exe().map_err(TortureError::Child)?;
    let common = Common { kinds, pages, file, program, exchange: Mutex::new(None) };
    let (ended, filled) = (AtomicBool::new(false), Barrier::new(options.threads as usize + 1));
    let worker = |number| Worker::new(&common, options.seed.wrapping_mul(100).wrapping_add(number));
    let (tally, mut wrong) = std::thread::scope(|scope| {
        let (ended, filled) = (&ended, &filled);
        let threads: Vec<_> = (0..options.threads)
            .map(|number| scope.spawn(move || work(worker(number), options, ended, filled)))
            .collect();
        filled.wait();
        ready();
        let mut main = worker(options.threads);
        let mut done = Ok(());
        while !stop.asked() && !ended.load(Ordering::Relaxed) {
            if done.is_ok() && common.kinds.contains(&Kind::Stack) {
                done = main.dive(deepest);
            }
            stop.sleep_until(Instant::now() + STEP);
        }
        ended.store(true, Ordering::Relaxed);
        let mut tally = std::mem::take(&mut main.tally);
        for thread in threads {
            let (more, outcome) = thread.join().unwrap_or_else(|_| (Tally::default(), Err("a thread panicked".into())));
            tally = tally.plus(more);
            done = done.and(outcome);
        }
        // The block that was left behind by the last one.
        let outcome = main.end();
        (tally.plus(std::mem::take(&mut main.tally)), done.and(outcome).err())
    });
    let Tally { looked, acts, written } = tally;
    Ok(Report { pages: looked.values().sum(), looked, written, acts, skipped, children: 0, wrong: wrong.take() })
}

/// One thread, until all end.
fn work(
    mut worker: Worker<'_>,
    options: &Options,
    ended: &AtomicBool,
    filled: &Barrier,
) -> (Tally, Result<(), String>) {
    let pace = Pace::Pause(Duration::from_micros(options.pause_us));
    let mut outcome = worker.fill();
    // Those pages count as little as the time they take.
    worker.tally.written = 0;
    filled.wait();
    let mut pace = options.rate.map_or(pace, |rate| Pace::rate(rate as f64 / options.threads as f64));
    while outcome.is_ok() && !ended.load(Ordering::Relaxed) {
        let before = worker.tally.written;
        outcome = worker.step();
        let next = pace.next(worker.tally.written - before, Instant::now());
        while let left = next.saturating_duration_since(Instant::now())
            && !left.is_zero()
            && !ended.load(Ordering::Relaxed)
        {
            std::thread::sleep(left.min(STEP));
        }
    }
    // One that found something ends the others.
    ended.store(true, Ordering::Relaxed);
    let outcome = outcome.and_then(|()| worker.end());
    (worker.tally, outcome)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    /// Tortures for a while.
    fn torture_with(options: &str, milliseconds: u64) -> Report {
        let options = Arguments::parse_from(["torture"].into_iter().chain(options.split_whitespace())).options;
        let stop = Stop::on_file(None);
        let mut readies = 0;
        stop.after(Duration::from_millis(milliseconds));
        let report = torture(&options, &stop, 100, || readies += 1).unwrap();
        assert_eq!(readies, 1);
        report
    }

    #[test]
    fn threads_torture_every_usual_kind_and_find_nothing_wrong() {
        let report = torture_with("--mib 8 --threads 2 --pause-us 0 --seed 3", 300);
        assert!(report.passed() && report.pages > 1000 && report.skipped.is_empty(), "{report:?}");
        for kind in Kind::USUAL.into_iter().filter(|kind| kind.is_memory() || *kind == Kind::Stack) {
            assert!(report.looked[&kind] > 0, "{kind}: {report:?}");
        }
    }

    #[test]
    fn kinds_that_a_machine_lacks_are_skipped_and_named() {
        let report = torture_with("--kinds huge,locked,private --threads 1", 50);
        assert!(report.passed(), "{report:?}");
        for kind in [Kind::Huge, Kind::Locked, Kind::Private] {
            assert!(report.looked.contains_key(&kind) != report.skipped.contains_key(&kind), "{report:?}");
        }
    }

    #[test]
    fn pages_are_written_at_the_rate_that_was_asked_for() {
        let begin = Instant::now();
        let report = torture_with("--rate 2000 --threads 2 --kinds private,file,exec", 1000);
        let most = 2000.0 * (begin.elapsed().as_secs_f64() + 0.2) + 2048.0;
        assert!(report.passed() && report.written > 500 && (report.written as f64) < most, "{report:?}");
    }
}
