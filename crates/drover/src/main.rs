//! `drover`: the command line, and the faces that run behind it.

mod archive;
mod backlog;
mod choice;
mod cluster;
mod command;
mod failure;
mod follow;
mod names;
mod print;
mod session;
mod table;
mod terminal;
mod unit;

use std::process::ExitCode;

use clap::Parser;

use command::Cli;
use print::Printer;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let printer = Printer { json: cli.json };
    match command::execute(cli.command, printer) {
        Ok(status) => status,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}
