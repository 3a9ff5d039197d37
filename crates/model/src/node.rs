//! A node, and an explanation that is sent between machines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, NodeName};

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Drover's version on it.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// CRIU's version, if CRIU answers.
    pub criu: Option<String>,
    /// The processor architecture.
    pub architecture: String,
    /// How many containers it has.
    #[serde(default)]
    pub containers: u32,
    /// How many of them run.
    #[serde(default)]
    pub running: u32,
    /// The memory that programs could still get.
    #[serde(default)]
    pub memory_available: Bytes,
    /// Since when it takes nothing new, if somebody drained it: RFC 3339, UTC.
    #[serde(default)]
    pub drained_since: Option<String>,
    /// How many moves may be under way at one time.
    #[serde(default)]
    pub limits: MoveLimits,
    /// How many moves away are under way.
    #[serde(default)]
    pub leaving: u32,
    /// How many moves towards it are under way.
    #[serde(default)]
    pub arriving: u32,
    /// How many moves away wait for their turn.
    #[serde(default)]
    pub queued: u32,
}

/// How many moves of a node may be under way at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveLimits {
    /// Away from it.
    pub outgoing: u32,
    /// Towards it.
    pub incoming: u32,
}

impl Default for MoveLimits {
    /// By measurement on two processors: `docs/many.md`.
    fn default() -> Self {
        Self { outgoing: 2, incoming: 2 }
    }
}

/// What a node's machine can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeFeatures {
    /// The node's name.
    pub node: NodeName,
    /// How the writes of containers are followed, `userfaultfd` or `soft-dirty`; absent: they cannot be.
    pub tracking: Option<String>,
    /// What was probed.
    pub features: Vec<Feature>,
}

/// One thing that a machine can do, or cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it works.
    pub available: bool,
    /// What it is for.
    pub purpose: String,
    /// What was found: a version, a kind, or why it does not work.
    pub found: Option<String>,
    /// What to do where it does not work.
    pub hint: Option<String>,
}

/// Why something did not happen, in words for people, fit to cross from one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{reason}")]
pub struct Explained {
    /// What failed and because of what: `cannot X: because Y`.
    pub reason: String,
    /// What the reader can do about it.
    pub hint: Option<String>,
}

impl Explained {
    /// From the whole chain of an error's sources, `: ` between them.
    #[must_use]
    pub fn from_chain(error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { reason, hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
