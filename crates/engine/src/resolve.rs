//! What only a person can know: whose the container of a migration in doubt is, when one of its nodes is lost for good.

use std::sync::Arc;

use drover_model::{MigrationId, MigrationState, Phase, Side};
use drover_protocol::{Mark, Verdict};

use crate::error::NodeError;
use crate::node::{Inner, Order};
use crate::receive::Word;

impl Inner {
    /// Does this node's part of what an operator says.
    pub(crate) async fn resolve(self: &Arc<Self>, id: &MigrationId, keeps: Side) -> Result<(), NodeError> {
        let verdict = match keeps {
            Side::Source => Verdict::Abort,
            Side::Target => Verdict::Commit,
        };
        if let Some((orders, state)) = self.leaving(id).filter(|(_, state)| state.report.is_none()) {
            if state.phase < Phase::Commit {
                return Err(not_in_doubt(id, "`drover migrate --cancel` ends it"));
            }
            return orders.send(Order::Resolve(verdict)).await.map_err(|_| ended(id));
        }
        let coming = self.arrivals().get(id).map(|coming| (coming.word.clone(), coming.state.borrow().clone()));
        if let Some((word, state)) = coming {
            if state.is_none_or(|state| state.phase < Phase::Commit) {
                return Err(not_in_doubt(id, "its source decides"));
            }
            return word.send(Word::Resolved(verdict)).await.map_err(|_| ended(id));
        }
        self.take_up_failed(id, verdict).await
    }

    /// A decided migration that ended without an answer: its container is still frozen here.
    async fn take_up_failed(self: &Arc<Self>, id: &MigrationId, verdict: Verdict) -> Result<(), NodeError> {
        let entry = self.journal().latest(id).cloned().ok_or_else(|| NodeError::no_migration(id))?;
        let container = self.registry.of_id(&entry.container);
        match container.filter(|_| entry.mark == Mark::Commit) {
            Some(container) => self.tell_commit(entry, container),
            None => return Err(not_in_doubt(id, "`drover migrations` shows how it ended")),
        }
        let (orders, _) = self.leaving(id).ok_or_else(|| ended(id))?;
        orders.send(Order::Resolve(verdict)).await.map_err(|_| ended(id))
    }

    /// Migrations towards this node whose source has yet to say how they end, or whose memory is still to come.
    pub(crate) fn coming_in_doubt(&self) -> Vec<MigrationState> {
        let arrivals = self.arrivals();
        let states = arrivals.values().filter_map(|coming| coming.state.borrow().clone());
        states.filter(|state| state.in_doubt).collect()
    }
}

fn not_in_doubt(id: &MigrationId, hint: &str) -> NodeError {
    NodeError::conflict(format!("cannot resolve migration {id}: it is not in doubt"), hint)
}

fn ended(id: &MigrationId) -> NodeError {
    NodeError::conflict(format!("cannot resolve migration {id}: it has ended"), "`drover migrations` shows how")
}
