//! Telling a target that a migration was given up which a stopped agent left behind.
//!
//! The container has been thawed here, and may have moved elsewhere since: this concerns only what the target may hold.

use std::sync::Arc;
use std::time::Duration;

use drover_model::{Explained, MigrationState, Mode, NodeName, Report};
use drover_protocol::{ToSource, ToTarget, Verdict, decode, encode, ends_recall};

use crate::journal::{Entry, Mark};
use crate::link::{Link, PATIENCE};
use crate::node::{Inner, Peer, since};

/// The pauses between attempts; they double.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the target may take to discard what it holds.
const DISCARDING: Duration = Duration::from_secs(60);

/// Tells the target, however long that takes, and then closes the entry.
pub(crate) async fn recall(inner: Arc<Inner>, entry: Entry) {
    let Some(peer) = inner.peer(&entry.peer) else {
        tracing::error!(migration = %entry.migration, peer = %entry.peer, "the target is no longer a peer");
        return;
    };
    let mut closing = inner.closing.subscribe();
    let mut pause = FIRST_PAUSE;
    while !tell(&inner, &peer, &entry).await {
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            _ = closing.changed() => return,
        }
    }
    tracing::info!(migration = %entry.migration, target = %peer.name, "an interrupted migration is rolled back");
    if let Err(error) = inner.journal().append(Entry { mark: Mark::Aborted, ..entry }) {
        tracing::warn!(%error, "rollback is not in the journal");
    }
}

/// Whether the target has heard it, and need not be told again.
async fn tell(inner: &Inner, peer: &Peer, entry: &Entry) -> bool {
    let Ok(connection) = inner.connect(peer).await else { return false };
    let mut link = Link::new(connection, Arc::default());
    let resume = ToTarget::Resume { migration: entry.migration.clone(), verdict: Verdict::Abort };
    if !link.send(encode(&resume), PATIENCE).await {
        return false;
    }
    let answer = tokio::time::timeout(DISCARDING, link.receive()).await;
    let answer = answer.ok().flatten().and_then(|payload| decode(&payload).ok());
    if answer == Some(ToSource::Committed) {
        tracing::error!(migration = %entry.migration, target = %peer.name, "the container runs on the target, too");
    }
    answer.is_some_and(|answer| ends_recall(&answer))
}

impl Inner {
    /// Lists a migration that a stopped agent left undecided: its user may be waiting to hear of it. What is known of it is in
    /// the journal alone. One of a container that is gone since has nobody left who would ask.
    pub(crate) fn report_undone(&self, entry: &Entry) {
        let Some(container) = self.registry.of_id(&entry.container) else { return };
        let Some(began_at) = entry.began_at.clone() else { return };
        let (from, to, id) = (self.config.name.clone(), entry.peer.clone(), entry.migration.clone());
        let total = since(&began_at);
        let begun = MigrationState::begun(id, container.name(), container.spec().owner, from, to, began_at);
        let reason = format!("the agent of {} was restarted before it was decided", begun.from);
        let why = Explained { reason, hint: None };
        let ms = total.as_secs_f64() * 1e3;
        let report = Report { downtime_ms: None, total_ms: ms.round(), ..begun.undone(Mode::Auto, why) };
        drop(self.remember(container.id.clone(), MigrationState { report: Some(report), ..begun }));
    }

    pub(crate) fn peer(&self, name: &NodeName) -> Option<Peer> {
        self.config.peers().iter().find(|peer| &peer.name == name).cloned()
    }
}
