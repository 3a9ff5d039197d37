//! `drover-bench`: Drover beside what a user would pick today, in one lab, with one image and one client.
//!
//! Like the witness, it knows Drover only by its command line.

mod client;
mod command;
mod disk;
mod faults;
mod hosts;
mod lab;
mod machine;
mod many;
mod measure;
mod mover;
mod plot;
mod report;
mod row;
mod run;
mod series;
mod statistics;
mod suite;
mod table;
mod usage;
mod zoo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures moves of containers, by Drover and by its peers.
#[derive(Debug, Parser)]
#[command(name = "drover-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run suites, and append a row for each run
    Run(run::Options),
    /// Drain a node with many containers at several limits, while a client talks to each of them
    Many(many::Options),
    /// Bring every fault into every phase of a move, and write what came of it
    Faults(faults::Options),
    /// Move the programs that people run to and fro, and write what came of it
    Zoo(zoo::Options),
    /// Pass connections on, and turn one bit over when a file appears
    Flip(faults::flip::Options),
    /// Draw pictures and fill in tables from the rows that there are
    Report(report::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, command::INTERRUPTED.clone()) {
            eprintln!("cannot watch for signals: {error}");
            return ExitCode::FAILURE;
        }
    }
    let done = match &arguments.command {
        Command::Run(options) => run::run(options).map_err(|error| run::chain(&error)),
        Command::Many(options) => many::run(options).map_err(|error| run::chain(&error)),
        Command::Faults(options) => faults::run(options).map_err(|error| run::chain(&error)),
        Command::Zoo(options) => zoo::run(options).map_err(|error| run::chain(&error)),
        Command::Flip(options) => faults::flip::run(options).map_err(|error| run::chain(&error)),
        Command::Report(options) => report::run(options).map_err(|error| run::chain(&error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
