//! `drover shim`: the keeper of one container's standard streams.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::failure::{Cause, Doing, Failure};

#[derive(Debug, Args)]
pub struct ShimArgs {
    /// What the agent tells it
    pub spec: PathBuf,
}

/// Is the shim. Called before any thread is started.
pub fn execute(args: &ShimArgs) -> Result<ExitCode, Failure> {
    let served = drover_container::shim::serve(&args.spec).map_err(Cause::Shim);
    served.doing(|| "keep a container".into()).map(|()| ExitCode::SUCCESS)
}
