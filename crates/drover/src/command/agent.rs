//! `drover agent`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tracing_subscriber::EnvFilter;

use super::features::FeaturesArgs;
use crate::failure::{Doing, Failure};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    /// The configuration file
    #[arg(long, default_value = "/etc/drover/agent.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Show what machines can do: those of all nodes, or this one where no nodes are known
    Features(FeaturesArgs),
}

/// Serves until a signal ends it.
pub fn execute(args: &AgentArgs) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for people: a log file gets none.
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let action = || "serve the node".to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().doing(action)?;
    let served = runtime.block_on(drover_agent::serve(&args.config));
    runtime.shutdown_background();
    served.doing(action)
}
