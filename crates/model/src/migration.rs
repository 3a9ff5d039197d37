//! A migration under way, as its users see it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, ContainerName, MigrationId, NodeName, Phase, Report, UserName};

/// A migration as the source node knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationState {
    /// Its identity.
    pub id: MigrationId,
    /// The container that moves.
    pub container: ContainerName,
    /// The user who has the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserName>,
    /// The node it leaves.
    pub from: NodeName,
    /// The node it goes to.
    pub to: NodeName,
    /// When it began: RFC 3339, UTC. An agent that was started again counts from then; empty from an older agent.
    #[serde(default)]
    pub began_at: String,
    /// Where it is.
    pub phase: Phase,
    /// Set while the decision is durable on the source but the target has not confirmed it: the container must
    /// not run on the source any more, and may or may not run on the target.
    pub in_doubt: bool,
    /// What keeps the target from confirming it, as the target said last.
    #[serde(default)]
    pub delayed: Option<String>,
    /// What has crossed so far.
    pub bytes_sent: Bytes,
    /// The outcome, once there is one.
    pub report: Option<Report>,
}
