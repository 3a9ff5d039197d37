//! `drover exec` and `drover attach`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use drover_api::ExecRequest;
use drover_model::ContainerState;

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
    /// UID[:GID], or a name in the container
    #[arg(short, long)]
    user: Option<String>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs another program inside a container; its exit status is passed on.
pub async fn execute(args: ExecArgs, printer: Printer) -> Result<ExitCode, Failure> {
    let action = || format!("run a program in {}", args.chosen.container);
    check_input(args.interactive, args.terminal).doing(action)?;
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
        Ended::AgentGone => {
            let hint = "programs that `drover exec` started end with it; the container goes on".to_owned();
            Err(Failure::new(action(), Cause::AgentGone { node: located.client.node_name().clone(), hint }))
        }
    }
}

/// A program cannot have a terminal whose input comes from something else: it would never find the end of it.
pub(super) fn check_input(interactive: bool, terminal: bool) -> Result<(), Cause> {
    if interactive && terminal && !std::io::stdin().is_terminal() { Err(Cause::NoTerminal) } else { Ok(()) }
}

/// Connects to a container's program; its exit status is passed on.
pub async fn attach(chosen: Chosen, printer: Printer) -> Result<ExitCode, Failure> {
    let action = || format!("attach to {}", chosen.container);
    let cluster = open(printer, action)?;
    let located = chosen.locate(&cluster, "attach to").await?;
    // Said here, too: the node's refusal would come when the terminal is ours already.
    if !matches!(located.record.state, ContainerState::Running | ContainerState::Frozen | ContainerState::Arriving) {
        return Err(Failure::new(action(), Cause::State(located.record.state)));
    }
    let process = &located.record.spec.process;
    check_input(process.stdin_open, process.terminal).doing(action)?;
    let mut seat = Seat::take(process.stdin_open, process.terminal).doing(action)?;
    match seat.attend(&cluster, located, false).await? {
        Ended::Exited(status) => Ok(exit_code(status)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
