//! A volume: files that outlive the containers which use them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ContainerName, NodeName, VolumeName};

/// Where a volume's files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// On the node, in a directory of Drover's own; they travel with the container that uses them.
    #[default]
    Local,
}

impl Driver {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Local];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|driver| driver.as_str() == text);
        known.ok_or_else(|| format!("use {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// A volume as it was declared on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// Where its files are.
    pub driver: Driver,
    /// When it was made here: RFC 3339, UTC.
    pub created_at: String,
}

/// A volume as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeRecord {
    /// What was declared.
    #[serde(flatten)]
    pub spec: VolumeSpec,
    /// The node that answers.
    pub node: NodeName,
    /// The containers on this node that use it, whether they run or not.
    pub used_by: Vec<ContainerName>,
    /// Where its files are on the node; absent: nowhere just now.
    pub path: Option<String>,
}
