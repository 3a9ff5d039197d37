//! The moves of a drain: what runs on a node goes to others until nothing is left that was not tried.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use drover_api::{DrainRequest, MigrateRequest};
use drover_model::{ContainerId, DrainMove, DrainState, Explained, MigrationId, NodeName, Outcome, Report};
use drover_protocol::NodeRoom;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::container::Container;
use crate::depart::CANCELLED;
use crate::node::{Inner, Peer, blocking};
use crate::room::ask_room;
use crate::spread::{Candidate, Choice, spread};

/// The pause between two looks at whether containers that were on their way to here have arrived.
const LOOK: Duration = Duration::from_millis(200);
/// How long they are waited for: one whose source is down may not come for days.
const ARRIVALS: Duration = Duration::from_secs(60);

/// One drain.
#[derive(Debug, Clone)]
pub(crate) struct Emptying {
    pub inner: Arc<Inner>,
    pub request: DrainRequest,
    pub peers: Vec<Peer>,
    pub state: watch::Sender<DrainState>,
}

impl Emptying {
    /// Orders moves until nothing runs that was not tried.
    pub async fn run(self) {
        tracing::info!(to = ?self.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), "drain begins");
        let mut tried = BTreeSet::new();
        let mut waited = Duration::ZERO;
        while !self.state.borrow().cancelled {
            let all = self.inner.registry.all().into_iter();
            let mut left: Vec<_> = all.filter(|container| container.runs() && !tried.contains(&container.id)).collect();
            left.sort_by_key(|container| container.name());
            if !left.is_empty() {
                tried.extend(left.iter().map(|container| container.id.clone()));
                self.empty(left).await;
                waited = Duration::ZERO;
            } else if self.inner.places.count() > 0 && waited < ARRIVALS {
                // What is on its way to here was granted a place before, and goes on from here when it has come.
                tokio::time::sleep(LOOK).await;
                waited += LOOK;
            } else {
                break;
            }
        }
        self.state.send_modify(|state| state.ended = true);
        let state = self.state.borrow().clone();
        tracing::info!(moved = state.moved(), stayed = state.stayed(), "drain ended");
    }

    /// Moves these, as many at a time as may.
    async fn empty(&self, containers: Vec<Arc<Container>>) {
        let (candidates, closed) = self.candidates().await;
        let own: Vec<_> = containers.iter().map(Arc::clone).collect();
        let size = |container: &Arc<Container>| container.cgroup.stats().map_or(0, |usage| usage.memory);
        let sizes: Vec<u64> = blocking(move || own.iter().map(size).collect()).await;
        let choices = spread(&sizes, candidates);
        let rows = containers.iter().zip(&choices).map(|(container, choice)| row(container, choice));
        self.state.send_modify(|state| state.moves.extend(rows));
        let most = self.request.parallel.map_or(Semaphore::MAX_PERMITS, |most| most as usize);
        let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let mut moves = JoinSet::new();
        for (container, mut choice) in containers.into_iter().zip(choices) {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            if choice.nodes.is_empty() {
                let others = closed.values().map(|why| why.reason.clone());
                let reason = others.chain([choice.why]).collect::<Vec<_>>().join("; ");
                self.stays(&container, Explained { reason, hint: Some("free a node, or add one".into()) });
                continue;
            }
            // One after the other: the queue of the node keeps this order.
            let ordered = self.order(&container, choice.nodes.remove(0)).await;
            let own = self.clone();
            moves.spawn(async move {
                own.follow(container, choice.nodes, ordered).await;
                drop(permit);
            });
        }
        while moves.join_next().await.is_some() {}
    }

    /// Orders a move, or takes up the one that is under way; why there can be none.
    async fn order(&self, container: &Container, to: NodeName) -> Result<MigrationId, Explained> {
        let state = match self.inner.move_of(&container.id) {
            Some(state) => state,
            None if self.state.borrow().cancelled => return Err(cancelled()),
            None => {
                let (settings, priority) = (self.request.settings, self.request.priority);
                let request = MigrateRequest { container: container.id.to_string(), to, settings, priority };
                self.inner.migrate(&request).await.map_err(|error| error.explained().clone())?
            }
        };
        self.note(&container.id, |row| (row.migration, row.to) = (Some(state.id.clone()), Some(state.to.clone())));
        Ok(state.id)
    }

    /// Follows a container's move; one that was given up is tried towards the other nodes that have room.
    async fn follow(&self, container: Arc<Container>, nodes: Vec<NodeName>, first: Result<MigrationId, Explained>) {
        let (mut ordered, mut nodes) = (first, nodes.into_iter());
        loop {
            let id = match ordered {
                Ok(id) => id,
                Err(why) => return self.stays(&container, why),
            };
            let Some(report) = self.report(&id).await else {
                return self.stays(&container, Explained { reason: "its move was forgotten".into(), hint: None });
            };
            if report.outcome == Outcome::Moved {
                return self.note(&container.id, |row| {
                    (row.outcome, row.downtime_ms) = (Some(report.outcome), report.downtime_ms);
                    row.total_ms = Some(report.total_ms);
                });
            }
            let given_up = report.outcome == Outcome::RolledBack && report.reason != CANCELLED;
            ordered = match nodes.next().filter(|_| given_up && container.runs()) {
                Some(to) => self.order(&container, to).await,
                None => return self.stays(&container, Explained { reason: report.reason, hint: report.hint }),
            };
        }
    }

    /// Waits for the end of a migration.
    async fn report(&self, id: &MigrationId) -> Option<Report> {
        let mut state = self.inner.migration(id).ok()?;
        let ended = state.wait_for(|state| state.report.is_some()).await.ok()?;
        ended.report.clone()
    }

    /// A container has not left.
    fn stays(&self, container: &Container, why: Explained) {
        let ended = self.inner.registry.of_id(&container.id).is_none() || !container.runs();
        let why = match self.state.borrow().cancelled && why.reason == CANCELLED {
            true => cancelled(),
            false => why,
        };
        self.note(&container.id, |row| {
            // Somebody else has ended or removed it: it is not in the way.
            row.outcome = (!ended).then_some(Outcome::RolledBack);
            row.reason = Some(if ended { "it has ended meanwhile".into() } else { why.reason });
            row.hint = why.hint.filter(|_| !ended);
        });
    }

    fn note(&self, id: &ContainerId, change: impl FnOnce(&mut DrainMove)) {
        self.state.send_modify(|state| {
            if let Some(row) = state.moves.iter_mut().find(|row| row.id == *id) {
                change(row);
            }
        });
    }

    /// The nodes that take containers, and why others do not.
    async fn candidates(&self) -> (Vec<Candidate>, BTreeMap<NodeName, Explained>) {
        let mut questions = JoinSet::new();
        for peer in self.peers.clone() {
            let inner = Arc::clone(&self.inner);
            questions.spawn(async move { (peer.name.clone(), ask_room(&inner, &peer).await) });
        }
        let (mut candidates, mut closed) = (Vec::new(), BTreeMap::new());
        for (name, room) in questions.join_all().await {
            match room {
                Ok(Some(NodeRoom { running, memory, .. })) => {
                    candidates.push(Candidate { name, running: running.into(), memory: memory.0 });
                }
                // Nobody knows how much room it has: it comes last, and says itself whether it has enough.
                Ok(None) => candidates.push(Candidate { name, running: u64::from(u32::MAX), memory: u64::MAX }),
                Err(why) => drop(closed.insert(name, why)),
            }
        }
        (candidates, closed)
    }
}

fn cancelled() -> Explained {
    let hint = "`drover node drain` orders it again".to_owned();
    Explained { reason: "the drain was ended before its turn".into(), hint: Some(hint) }
}

fn row(container: &Container, choice: &Choice) -> DrainMove {
    DrainMove {
        container: container.name(),
        id: container.id.clone(),
        to: choice.nodes.first().cloned(),
        why: choice.why.clone(),
        migration: None,
        outcome: None,
        downtime_ms: None,
        total_ms: None,
        reason: None,
        hint: None,
    }
}
