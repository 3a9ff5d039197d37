//! `drover-check`: the independent witness. It loads a container from outside or counts inside it, and says
//! afterwards whether a move lost, repeated or falsified anything, and how long nobody answered.
//!
//! It shares no code with the rest of Drover, so that a mistake there cannot hide here; but for wrappers of system calls.

mod beat;
mod collect;
mod connection;
mod count;
mod demo;
mod dirty;
mod echo;
#[cfg(test)]
mod fake;
mod numbers;
mod record;
mod redis;
mod resp;
mod stop;
mod torture;
mod value;

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

/// Checks from outside that a container which moves loses nothing.
#[derive(Debug, Parser)]
#[command(name = "drover-check", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print the report as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a redis server, use it over one connection, and check every answer.
    Redis(redis::Options),
    /// Write increasing numbers to a file, to standard output and to a connection.
    Count(count::Options),
    /// Receive the numbers of `count` and check them on the fly.
    Collect(collect::Options),
    /// Answer each number with itself.
    Echo(echo::Options),
    /// Ask many `echo`s for numbers, and measure the longest time without an answer of each.
    Beat(beat::Options),
    /// Check that a file of numbers has no loss and no repetition.
    VerifyNumbers(numbers::Options),
    /// Change memory in every way by chance, and look at every page.
    Torture(torture::Options),
    /// Make a lab, move a loaded container there and back three times, and show that a client notices nothing.
    Demo(demo::Options),
}

fn main() -> ExitCode {
    let Arguments { command, json } = Arguments::parse();
    let outcome = match &command {
        Command::Redis(options) => finish(redis::run(options), json, redis::Report::passed),
        Command::Count(options) => finish(count::run(options), json, |_| true),
        Command::Collect(options) => finish(collect::run(options), json, collect::Report::passed),
        Command::Echo(options) => finish(echo::run(options), json, |_| true),
        Command::Beat(options) => finish(beat::run(options), json, beat::Report::passed),
        Command::VerifyNumbers(options) => finish(numbers::run(options), json, |report| report.ok),
        Command::Torture(options) => finish(torture::run(options), json, torture::Report::passed),
        Command::Demo(options) => Ok(demo::run(options, json)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{}", chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

/// Prints a report and turns it into the exit status.
fn finish<R: Serialize, E: Error + 'static>(
    result: Result<R, E>,
    json: bool,
    passed: impl Fn(&R) -> bool,
) -> Result<ExitCode, Box<dyn Error>> {
    let report = result?;
    let text = if json { serde_json::to_string(&report)? } else { for_people(&serde_json::to_value(&report)?) };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if passed(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line `name: value` for each member of the report.
fn for_people(report: &serde_json::Value) -> String {
    let members = report.as_object().into_iter().flatten();
    let lines: Vec<String> = members
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}: {text}"),
            None => format!("{name}: {value}"),
        })
        .collect();
    lines.join("\n")
}

/// The error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
