//! A node that is being emptied.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ContainerId, ContainerName, MigrationId, NodeName, Outcome};

/// How a drain stands: a node takes nothing new, and what runs on it moves to others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrainState {
    /// The node.
    pub node: NodeName,
    /// Since when it takes nothing new: RFC 3339, UTC. It stays so when all have left, until somebody ends it.
    pub since: String,
    /// Whether all moves have ended that were ordered.
    pub ended: bool,
    /// Whether somebody wished that no further move begins.
    pub cancelled: bool,
    /// What ran there, in the order of the moves.
    pub moves: Vec<DrainMove>,
}

impl DrainState {
    /// How many have left.
    #[must_use]
    pub fn moved(&self) -> usize {
        self.moves.iter().filter(|one| one.outcome == Some(Outcome::Moved)).count()
    }

    /// How many stay, as far as is known.
    #[must_use]
    pub fn stayed(&self) -> usize {
        self.moves.iter().filter(|one| one.outcome.is_some_and(|outcome| outcome != Outcome::Moved)).count()
    }
}

/// One container of a node that is being emptied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrainMove {
    /// The container's name.
    pub container: ContainerName,
    /// Its id.
    pub id: ContainerId,
    /// Where it goes, or went; absent: nowhere.
    pub to: Option<NodeName>,
    /// Why there.
    pub why: String,
    /// The migration, once it was ordered; with several attempts the last one.
    pub migration: Option<MigrationId>,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// How long the container stood still, in milliseconds.
    pub downtime_ms: Option<f64>,
    /// How long the move took, in milliseconds, without its time in the queue.
    pub total_ms: Option<f64>,
    /// Why it stays.
    pub reason: Option<String>,
    /// What can be done about it.
    pub hint: Option<String>,
}
