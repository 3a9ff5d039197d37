//! Whose turn it is: the moves that wait on this node (`drover_protocol::Queue`), and the places for those that come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use drover_model::{MigrationState, MoveLimits, NodeName, Priority};
use drover_protocol::{Queue, Ticket};
use tokio::sync::{oneshot, watch};

use crate::clock::{instant, moment};
use crate::container::lock;

/// The moves away from this node.
#[derive(Debug)]
pub(crate) struct Turns {
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    queue: Queue,
    /// Who is to be told of its turn, and shown its place.
    moves: BTreeMap<Ticket, (oneshot::Sender<()>, watch::Sender<MigrationState>)>,
    closed: bool,
}

/// Becomes ready when it is a move's turn.
pub(crate) type Turn = oneshot::Receiver<()>;

/// A move's place among those that wait or are under way; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    turns: Arc<Turns>,
    ticket: Ticket,
}

impl Turns {
    pub fn new(limit: u32) -> Arc<Self> {
        let queue = Queue::new(usize::try_from(limit).unwrap_or(usize::MAX));
        Arc::new(Self { waiting: Mutex::new(Waiting { queue, moves: BTreeMap::new(), closed: false }) })
    }

    /// A move wants to go; its place in the queue is shown in `state`.
    pub fn enter(
        self: &Arc<Self>,
        priority: Priority,
        to: NodeName,
        state: watch::Sender<MigrationState>,
    ) -> (Slot, Turn) {
        let (tell, turn) = oneshot::channel();
        let ticket = {
            let mut waiting = lock(&self.waiting);
            let ticket = waiting.queue.enter(priority, to);
            waiting.moves.insert(ticket, (tell, state));
            ticket
        };
        self.go_on();
        (Slot { turns: Arc::clone(self), ticket }, turn)
    }

    /// How many are under way, and how many wait.
    pub fn count(&self) -> (u32, u32) {
        let waiting = lock(&self.waiting);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        (number(waiting.queue.under_way()), number(waiting.moves.len()))
    }

    /// Nobody's turn comes any more.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
    }

    /// Tells those whose turn it is, and shows the others their places.
    fn go_on(self: &Arc<Self>) {
        let mut waiting = lock(&self.waiting);
        let Waiting { queue, moves, closed } = &mut *waiting;
        while !*closed && let Some(ticket) = queue.turn(moment()) {
            let Some((tell, state)) = moves.remove(&ticket) else { continue };
            show(&state, None);
            // Who went away has left, or will.
            let _ = tell.send(());
        }
        for (place, ticket) in queue.order().into_iter().enumerate() {
            if let Some((_, state)) = moves.get(&ticket) {
                show(state, u32::try_from(place + 1).ok());
            }
        }
    }

    /// Goes on when a target may be asked again.
    fn go_on_later(self: &Arc<Self>) {
        let deadline = lock(&self.waiting).queue.deadline();
        let Some(deadline) = deadline else { return };
        let turns = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(instant(deadline)).await;
            turns.go_on();
        });
    }
}

fn show(state: &watch::Sender<MigrationState>, place: Option<u32>) {
    state.send_if_modified(|state| {
        let changed = state.queued != place;
        state.queued = place;
        changed
    });
}

impl Slot {
    /// The target has no room: it waits for another turn.
    pub fn busy(&self, state: watch::Sender<MigrationState>) -> Turn {
        let (tell, turn) = oneshot::channel();
        {
            let mut waiting = lock(&self.turns.waiting);
            waiting.queue.busy(self.ticket, moment());
            waiting.moves.insert(self.ticket, (tell, state));
        }
        self.turns.go_on();
        self.turns.go_on_later();
        turn
    }

    /// The target has room.
    pub fn granted(&self) {
        lock(&self.turns.waiting).queue.granted(self.ticket);
        self.turns.go_on();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut waiting = lock(&self.turns.waiting);
            waiting.queue.leave(self.ticket);
            waiting.moves.remove(&self.ticket);
        }
        self.turns.go_on();
    }
}

/// The places for moves towards this node.
#[derive(Debug)]
pub(crate) struct Places {
    limit: u32,
    taken: AtomicU32,
}

/// A place that is taken; given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken(Arc<Places>);

impl Places {
    pub fn new(limits: MoveLimits) -> Arc<Self> {
        Arc::new(Self { limit: limits.incoming.max(1), taken: AtomicU32::new(0) })
    }

    /// A place, if one is free.
    pub fn reserve(self: &Arc<Self>) -> Option<Taken> {
        let one_more = |taken: u32| (taken < self.limit).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok().then(|| Taken(Arc::clone(self)))
    }

    /// A place for a source that does not ask, free or not.
    pub fn take(self: &Arc<Self>) -> Taken {
        self.taken.fetch_add(1, Ordering::AcqRel);
        Taken(Arc::clone(self))
    }

    /// How many are taken.
    pub fn count(&self) -> u32 {
        self.taken.load(Ordering::Acquire)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_never_more_are_granted_than_there_are() {
        let places = Places::new(MoveLimits { outgoing: 1, incoming: 2 });
        let first = places.reserve();
        let second = places.reserve();
        assert!(first.is_some() && second.is_some() && places.reserve().is_none());
        // A source of an older version does not ask.
        let unasked = places.take();
        drop(first);
        assert_eq!((places.count(), places.reserve().is_none()), (2, true));
        drop(unasked);
        assert!(places.reserve().is_some());
    }
}
