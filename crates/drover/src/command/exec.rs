//! `drover exec` and `drover attach`.

use std::process::ExitCode;

use clap::Args;
use drover_api::ExecRequest;

use super::{Chosen, exit_code, open};
use crate::failure::{Cause, Doing, Failure};
use crate::print::Printer;
use crate::session::{Ended, Seat};

#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short = 't', long = "tty")]
    terminal: bool,
    /// Set an environment variable: KEY=VALUE, or KEY to pass it on
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = super::run::variable)]
    env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// UID[:GID]
    #[arg(short, long)]
    user: Option<String>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs another program inside a container; its exit status is passed on.
pub async fn execute(args: ExecArgs, printer: Printer) -> Result<ExitCode, Failure> {
    let action = || format!("run a program in {}", args.chosen.container);
    let cluster = open(printer, action)?;
    let located = args.chosen.locate(&cluster, "run a program in").await?;
    let request = ExecRequest {
        args: args.command.clone(),
        env: args.env.clone(),
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        terminal: args.terminal,
        stdin: args.interactive,
    };
    let link = located.client.exec(located.record.spec.id.as_str(), &request).await.doing(action)?;
    let mut seat = Seat::take(args.interactive, args.terminal).doing(action)?;
    match seat.carry(link, None).await.doing(action)? {
        Ended::Exited(status) => Ok(exit_code(status)),
        Ended::Detached => Ok(ExitCode::SUCCESS),
        // A program that was started from outside does not travel.
        Ended::Lost(reason) => Err(Failure::new(action(), Cause::Session(reason))),
    }
}

/// Connects to a container's program; its exit status is passed on.
pub async fn attach(chosen: Chosen, printer: Printer) -> Result<ExitCode, Failure> {
    let action = || format!("attach to {}", chosen.container);
    let cluster = open(printer, action)?;
    let located = chosen.locate(&cluster, "attach to").await?;
    let process = &located.record.spec.process;
    let mut seat = Seat::take(process.stdin_open, process.terminal).doing(action)?;
    match seat.attend(&cluster, located, false).await? {
        Ended::Exited(status) => Ok(exit_code(status)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
