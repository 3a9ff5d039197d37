//! From a request to a migration that is led: it waits for its turn, looks again, and asks the target for a place.

use std::sync::Arc;
use std::time::Duration;

use drover_api::MigrateRequest;
use drover_model::{
    ContainerState, Explained, MigrationId, MigrationState, Mode, NodeName, Priority, Settings, objection,
};
use drover_protocol::{Answer, Question, Source};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};

use crate::clock::moment;
use crate::container::{Container, lock};
use crate::error::NodeError;
use crate::lead::Lead;
use crate::link::{Link, Traffic};
use crate::node::{Inner, Order, Peer, blocking, fresh_id, now};
use crate::plan::prediction;
use crate::room::ask;
use crate::sharing::Flow;
use crate::turns::{Slot, Turn};

/// What the machine says of a move that somebody cancelled, too.
pub(crate) const CANCELLED: &str = "somebody cancelled it";
/// How long a move that the target does not confirm keeps others waiting: its agent may be down for days.
const DOUBT: Duration = Duration::from_secs(5);

/// A move that waits for its turn.
struct Departing {
    inner: Arc<Inner>,
    container: Arc<Container>,
    peer: Peer,
    id: MigrationId,
    settings: Settings,
    state: watch::Sender<MigrationState>,
    slot: Slot,
    traffic: Arc<Traffic>,
    flow: Arc<Flow>,
}

/// What a target says about a place.
enum Place {
    /// It is granted, on this link.
    Granted(Link),
    /// The target knows no such question, or has been asked nothing.
    Unknown,
    /// It has none now.
    Busy,
    /// It takes no container.
    Closed(Explained),
    /// It cannot be asked.
    Unreached(Explained),
}

impl Inner {
    /// Orders a move; it begins at once when it may.
    pub(crate) async fn migrate(self: &Arc<Self>, request: &MigrateRequest) -> Result<MigrationState, NodeError> {
        let container = self.registry.find(&request.container)?;
        let attempt = format!("cannot move container {}", container.name());
        let peer = self.destination(request, &attempt)?;
        self.refuse_queued(&container, &attempt)?;
        let operation = self.hold(&container).await?;
        // Another move may have been ordered while this waited.
        self.refuse_queued(&container, &attempt)?;
        refuse_resting(&container, &attempt)?;
        let (inner, own, settings) = (Arc::clone(self), Arc::clone(&container), request.settings);
        let findings = blocking(move || inner.look(&own, settings)).await;
        if let Some(why) = objection(&findings) {
            let reason = format!("{attempt}: {}", why.reason);
            return Err(NodeError::Failed(Explained { reason, hint: why.hint }));
        }
        let id = fresh_id::<8>().parse().map_err(|error| NodeError::failed(&attempt, &error))?;
        Ok(self.depart(container, peer, id, request, operation))
    }

    /// Where it shall go, if the request makes sense.
    pub(crate) fn destination(&self, request: &MigrateRequest, attempt: &str) -> Result<Peer, NodeError> {
        let own = &self.config.name;
        if request.to == *own {
            let reason = format!("{attempt} to {}: it is there already", request.to);
            return Err(NodeError::conflict(reason, "choose another node; `drover ps` shows where containers are"));
        }
        let peer = self.known_peer(&request.to, attempt)?;
        request.settings.check().map_err(|error| {
            NodeError::invalid(format!("{attempt}: {error}"), "leave one of them out; `drover migrate --help`")
        })?;
        Ok(peer)
    }

    /// The peer of this name, for this attempt.
    pub(crate) fn known_peer(&self, name: &NodeName, attempt: &str) -> Result<Peer, NodeError> {
        self.peer(name).ok_or_else(|| {
            let peers = self.config.peers();
            let known: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
            let reason = format!("{attempt}: node {} knows no node {name}", self.config.name);
            NodeError::not_found(reason, &format!("it knows: {}", known.join(", ")))
        })
    }

    fn refuse_queued(&self, container: &Container, attempt: &str) -> Result<(), NodeError> {
        let queued = self.move_of(&container.id).filter(|state| state.queued.is_some());
        let Some(queued) = queued else { return Ok(()) };
        let reason = format!("{attempt}: a move of it to {} waits for its turn already", queued.to);
        let hint = format!("`drover migrate --cancel {}` ends that one", queued.id);
        Err(NodeError::conflict(reason, &hint))
    }

    fn depart(
        self: &Arc<Self>,
        container: Arc<Container>,
        peer: Peer,
        id: MigrationId,
        request: &MigrateRequest,
        operation: OwnedMutexGuard<()>,
    ) -> MigrationState {
        let state = self.new_state(&container, &peer, id.clone(), now(), request.priority);
        let (sender, orders) = self.remember(container.id.clone(), state);
        let (slot, mut turn) = self.turns.enter(request.priority, peer.name.clone(), sender.clone());
        let state = sender.borrow().clone();
        if let Some(place) = state.queued {
            tracing::info!(migration = %id, container = %state.container, place, "migration waits for its turn");
        }
        // Whoever waits holds nothing.
        let held = turn.try_recv().is_ok().then_some(operation);
        let flow = self.sharing.join(request.priority);
        let (inner, settings, traffic) = (Arc::clone(self), request.settings, Arc::default());
        let departing = Departing { inner, container, peer, id, settings, state: sender, slot, traffic, flow };
        tokio::spawn(departing.run(turn, held, orders));
        state
    }

    /// A migration of which nothing was done yet.
    pub(crate) fn new_state(
        &self,
        container: &Container,
        peer: &Peer,
        id: MigrationId,
        began_at: String,
        priority: Priority,
    ) -> MigrationState {
        let (from, to) = (self.config.name.clone(), peer.name.clone());
        MigrationState {
            priority,
            ..MigrationState::begun(id, container.name(), container.spec().owner, from, to, began_at)
        }
    }
}

/// A container that does not run cannot be moved.
pub(crate) fn refuse_resting(container: &Container, attempt: &str) -> Result<(), NodeError> {
    if container.stored().stopped && container.state() == ContainerState::Running {
        return Err(NodeError::conflict(format!("{attempt}: it is being stopped"), "start it again first"));
    }
    if container.state() != ContainerState::Running {
        let waits = "it waits for a volume: `drover volume ls` shows which one is lost";
        let hint = if container.awaits().is_empty() { "start it first" } else { waits };
        return Err(NodeError::conflict(format!("{attempt}: it is {}", container.state()), hint));
    }
    Ok(())
}

impl Departing {
    /// Waits, begins, and leads to the end.
    async fn run(self, mut turn: Turn, mut held: Option<OwnedMutexGuard<()>>, mut orders: mpsc::Receiver<Order>) {
        let (operation, reserved) = loop {
            if held.is_none() {
                tokio::select! {
                    // It is never dropped without having been told but when the agent goes away.
                    _ = &mut turn => {}
                    Some(_) = orders.recv() => return self.stay(cancelled()),
                }
            }
            let operation = match self.take(held.take()).await {
                Ok(operation) => operation,
                Err(why) => return self.stay(why),
            };
            let place = tokio::select! {
                place = self.reserve() => place,
                Some(_) = orders.recv() => return self.stay(cancelled()),
            };
            match place {
                Place::Granted(link) => break (operation, Some(Ok(link))),
                Place::Unknown => break (operation, None),
                // The machine hears of it, and has its words for it.
                Place::Unreached(why) => break (operation, Some(Err(why))),
                Place::Closed(why) => return self.stay(why),
                Place::Busy => {
                    drop(operation);
                    turn = self.slot.busy(self.state.clone());
                }
            }
        };
        self.slot.granted();
        self.lead(operation, reserved, orders).await;
    }

    /// Takes the container, if it may still be moved.
    async fn take(&self, held: Option<OwnedMutexGuard<()>>) -> Result<OwnedMutexGuard<()>, Explained> {
        if let Some(held) = held {
            return Ok(held);
        }
        let attempt = format!("cannot move container {}", self.container.name());
        let held = self.inner.hold(&self.container).await.map_err(|error| error.explained().clone())?;
        refuse_resting(&self.container, &attempt).map_err(|error| error.explained().clone())?;
        // It was looked at when the move was ordered, and has run since.
        let (inner, own, settings) = (Arc::clone(&self.inner), Arc::clone(&self.container), self.settings);
        let findings = blocking(move || inner.look(&own, settings)).await;
        objection(&findings).map_or(Ok(held), Err)
    }

    /// Asks the target for a place.
    async fn reserve(&self) -> Place {
        // It waits for its memory first, and the target need not keep a place for that.
        if self.container.follows().is_some() {
            return Place::Unknown;
        }
        let connection = match self.inner.connect(&self.peer).await {
            Ok(connection) => connection,
            Err(why) => return Place::Unreached(why),
        };
        let (traffic, flow) = (Arc::clone(&self.traffic), Arc::clone(&self.flow));
        let mut link = Link::shared(connection, traffic, self.settings.bandwidth, Some(flow));
        match ask(&mut link, &Question::Reserve { migration: self.id.clone() }).await {
            Some(Answer::Granted) => Place::Granted(link),
            Some(Answer::Busy) => Place::Busy,
            Some(Answer::Closed(why)) => Place::Closed(why),
            Some(Answer::Room(_) | Answer::Checked { .. } | Answer::Weighed) | None => Place::Unknown,
        }
    }

    async fn lead(
        self,
        operation: OwnedMutexGuard<()>,
        reserved: Option<Result<Link, Explained>>,
        orders: mpsc::Receiver<Order>,
    ) {
        self.state.send_modify(|state| state.began_at = now());
        let (owner, own, to) = (Arc::clone(&self.inner), Arc::clone(&self.container), self.peer.name.clone());
        let wishes = (self.id.clone(), self.settings);
        let (offer, tokens) = match blocking(move || owner.offer(&own, &to, wishes)).await {
            Ok(offered) => offered,
            Err(why) => return self.stay(why),
        };
        let Self { inner, container, peer, id, settings, state, slot, traffic, flow } = self;
        let (fixed, predicted) = {
            let experience = lock(&inner.experience);
            let foreseen = experience.foresee(&container.id, &peer.name, &settings);
            (experience.fixed_part(&container.id), foreseen.map(|(forecast, _)| prediction(&forecast)))
        };
        let machine = Source::new(moment(), inner.config.name.clone(), peer.name.clone(), offer, fixed);
        tokio::spawn(give_back(slot, state.subscribe()));
        let lead = Lead { inner, container, peer, id, state, orders, traffic, flow, reserved, tokens, predicted };
        lead.run(machine, operation).await;
    }

    /// It has come to nothing before anything was done.
    fn stay(self, why: Explained) {
        let before = self.state.borrow().clone();
        let mode = if self.settings.mode == Mode::Auto { Mode::PreCopy } else { self.settings.mode };
        let report = before.undone(mode, why);
        tracing::info!(
            migration = %report.id, container = %report.container, reason = %report.reason, "migration did not begin"
        );
        // Its place first: whoever hears of its end may count those that wait.
        drop(self.slot);
        self.state.send_modify(|state| {
            state.queued = None;
            state.report = Some(report);
        });
    }
}

/// Gives a move's place to the next one when it has ended, or when nothing but the target's word is missing.
async fn give_back(slot: Slot, mut state: watch::Receiver<MigrationState>) {
    let _ = state.wait_for(|state| state.report.is_some() || state.in_doubt).await;
    let ended = state.wait_for(|state| state.report.is_some());
    let _ = tokio::time::timeout(DOUBT, ended).await;
    drop(slot);
}

fn cancelled() -> Explained {
    Explained { reason: CANCELLED.to_owned(), hint: None }
}
