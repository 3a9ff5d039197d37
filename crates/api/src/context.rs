//! The context file: which nodes there are, how to reach them, and which certificate to show them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use drover_model::NodeName;
use serde::{Deserialize, Serialize};

use crate::tls::{Credentials, TlsError};

/// What the command line knows about a cluster. `drover lab up` writes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The name of the cluster, for people.
    pub cluster: String,
    /// The cluster's certificate authority.
    pub ca: Pem,
    /// The user's certificate.
    pub cert: Pem,
    /// The user's key.
    pub key: Pem,
    /// The nodes.
    pub nodes: Vec<NodeEndpoint>,
}

/// A certificate or key: in a file of its own, or in the context itself, which then is as secret as the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Pem {
    /// The file.
    File(PathBuf),
    /// The text.
    Text(String),
}

impl From<String> for Pem {
    fn from(text: String) -> Self {
        if text.starts_with("-----BEGIN ") { Self::Text(text) } else { Self::File(text.into()) }
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<Pem> for String {
    fn from(pem: Pem) -> Self {
        match pem {
            Pem::File(path) => path.to_string_lossy().into_owned(),
            Pem::Text(text) => text,
        }
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Text(_) => f.write_str("(inside)"),
        }
    }
}

impl Pem {
    fn read(&self) -> Result<String, TlsError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => fs::read_to_string(path).map_err(|source| TlsError::Read {
                what: "a certificate or key",
                path: path.clone(),
                source: rustls_pki_types::pem::Error::Io(source),
            }),
        }
    }

    fn place(&self) -> &Path {
        if let Self::File(path) = self { path } else { Path::new("the context") }
    }
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

    /// Where the context is: the variable, a running lab, the system's file, in this order.
    ///
    /// # Errors
    /// When there is none.
    pub fn place() -> Result<PathBuf, ContextError> {
        if let Some(path) = std::env::var_os(Self::VARIABLE) {
            return Ok(path.into());
        }
        // A lab with a name of its own has its files under that name.
        let lab = match std::env::var("DROVER_LAB") {
            Ok(name) if !name.is_empty() && name != "lab" => format!("/run/drover-lab-{name}/context.json"),
            _ => Self::LAB.to_owned(),
        };
        let known = [&lab, Self::SYSTEM].map(PathBuf::from);
        known.into_iter().find(|path| path.exists()).ok_or(ContextError::Unknown)
    }

    /// Finds the context and reads it.
    ///
    /// # Errors
    /// When there is none or it cannot be used.
    pub fn find() -> Result<Self, ContextError> {
        Self::read(&Self::place()?)
    }

    /// A context with everything inside.
    #[must_use]
    pub fn inline(cluster: &str, ca: &str, cert: &str, key: &str, nodes: Vec<NodeEndpoint>) -> Self {
        let [ca, cert, key] = [ca, cert, key].map(|text| Pem::Text(text.to_owned()));
        Self { cluster: cluster.to_owned(), ca, cert, key, nodes }
    }

    /// Whether the key is inside.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        matches!(self.key, Pem::Text(_))
    }

    /// The text of it. With a key inside it belongs into a file that nobody else may read.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Texts and addresses are always JSON.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// What identifies the user.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else.
    pub fn credentials(&self) -> Result<Credentials, TlsError> {
        Credentials::of_text(&self.ca.read()?, &self.cert.read()?, &self.key.read()?, self.key.place())
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
