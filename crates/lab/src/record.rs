//! The record of a lab: what `up` was asked for and where the lab's cgroups are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use drover_model::{Bandwidth, NodeName};
use serde::{Deserialize, Serialize};

use crate::cgroup::Hierarchy;
use crate::error::StepError;
use crate::place::Place;
use crate::plan::Plan;

/// Written before anything else of a lab is made, and again when all of it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What was asked for.
    pub wanted: Wanted,
    /// The rate of each node's link now.
    pub link: Option<Bandwidth>,
    /// The cgroups in which the lab's own is.
    pub cgroups: Vec<Hierarchy>,
    /// Whether the lab was made to its end.
    pub complete: bool,
}

/// The parameters of a lab; two labs with the same are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// The number of nodes.
    pub nodes: u8,
    /// The rate of each node's link.
    pub link: Option<Bandwidth>,
    /// The agent's command.
    pub agent: Option<Vec<String>>,
    /// The directory that hosts see as `/opt/drover`.
    pub programs: PathBuf,
    /// The root that the hosts share, when it is not the usual one.
    #[serde(default)]
    pub base: Option<PathBuf>,
    /// The executables of nodes that run another release than the rest.
    #[serde(default)]
    pub others: BTreeMap<NodeName, PathBuf>,
}

impl Record {
    /// Reads the record of the lab at `place`; none when there is no lab.
    pub(crate) fn read(place: &Place) -> Result<Option<Self>, StepError> {
        let path = place.record();
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            text => {
                let text = text.map_err(StepError::at("read", &path))?;
                serde_json::from_slice(&text).map(Some).map_err(StepError::at("parse", &path))
            }
        }
    }

    /// Writes it in one step.
    pub(crate) fn write(&self, place: &Place) -> Result<(), StepError> {
        let text = serde_json::to_vec_pretty(self).expect("a record is always JSON");
        write_file(&place.record(), &text, 0o644)
    }

    /// The hosts it has.
    pub(crate) fn plan(&self) -> Plan {
        Plan::of(self.wanted.nodes)
    }

    /// The cgroup `below` the cgroup of a host, in every hierarchy.
    pub(crate) fn host_cgroups(&self, place: &Place, host: &NodeName, below: &str) -> Vec<PathBuf> {
        let inside = Path::new(place.cgroup()).join(host.as_str()).join(below);
        self.cgroups.iter().map(|hierarchy| hierarchy.parent.join(&inside)).collect()
    }

    /// The first process of a host, when it lives and has reached its cgroup.
    pub(crate) fn first_process(&self, place: &Place, host: &NodeName) -> Option<i32> {
        let directories = self.host_cgroups(place, host, crate::cgroup::INIT);
        directories.first().and_then(|directory| crate::cgroup::processes(directory).first().copied())
    }
}

/// Writes a file in one step: it is never seen half-written, and never with a wider mode than `mode`.
pub(crate) fn write_file(path: &Path, text: &[u8], mode: u32) -> Result<(), StepError> {
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(mode).open(&new).map_err(StepError::at("create", &new))?;
    file.write_all(text).map_err(StepError::at("write", &new))?;
    fs::rename(&new, path).map_err(StepError::at("write", path))
}

/// Makes a directory and those above it.
pub(crate) fn make_directory(path: &Path) -> Result<(), StepError> {
    fs::create_dir_all(path).map_err(StepError::at("create directory", path))
}
