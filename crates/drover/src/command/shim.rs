//! `drover shim`: the keeper of one container's standard streams.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use drover_memory::{Filler, Stored, dismiss_relays, listen_for_relays};

use crate::failure::{Cause, Doing, Failure};

#[derive(Debug, Args)]
pub struct ShimArgs {
    /// What the agent tells it
    pub spec: PathBuf,
}

/// Brings the pages that arrived before the images, and those that follow.
fn fill(
    store: &Path,
    criu: &UnixListener,
    agents: &Path,
    pids: &(dyn Fn() -> Vec<u32> + Sync),
    filled: &dyn Fn(),
) -> Result<(), drover_container::shim::Failure> {
    // An index that is not there means that no page came.
    let Some(stored) = Stored::open(store)? else { return Err("the index of the pages is missing".into()) };
    let agents = listen_for_relays(agents)?;
    Filler::new(stored, pids)?.serve(criu, &agents)?;
    filled();
    Ok(dismiss_relays(&agents)?)
}

/// Is the shim. Called before any thread is started.
pub fn execute(args: &ShimArgs) -> Result<ExitCode, Failure> {
    let served = drover_container::shim::serve(&args.spec, fill).map_err(Cause::Shim);
    served.doing(|| "keep a container".into()).map(|()| ExitCode::SUCCESS)
}
