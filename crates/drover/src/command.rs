//! The commands: one file for each group.

mod agent;
mod audit;
mod check;
mod cluster;
mod commit;
mod completions;
mod copies;
mod exec;
mod features;
mod image;
mod inspect;
mod lab;
mod lifecycle;
mod list;
mod logs;
mod membership;
mod migrate;
mod migrations;
mod node;
mod plan;
mod pong;
mod resolve;
mod run;
mod settings;
mod shim;
mod sim;
mod stats;
mod sync;
mod user;
mod volume;

use std::future::Future;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use drover_model::NodeName;

use crate::cluster::{Cluster, Located};
use crate::failure::{Doing, Failure};
use crate::print::Printer;

/// Moves running containers between machines: memory, files, address and open connections.
#[derive(Debug, Parser)]
#[command(name = "drover", version, propagate_version = true)]
pub struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve this machine as a node
    Agent(agent::AgentArgs),
    /// Make a container and start it
    Run(Box<run::RunArgs>),
    /// List containers
    Ps(list::PsArgs),
    /// Show everything about a container
    Inspect(Chosen),
    /// Print a container's output
    Logs(logs::LogsArgs),
    /// Run another program inside a container
    Exec(exec::ExecArgs),
    /// Connect to a container's program; ctrl-p ctrl-q detaches
    Attach(Chosen),
    /// Show what containers use
    Stats(stats::StatsArgs),
    /// Start a container's program again
    Start(Chosen),
    /// End a container's program
    Stop(lifecycle::StopArgs),
    /// Send a signal to a container's program
    Kill(lifecycle::KillArgs),
    /// Remove a container and its files
    Rm(lifecycle::RmArgs),
    /// Make an image of a container's image and what the container has changed
    Commit(commit::CommitArgs),
    /// Images on the nodes
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Volumes on the nodes
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Say whether a container can be moved to another node, and what is in the way
    Check(check::CheckArgs),
    /// Move a running container to another node
    Migrate(migrate::MigrateArgs),
    /// Send a container's files to another node, ahead of a move: only what changes after that crosses then
    Sync(sync::SyncArgs),
    /// Copies of files of containers that are elsewhere, which make coming back short
    #[command(subcommand)]
    Copies(copies::CopiesCommand),
    /// List migrations, or show one
    Migrations(migrations::MigrationsArgs),
    /// Move a container back and forth, and sum up
    Pong(pong::PongArgs),
    /// Try the protocol under faults, in a simulation
    #[command(subcommand)]
    Sim(sim::SimCommand),
    /// The cluster: make one, show it
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Nodes: list them, empty one, have one join or leave the cluster
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Users of the cluster
    #[command(subcommand)]
    User(user::UserCommand),
    /// Show who did what on the nodes, and who was refused; for administrators
    Audit(audit::AuditArgs),
    /// A lab of many hosts on this machine
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write manual pages into a directory
    Man(completions::ManArgs),
    /// One host of a lab; started by `lab up`
    #[command(hide = true)]
    LabHost(lab::LabHostArgs),
    /// Keeper of one container's standard streams; started by the agent
    #[command(hide = true)]
    Shim(shim::ShimArgs),
}

/// A container, and the node to look on.
#[derive(Debug, Clone, Args)]
pub struct Chosen {
    /// Name, id, or beginning of an id
    pub container: String,
    /// The node that has it, when several have one of this name
    #[arg(long)]
    pub node: Option<NodeName>,
}

/// All that there are, or those of one node.
#[derive(Debug, Clone, Args)]
pub struct OnNode {
    /// Only those on this node
    #[arg(long)]
    node: Option<NodeName>,
}

impl Chosen {
    /// Finds it; `action` is what shall be done with it.
    async fn locate(&self, cluster: &Cluster, action: &str) -> Result<Located, Failure> {
        let located = cluster.locate(&self.container, self.node.as_ref()).await;
        located.doing(|| format!("{action} {}", self.container))
    }
}

/// Does what was asked; the exit status.
pub fn execute(command: Command, printer: Printer) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        // These start processes and change namespaces: no other thread may run.
        Command::Lab(command) => lab::execute(command, printer),
        Command::LabHost(args) => lab::host(&args),
        Command::Shim(args) => shim::execute(&args),
        Command::Completions(args) => completions::print(&args).map(done),
        Command::Man(args) => completions::man(&args).map(done),
        Command::Sim(command) => sim::execute(&command, printer),
        Command::Agent(args) => match args.command {
            Some(agent::AgentCommand::Features(args)) => in_runtime(features::execute(args, printer)).map(done),
            None => agent::execute(&args).map(done),
        },
        Command::Run(args) => in_runtime(run::execute(*args, printer)),
        Command::Ps(args) => in_runtime(list::execute(args, printer)).map(done),
        Command::Inspect(chosen) => in_runtime(inspect::execute(chosen, printer)).map(done),
        Command::Logs(args) => in_runtime(logs::execute(args, printer)).map(done),
        Command::Exec(args) => in_runtime(exec::execute(args, printer)),
        Command::Attach(chosen) => in_runtime(exec::attach(chosen, printer)),
        Command::Stats(args) => in_runtime(stats::execute(args, printer)).map(done),
        Command::Start(chosen) => in_runtime(lifecycle::start(chosen, printer)).map(done),
        Command::Stop(args) => in_runtime(lifecycle::stop(args, printer)).map(done),
        Command::Kill(args) => in_runtime(lifecycle::kill(args, printer)).map(done),
        Command::Rm(args) => in_runtime(lifecycle::rm(args, printer)),
        Command::Commit(args) => in_runtime(commit::execute(args, printer)).map(done),
        Command::Image(command) => in_runtime(image::execute(command, printer)).map(done),
        Command::Volume(command) => in_runtime(volume::execute(command, printer)).map(done),
        Command::Check(args) => in_runtime(check::execute(args, printer)),
        Command::Migrate(args) => in_runtime(migrate::execute(args, printer)),
        Command::Sync(args) => in_runtime(sync::execute(args, printer)).map(done),
        Command::Copies(command) => in_runtime(copies::execute(command, printer)).map(done),
        Command::Migrations(args) => in_runtime(migrations::execute(args, printer)).map(done),
        Command::Cluster(cluster::ClusterCommand::Init(args)) => cluster::init(&args, printer).map(done),
        Command::Cluster(cluster::ClusterCommand::Show) => in_runtime(cluster::show(printer)).map(done),
        Command::Node(command) => in_runtime(node::execute(command, printer)),
        Command::User(command) => in_runtime(user::execute(command, printer)).map(done),
        Command::Audit(args) => in_runtime(audit::execute(args, printer)).map(done),
        Command::Pong(args) => in_runtime(pong::execute(args, printer)).map(done),
    }
}

/// Runs a command to its end. Threads that wait for a terminal or a node that does not answer are left behind.
fn in_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing(|| "start".into())?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Opens the cluster of the context; `action` is what shall be done with it.
fn open(printer: Printer, action: impl FnOnce() -> String) -> Result<Cluster, Failure> {
    Cluster::open(printer).doing(action)
}

/// The exit status that passes on a program's own.
fn exit_code(status: i32) -> ExitCode {
    // What does not fit a byte is a failure all the same.
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests;
