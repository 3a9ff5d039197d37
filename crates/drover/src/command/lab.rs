//! `drover lab` and the hosts of a lab.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use drover_lab::AgentState;
use drover_model::{Bandwidth, NodeName};

use crate::failure::{Doing, Failure, Hinted};
use crate::print::Printer;
use crate::table::Table;

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
    /// Kill a node's agent and keep it down, or let it start again
    Agent(LabAgentArgs),
    /// Change the rate of all links
    Link(LabLinkArgs),
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub nodes: u8,
    /// The rate of each host's link: 1gbit, 100mbit, … or none for as fast as it goes
    #[arg(long, default_value = "none", value_parser = link)]
    pub link: Link,
    /// The root that the hosts share, made from the usual one with more programs in it
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// The executable that a node runs instead of this one, such as one of another release
    #[arg(long = "program", value_name = "NODE=FILE", value_parser = program)]
    pub programs: Vec<(NodeName, PathBuf)>,
}

fn program(text: &str) -> Result<(NodeName, PathBuf), String> {
    let (node, file) = text.split_once('=').ok_or("it has the form NODE=FILE")?;
    let node = node.parse().map_err(|error: drover_model::InvalidName| error.to_string())?;
    let path = std::fs::canonicalize(file).map_err(|error| format!("{file}: {error}"))?;
    let executable = path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    if executable { Ok((node, path)) } else { Err(format!("{file} is no executable file")) }
}

/// The rate of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Unlimited,
    Limited(Bandwidth),
}

impl Link {
    fn rate(self) -> Option<Bandwidth> {
        match self {
            Self::Unlimited => None,
            Self::Limited(rate) => Some(rate),
        }
    }
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
pub struct LabAgentArgs {
    /// The node
    pub host: String,
    /// What becomes of its agent
    #[arg(value_enum)]
    pub change: Change,
}

/// What becomes of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Change {
    Start,
    Stop,
}

#[derive(Debug, Args)]
pub struct LabLinkArgs {
    /// 1gbit, 100mbit, … or none for as fast as it goes
    #[arg(value_parser = link)]
    pub rate: Link,
}

#[derive(Debug, Args)]
pub struct LabHostArgs {
    /// What the host is to be
    #[arg(long)]
    pub spec: PathBuf,
}

/// Does what was asked of the lab. Called before any thread is started.
pub fn execute(command: LabCommand, printer: Printer) -> Result<ExitCode, Failure> {
    match command {
        LabCommand::Up(args) => up(&args, printer)?,
        LabCommand::Down => {
            let removed = drover_lab::down()
                .map_err(|error| Hinted::new(&error, error.hint()))
                .doing(|| "stop the lab".into())?;
            let text = if removed.existed { "the lab is gone" } else { "there was no lab" };
            printer.either(&serde_json::json!({ "existed": removed.existed }), || text.to_owned())?;
        }
        LabCommand::Status => status(printer)?,
        LabCommand::Exec(args) => {
            let action = || format!("run a program on {}", args.host);
            let status = drover_lab::exec(&args.host, &args.command).map_err(|error| Hinted::new(&error, error.hint()));
            let status = status.doing(action)?;
            let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
            return Ok(super::exit_code(status.code().or(signal).unwrap_or(1)));
        }
        LabCommand::Agent(args) => {
            let running = matches!(args.change, Change::Start);
            let set = drover_lab::set_agent(&args.host, running).map_err(|error| Hinted::new(&error, error.hint()));
            set.doing(|| format!("change the agent of {}", args.host))?;
            let word = if running { "running" } else { "stopped" };
            let text = || format!("the agent of {} is {word}", args.host);
            printer.either(&serde_json::json!({ "host": args.host, "agent": word }), text)?;
        }
        LabCommand::Link(args) => {
            let set = drover_lab::set_link(args.rate.rate()).map_err(|error| Hinted::new(&error, error.hint()));
            set.doing(|| "change the links of the lab".into())?;
            let rate = args.rate.rate();
            printer.either(&serde_json::json!({ "link": rate }), || format!("links: {}", pace(rate)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(args: &UpArgs, printer: Printer) -> Result<(), Failure> {
    let action = || "start a lab".to_owned();
    let program = std::env::current_exe().doing(action)?;
    let mut request = drover_lab::UpRequest::of(&program, args.nodes, args.link.rate());
    request.base = args.base.as_deref().map(std::path::absolute).transpose().doing(action)?;
    request.others = args.programs.iter().cloned().collect();
    let lab = drover_lab::up(&request).map_err(|error| Hinted::new(&error, error.hint())).doing(action)?;
    for warning in &lab.warnings {
        printer.warning(warning);
    }
    let hosts: Vec<_> = lab.plan.nodes().map(|host| host.name.to_string()).collect();
    let text = || {
        let state = if lab.already { "was up already" } else { "is up" };
        format!("the lab {state}: {} and client", hosts.join(", "))
    };
    printer.either(&serde_json::json!({ "nodes": hosts, "already": lab.already }), text)
}

fn status(printer: Printer) -> Result<(), Failure> {
    let status = drover_lab::status().map_err(|error| Hinted::new(&error, error.hint()));
    let status = status.doing(|| "look at the lab".into())?;
    printer.either(&status, || {
        let Some(status) = &status else { return "there is no lab; `drover lab up` starts one".to_owned() };
        let mut table = Table::new(&["HOST", "ADDRESS", "PID", "AGENT"]);
        for host in &status.hosts {
            let pid = host.pid.map_or("dead".to_owned(), |pid| pid.to_string());
            table.row([host.name.to_string(), host.v4.to_string(), pid, word(host.agent).to_owned()]);
        }
        format!("{}links: {}\n", table.render(), pace(status.link))
    })
}

/// The first process of a lab's host. Called before any thread is started.
pub fn host(args: &LabHostArgs) -> Result<ExitCode, Failure> {
    let lived = drover_lab::host_main(&args.spec).map_err(|error| Hinted::new(&error, error.hint()));
    lived.doing(|| "be a host of a lab".into()).map(|()| ExitCode::SUCCESS)
}

fn pace(rate: Option<Bandwidth>) -> String {
    rate.map_or("as fast as it goes".to_owned(), |rate| rate.to_string())
}

fn word(agent: AgentState) -> &'static str {
    match agent {
        AgentState::None => "-",
        AgentState::Running => "running",
        AgentState::Stopped => "stopped",
        AgentState::Dead => "dead",
    }
}
