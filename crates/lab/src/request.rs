//! What a lab shall be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use drover_model::{Bandwidth, NodeName};

use crate::root::PROGRAMS;

/// What a lab shall be.
#[derive(Debug, Clone)]
pub struct UpRequest {
    /// The number of nodes, 1 to [`LARGEST`].
    pub nodes: u8,
    /// The rate of each node's link in each direction; none for no limit.
    pub link: Option<Bandwidth>,
    /// The command that runs [`host_main`](crate::host_main) when `--spec FILE` is added: the absolute path of the
    /// executable and its hidden subcommand.
    pub host_command: Vec<String>,
    /// The directory that hosts see as `/opt/drover`.
    pub programs: PathBuf,
    /// The agent's command in a host; none for hosts without agents.
    pub agent: Option<Vec<String>>,
    /// The root that the hosts share; none for the one that scripts/install-base.sh has made.
    pub base: Option<PathBuf>,
    /// The executables of nodes that run another release than the rest; each one's directory is such a node's
    /// `/opt/drover`.
    pub others: BTreeMap<NodeName, PathBuf>,
}

impl UpRequest {
    /// The usual lab of the executable `drover`: its directory becomes `/opt/drover`, its subcommand `lab-host` runs the
    /// hosts, and `agent --config /etc/drover/agent.toml` is each node's agent.
    #[must_use]
    pub fn of(drover: &Path, nodes: u8, link: Option<Bandwidth>) -> Self {
        Self {
            nodes,
            link,
            host_command: vec![drover.to_string_lossy().into_owned(), "lab-host".into()],
            programs: directory(drover),
            agent: Some(agent(drover)),
            base: None,
            others: BTreeMap::new(),
        }
    }
}

/// The directory that a host sees as `/opt/drover`.
pub(crate) fn directory(drover: &Path) -> PathBuf {
    drover.parent().unwrap_or(Path::new("/")).to_owned()
}

/// The command by which a host's agent is started.
pub(crate) fn agent(drover: &Path) -> Vec<String> {
    let name = drover.file_name().unwrap_or_default().to_string_lossy();
    [&format!("{PROGRAMS}/{name}"), "agent", "--config", "/etc/drover/agent.toml"].map(str::to_owned).to_vec()
}
