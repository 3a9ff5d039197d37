//! The context file: which nodes there are, how to reach them, and which certificate to show them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use drover_model::NodeName;
use serde::{Deserialize, Serialize};

use crate::tls::TlsFiles;

/// What the command line knows about a cluster. `drover lab up` writes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The name of the cluster, for people.
    pub cluster: String,
    /// The PEM file with the cluster's certificate authority.
    pub ca: PathBuf,
    /// The PEM file with the user's certificate.
    pub cert: PathBuf,
    /// The PEM file with the user's key.
    pub key: PathBuf,
    /// The nodes.
    pub nodes: Vec<NodeEndpoint>,
}

/// How one node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEndpoint {
    /// Its name, which its certificate must carry.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// The network namespace from which that address can be reached, when it is not the caller's own (a lab).
    pub netns: Option<PathBuf>,
}

/// A context that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// No file names a cluster.
    #[error(
        "no cluster is known: neither DROVER_CONTEXT nor a running lab names one, and there is no /etc/drover/context.json"
    )]
    Unknown,
    /// The file cannot be read.
    #[error("cannot read context file {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file makes no sense.
    #[error("cannot parse context file {0}")]
    Parse(PathBuf, #[source] serde_json::Error),
}

impl Context {
    /// The environment variable that names a context file.
    pub const VARIABLE: &str = "DROVER_CONTEXT";
    /// Where a lab puts its context, so that the command line finds it by itself.
    pub const LAB: &str = "/run/drover-lab/context.json";
    /// Where an administrator puts a cluster's context.
    pub const SYSTEM: &str = "/etc/drover/context.json";

    /// Finds the context: the variable, a running lab, the system's file, in this order.
    ///
    /// # Errors
    /// When there is none or it cannot be used.
    pub fn find() -> Result<Self, ContextError> {
        if let Some(path) = std::env::var_os(Self::VARIABLE) {
            return Self::read(Path::new(&path));
        }
        // A lab with a name of its own has its files under that name.
        let lab = match std::env::var("DROVER_LAB") {
            Ok(name) if !name.is_empty() && name != "lab" => format!("/run/drover-lab-{name}/context.json"),
            _ => Self::LAB.to_owned(),
        };
        for path in [&lab, Self::SYSTEM].map(Path::new) {
            if path.exists() {
                return Self::read(path);
            }
        }
        Err(ContextError::Unknown)
    }

    /// The files that identify the user.
    #[must_use]
    pub fn tls_files(&self) -> TlsFiles {
        TlsFiles { ca: self.ca.clone(), cert: self.cert.clone(), key: self.key.clone() }
    }

    /// Reads one file.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self, ContextError> {
        let text = fs::read(path).map_err(|error| ContextError::Read(path.to_owned(), error))?;
        serde_json::from_slice(&text).map_err(|error| ContextError::Parse(path.to_owned(), error))
    }
}
