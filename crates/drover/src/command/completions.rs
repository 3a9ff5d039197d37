//! `drover completions` and `drover man`.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use drover_api::LogStream;

use super::Cli;
use crate::failure::{Doing, Failure};
use crate::print;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory
    #[arg(default_value = ".")]
    directory: PathBuf,
}

/// Prints the script.
pub fn print(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "drover", &mut script);
    print::output(LogStream::Stdout, &script).doing(|| "print a completion script".into())
}

/// Writes the pages, one for each command.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.directory));
    written.doing(|| format!("write manual pages into {}", args.directory.display()))
}
