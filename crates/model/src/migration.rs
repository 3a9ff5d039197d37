//! A migration under way, as its users see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Bytes, ContainerName, Explained, MigrationId, Mode, NodeName, Outcome, PackedPages, Phase, Priority, Report,
    UserName,
};

impl MigrationState {
    /// The report of one that was undone before anything came of it, or of which nothing else is known.
    #[must_use]
    pub fn undone(&self, mode: Mode, why: Explained) -> Report {
        Report {
            id: self.id.clone(),
            container: self.container.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            outcome: Outcome::RolledBack,
            downtime_ms: Some(0.0),
            total_ms: 0.0,
            phases: BTreeMap::new(),
            rounds: Vec::new(),
            bytes_sent: Bytes(0),
            bytes_memory: Bytes(0),
            bytes_disk: Bytes(0),
            bytes_image: Bytes(0),
            packed: PackedPages::default(),
            mode,
            exposure_ms: None,
            files_frozen_ms: None,
            predicted: None,
            reason: why.reason,
            hint: why.hint,
        }
    }

    /// One that begins, at that time (RFC 3339, UTC), and of which nothing was done yet.
    #[must_use]
    pub fn begun(
        id: MigrationId,
        container: ContainerName,
        owner: Option<UserName>,
        from: NodeName,
        to: NodeName,
        began_at: String,
    ) -> Self {
        Self {
            id,
            container,
            owner,
            from,
            to,
            began_at,
            priority: Priority::default(),
            queued: None,
            phase: Phase::Prepare,
            in_doubt: false,
            delayed: None,
            bytes_sent: Bytes(0),
            report: None,
        }
    }
}

/// One of the two nodes of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The node that the container leaves.
    Source,
    /// The node that it goes to.
    Target,
}

/// A migration as the source node knows it; while it is in doubt, as the target does.
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
    /// Which moves it goes before.
    #[serde(default)]
    pub priority: Priority,
    /// While it waits for its turn: its place in the queue of its source, 1 for the next. Nothing was done yet, and the
    /// container may be used.
    #[serde(default)]
    pub queued: Option<u32>,
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
