//! Whether a container can be moved, asked of both nodes before anything is done.

use std::sync::Arc;
use std::time::Instant;

use drover_api::MigrateRequest;
use drover_model::{Check, Explained, Finding, Severity, TargetRoom};
use drover_protocol::{Answer, Offer, Question};
use tokio::sync::OwnedMutexGuard;

use crate::container::Container;
use crate::depart::refuse_resting;
use crate::error::NodeError;
use crate::link::Link;
use crate::node::{Inner, Peer, blocking, fresh_id};
use crate::room::ask;

/// What was checked, which nobody else moves meanwhile.
#[derive(Debug)]
pub(crate) struct Checked {
    pub check: Check,
    pub container: Arc<Container>,
    pub peer: Peer,
    /// What would be offered.
    pub offer: Offer,
    /// What the target says of its room, if it does.
    pub room: Option<TargetRoom>,
    pub operation: OwnedMutexGuard<()>,
}

impl Inner {
    /// Looks at the container, and has the target look at what it would be offered. Nothing is changed.
    pub(crate) async fn check(self: &Arc<Self>, request: &MigrateRequest) -> Result<Check, NodeError> {
        self.check_held(request).await.map(|checked| checked.check)
    }

    /// The same, with what it rests on.
    pub(crate) async fn check_held(self: &Arc<Self>, request: &MigrateRequest) -> Result<Checked, NodeError> {
        let begun = Instant::now();
        let container = self.registry.find(&request.container)?;
        let attempt = format!("cannot check container {}", container.name());
        let peer = self.destination(request, &attempt)?;
        // A move that is under way traces it, and holds what is looked at.
        let operation = self.hold(&container).await?;
        refuse_resting(&container, &attempt)?;
        let migration = fresh_id::<8>().parse().map_err(|error| NodeError::failed(&attempt, &error))?;
        let (inner, own, settings) = (Arc::clone(self), Arc::clone(&container), request.settings);
        let (mut findings, candidate) =
            blocking(move || (inner.look(&own, settings), inner.candidate(&own, migration, settings))).await;
        let offer = candidate.map_err(|why| {
            NodeError::Failed(Explained { reason: format!("{attempt}: {}", why.reason), hint: why.hint })
        })?;
        let (theirs, room) = self.have_checked(&peer, Question::Check(Box::new(offer.clone()))).await;
        findings.extend(theirs);
        // What blocks comes first, and the order is otherwise kept.
        findings.sort_by_key(|finding| finding.severity);
        let took_ms = begun.elapsed().as_secs_f64() * 1e3;
        let (name, from, to) = (container.name(), self.config.name.clone(), peer.name.clone());
        let check = Check { container: name, from, to, findings, took_ms };
        Ok(Checked { check, container, peer, offer, room, operation })
    }

    async fn have_checked(&self, peer: &Peer, question: Question) -> (Vec<Finding>, Option<TargetRoom>) {
        let connection = match self.connect(peer).await {
            Ok(connection) => connection,
            Err(why) => return (vec![Finding::general(Severity::Blocks, "unreachable", why)], None),
        };
        let mut link = Link::new(connection, Arc::default());
        let answer = ask(&mut link, &question).await;
        link.close().await;
        if let Some(Answer::Checked { findings, room }) = answer {
            return (findings, room);
        }
        let reason = format!("node {} does not answer what is asked of it before a move", peer.name);
        let hint = Some("an older agent there looks at the container when it is moved: bring it up to date".to_owned());
        (vec![Finding::general(Severity::Warns, "unknown", Explained { reason, hint })], None)
    }
}
