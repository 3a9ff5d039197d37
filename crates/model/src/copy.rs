//! Copies of containers' files that stay on nodes which do not run them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, ContainerId, ContainerName, NodeName, UserName};

/// A copy of a container's files: when the container comes to this node, only what differs crosses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyRecord {
    /// The container.
    pub id: ContainerId,
    /// What it was called.
    pub name: ContainerName,
    /// The user who has the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserName>,
    /// Where the copy is.
    pub node: NodeName,
    /// Since when: RFC 3339, UTC.
    pub kept_at: String,
    /// For how many days from then.
    pub kept_days: u32,
    /// What it takes of the disk.
    pub bytes: Bytes,
}
