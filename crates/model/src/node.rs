//! A node, and an explanation that is sent between machines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::NodeName;

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
