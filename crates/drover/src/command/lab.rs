//! `drover lab` and the hosts of a lab.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use drover_model::Bandwidth;

use crate::failure::{Doing, Failure};
use crate::print::Printer;

#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Start a lab: nodes n1, n2, … and `client`
    Up(UpArgs),
    /// Stop the lab and remove all of it
    Down,
    /// Show the lab's hosts
    Status,
    /// Run a program on a host of the lab
    Exec(LabExecArgs),
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub nodes: u8,
    /// The rate of each host's link: 1gbit, 100mbit, … or none for as fast as it goes
    #[arg(long, default_value = "1gbit", value_parser = link)]
    pub link: Link,
}

/// The rate of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Unlimited,
    Limited(Bandwidth),
}

fn link(text: &str) -> Result<Link, String> {
    match text {
        "none" => Ok(Link::Unlimited),
        rate => rate.parse().map(Link::Limited).map_err(|error: drover_model::InvalidUnit| error.to_string()),
    }
}

#[derive(Debug, Args)]
pub struct LabExecArgs {
    /// The host: n1, n2, … or client
    pub host: String,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LabHostArgs {
    /// What the host is to be
    pub spec: PathBuf,
}

/// Does what was asked of the lab. Called before any thread is started.
pub fn execute(command: LabCommand, _printer: Printer) -> Result<ExitCode, Failure> {
    // INTEGRATOR: call drover_lab::{up, down, status, exec} here. Their errors become variants of failure::Cause
    // with their hints; `exec` passes the program's status on with super::exit_code.
    match command {
        LabCommand::Up(args) => {
            let _ = (args.nodes, args.link);
            unwired("start a lab")
        }
        LabCommand::Down => unwired("stop the lab"),
        LabCommand::Status => unwired("show the lab"),
        LabCommand::Exec(args) => {
            let _ = (args.host, args.command);
            unwired("run a program in the lab")
        }
    }
}

/// The first process of a lab's host. Called before any thread is started.
pub fn host(args: &LabHostArgs) -> Result<ExitCode, Failure> {
    // INTEGRATOR: call drover_lab::host_main here.
    let _ = &args.spec;
    unwired("be a host of a lab")
}

fn unwired(action: &str) -> Result<ExitCode, Failure> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported)).doing(|| action.into())
}
