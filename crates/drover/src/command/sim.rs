//! `drover sim`: the protocol under faults by seed.

use std::ops::Range;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use drover_sim::{Ending, Mutant, Run, Violation, run};
use serde::Serialize;

use crate::failure::Failure;
use crate::print::{self, Printer};

#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Move a simulated container under faults, and see whether every promise is kept
    Protocol(ProtocolArgs),
}

#[derive(Debug, Args)]
pub struct ProtocolArgs {
    /// Show the whole run of this seed; with --count, the first of many
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run so many seeds, and show the first that break a promise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Break the protocol on purpose, to see whether that is found
    #[arg(long, value_name = "BREAK", value_parser = mutant)]
    mutant: Option<Mutant>,
}

/// How many seeds are named that broke a promise.
const SHOWN: usize = 10;

/// One run as JSON.
#[derive(Debug, Serialize)]
struct OneRun {
    seed: u64,
    events: u64,
    hash: String,
    violation: Option<String>,
    lines: Vec<String>,
}

/// Many runs.
#[derive(Debug, Default, Serialize)]
struct Tally {
    seeds: u64,
    events: u64,
    moved: u64,
    rolled_back: u64,
    failed: u64,
    broken: u64,
    first_broken: Vec<Broken>,
}

#[derive(Debug, Serialize)]
struct Broken {
    seed: u64,
    violation: String,
}

/// Breaks by their names, in words with dashes.
fn mutant(name: &str) -> Result<Mutant, String> {
    let known = Mutant::ALL.into_iter().find(|mutant| mutant.to_string() == name);
    known.ok_or_else(|| {
        let all: Vec<_> = Mutant::ALL.iter().map(ToString::to_string).collect();
        format!("there is: {}", all.join(", "))
    })
}

/// Runs one seed or many; fails when a promise was broken.
pub fn execute(command: &SimCommand, printer: Printer) -> Result<ExitCode, Failure> {
    let SimCommand::Protocol(args) = command;
    match args.count {
        None => one(args, printer),
        Some(count) => many(args.seed..args.seed.saturating_add(count), args.mutant, printer),
    }
}

fn one(args: &ProtocolArgs, printer: Printer) -> Result<ExitCode, Failure> {
    let Run { hash, events, ending, lines } = run(args.seed, args.mutant, true);
    let broken = ending.as_ref().err().map(Violation::to_string);
    if printer.json {
        let hash = format!("{hash:016x}");
        printer.value(&OneRun { seed: args.seed, events, hash, violation: broken, lines })?;
    } else {
        lines.iter().try_for_each(|text| print::line(text))?;
        let end = match &ending {
            Ok(ending) => format!("every promise is kept ({})", outcomes(ending)),
            Err(violation) => format!("a promise is broken {violation}"),
        };
        print::line(&format!("seed {}: {events} events, trace {hash:016x}: {end}", args.seed))?;
    }
    Ok(exit(ending.is_err()))
}

fn outcomes(Ending { moved, rolled_back, failed }: &Ending) -> String {
    format!("{moved} moved, {rolled_back} rolled back, {failed} failed")
}

fn many(seeds: Range<u64>, mutant: Option<Mutant>, printer: Printer) -> Result<ExitCode, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tallies = std::thread::scope(|scope| {
        let part = |first: usize| seeds.clone().skip(first).step_by(threads);
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || tally(part(first), mutant))).collect();
        running.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let tally = add(tallies);
    printer.either(&tally, || shown(&tally))?;
    Ok(exit(tally.broken > 0))
}

fn tally(seeds: impl Iterator<Item = u64>, mutant: Option<Mutant>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let Run { events, ending, .. } = run(seed, mutant, false);
        tally.seeds += 1;
        tally.events += events;
        match ending {
            Ok(Ending { moved, rolled_back, failed }) => {
                tally.moved += u64::from(moved);
                tally.rolled_back += u64::from(rolled_back);
                tally.failed += u64::from(failed);
            }
            Err(violation) => {
                tally.broken += 1;
                if tally.first_broken.len() < SHOWN {
                    tally.first_broken.push(Broken { seed, violation: violation.to_string() });
                }
            }
        }
    }
    tally
}

fn add(parts: Vec<Tally>) -> Tally {
    let mut sum = Tally::default();
    for part in parts {
        sum.seeds += part.seeds;
        sum.events += part.events;
        sum.moved += part.moved;
        sum.rolled_back += part.rolled_back;
        sum.failed += part.failed;
        sum.broken += part.broken;
        sum.first_broken.extend(part.first_broken);
    }
    sum.first_broken.sort_by_key(|broken| broken.seed);
    sum.first_broken.truncate(SHOWN);
    sum
}

fn shown(tally: &Tally) -> String {
    let Tally { seeds, events, moved, rolled_back, failed, broken, first_broken } = tally;
    let mut text = format!(
        "{seeds} seeds, {events} events, {moved} moved, {rolled_back} rolled back, {failed} failed, {broken} broke a promise"
    );
    for Broken { seed, violation } in first_broken {
        text.push_str(&format!("\nseed {seed}: {violation}"));
    }
    text
}

fn exit(broken: bool) -> ExitCode {
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
