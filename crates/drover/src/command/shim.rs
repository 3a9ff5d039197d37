//! `drover shim`: the keeper of one container's standard streams.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use crate::failure::{Doing, Failure};

#[derive(Debug, Args)]
pub struct ShimArgs {
    /// What the agent tells it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// Is the shim. Called before any thread is started.
pub fn execute(args: &ShimArgs) -> Result<ExitCode, Failure> {
    // INTEGRATOR: call drover_container::shim here.
    let _ = &args.arguments;
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported)).doing(|| "be a shim".into())
}
