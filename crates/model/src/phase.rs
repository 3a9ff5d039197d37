//! The eight phases of a migration, in order: the only phase words anywhere in Drover.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a migration is. Phases never run backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The target checks features and room, gets the image, and makes network, cgroup and root ready.
    Prepare,
    /// Rounds of memory and files cross while the container runs.
    Copy,
    /// The container is frozen and its network gate closed. Downtime begins.
    Freeze,
    /// CRIU dumps the processes.
    Checkpoint,
    /// The last pages, the last file changes and the checkpoint images cross.
    Transfer,
    /// CRIU restores on the target; the processes stay frozen and the network gate closed.
    Restore,
    /// Both sides journal the decision; the target thaws and announces its address. Downtime ends.
    Commit,
    /// What is left over is pushed; the source is destroyed.
    Settle,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Phase; 8] = [
        Phase::Prepare,
        Phase::Copy,
        Phase::Freeze,
        Phase::Checkpoint,
        Phase::Transfer,
        Phase::Restore,
        Phase::Commit,
        Phase::Settle,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Copy => "copy",
            Phase::Freeze => "freeze",
            Phase::Checkpoint => "checkpoint",
            Phase::Transfer => "transfer",
            Phase::Restore => "restore",
            Phase::Commit => "commit",
            Phase::Settle => "settle",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
