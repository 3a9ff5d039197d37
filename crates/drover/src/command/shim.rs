//! `drover shim`: the keeper of one container's standard streams.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use drover_memory::{Filler, Stored};

use crate::failure::{Cause, Doing, Failure};

#[derive(Debug, Args)]
pub struct ShimArgs {
    /// What the agent tells it
    pub spec: PathBuf,
}

/// Brings the pages that arrived before the images.
fn fill(store: &Path, criu: &UnixListener) -> Result<(), drover_container::shim::Failure> {
    // An index that is not there means that no page came.
    let Some(stored) = Stored::open(store)? else { return Err("the index of the pages is missing".into()) };
    Filler::new(stored)?.serve(criu)?;
    Ok(())
}

/// Is the shim. Called before any thread is started.
pub fn execute(args: &ShimArgs) -> Result<ExitCode, Failure> {
    let served = drover_container::shim::serve(&args.spec, fill).map_err(Cause::Shim);
    served.doing(|| "keep a container".into()).map(|()| ExitCode::SUCCESS)
}
