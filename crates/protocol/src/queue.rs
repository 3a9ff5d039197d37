//! The moves of one node that wait for their turn: pure, all times are arguments.
//!
//! So many may be under way at one time. Of those that wait the one goes next that has the highest priority, and of these the
//! oldest. A target that has no room keeps those that go there waiting, and nobody else: they keep their places, and it is
//! asked again after a pause. Who waits for a target holds nothing, so two nodes that move to each other cannot wait for
//! each other for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use drover_model::{Moment, NodeName, Priority};

/// The pauses before a target is asked again that had no room; they double.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A move's place; smaller ones are older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Debug, Clone)]
struct Entry {
    priority: Priority,
    to: NodeName,
    /// Whether it is under way, or about to be.
    goes: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Moment,
    length: Duration,
}

/// The queue.
#[derive(Debug, Clone)]
pub struct Queue {
    limit: usize,
    entries: BTreeMap<Ticket, Entry>,
    pauses: BTreeMap<NodeName, Pause>,
    next: u64,
}

impl Queue {
    /// A queue that lets so many go at one time, and at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), entries: BTreeMap::new(), pauses: BTreeMap::new(), next: 0 }
    }

    /// A move wants to go.
    pub fn enter(&mut self, priority: Priority, to: NodeName) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.entries.insert(ticket, Entry { priority, to, goes: false });
        ticket
    }

    /// Whose turn it is, if anybody's: its target is to be asked. Called until it says that there is nobody.
    pub fn turn(&mut self, now: Moment) -> Option<Ticket> {
        if self.under_way() >= self.limit {
            return None;
        }
        let ticket = self.order().into_iter().find(|ticket| !self.is_paused(&self.entries[ticket].to, now))?;
        self.entries.get_mut(&ticket)?.goes = true;
        Some(ticket)
    }

    /// The target has no room for it: it waits on, with its place.
    pub fn busy(&mut self, ticket: Ticket, now: Moment) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        entry.goes = false;
        let length = match self.pauses.get(&entry.to) {
            // Somebody else has asked meanwhile: that is no news.
            Some(pause) if pause.until > now => return,
            Some(pause) => (pause.length * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        self.pauses.insert(entry.to.clone(), Pause { until: now.after(length), length });
    }

    /// The target has room for it.
    pub fn granted(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get(&ticket) {
            self.pauses.remove(&entry.to);
        }
    }

    /// It has ended, or does not want to go any more.
    pub fn leave(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.remove(&ticket)
            && entry.goes
        {
            // Its target has room again, as far as anybody knows here.
            self.pauses.remove(&entry.to);
        }
    }

    /// Those that wait, the next first.
    #[must_use]
    pub fn order(&self) -> Vec<Ticket> {
        let waiting = self.entries.iter().filter(|(_, entry)| !entry.goes);
        let mut waiting: Vec<_> = waiting.map(|(ticket, entry)| (std::cmp::Reverse(entry.priority), *ticket)).collect();
        waiting.sort();
        waiting.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// How many are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.entries.values().filter(|entry| entry.goes).count()
    }

    /// When `turn` may say something else although nothing has happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        if self.under_way() >= self.limit {
            return None;
        }
        let waiting = self.entries.values().filter(|entry| !entry.goes);
        waiting.filter_map(|entry| self.pauses.get(&entry.to)).map(|pause| pause.until).min()
    }

    fn is_paused(&self, to: &NodeName, now: Moment) -> bool {
        self.pauses.get(to).is_some_and(|pause| pause.until > now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: u8) -> NodeName {
        format!("n{number}").parse().unwrap()
    }

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn the_highest_priority_goes_first_and_of_these_the_oldest() {
        let mut queue = Queue::new(1);
        let going = queue.enter(Priority::Normal, node(2));
        assert_eq!(queue.turn(at(0)), Some(going));
        let [low, normal, high, other] = [Priority::Low, Priority::Normal, Priority::High, Priority::Normal]
            .map(|priority| queue.enter(priority, node(2)));
        assert_eq!(queue.turn(at(0)), None, "one is under way");
        assert_eq!(queue.order(), [high, normal, other, low]);
        let mut went = Vec::new();
        queue.leave(going);
        while let Some(ticket) = queue.turn(at(1)) {
            went.push(ticket);
            queue.leave(ticket);
        }
        assert_eq!(went, [high, normal, other, low]);
    }

    #[test]
    fn who_waits_for_a_target_without_room_keeps_its_place_and_nobody_else_waiting() {
        let mut queue = Queue::new(1);
        let [first, second] = [0, 0].map(|_| queue.enter(Priority::Normal, node(2)));
        let elsewhere = queue.enter(Priority::Low, node(3));
        assert_eq!(queue.turn(at(0)), Some(first));
        queue.busy(first, at(0));
        assert_eq!(queue.turn(at(0)), Some(elsewhere));
        queue.leave(elsewhere);
        assert_eq!((queue.turn(at(99)), queue.deadline()), (None, Some(at(100))));
        assert_eq!(queue.turn(at(100)), Some(first));
        queue.busy(first, at(100));
        assert_eq!(queue.deadline(), Some(at(300)), "it is asked less and less often");
        assert_eq!(queue.turn(at(300)), Some(first));
        queue.granted(first);
        queue.leave(first);
        assert_eq!(queue.turn(at(300)), Some(second), "what is over makes room");
    }

    /// Two nodes, each with one place in each direction, that move everything to each other.
    #[test]
    fn nodes_that_move_to_each_other_come_to_an_end() {
        const MOVES: usize = 10;
        let mut queues = [Queue::new(1), Queue::new(1)];
        for (number, queue) in queues.iter_mut().enumerate() {
            for _ in 0..MOVES {
                queue.enter(Priority::Normal, node(2 - number as u8));
            }
        }
        let (mut going, mut left) = ([None, None], 2 * MOVES);
        for ms in 0..100_000 {
            let now = at(ms);
            for here in [0, 1] {
                // A move takes 50 ms and its target's one place.
                if let Some((ticket, since)) = going[here]
                    && ms >= since + 50
                {
                    queues[here].leave(ticket);
                    (going[here], left) = (None, left - 1);
                }
                while let Some(ticket) = queues[here].turn(now) {
                    match going[here] {
                        None => {
                            queues[here].granted(ticket);
                            going[here] = Some((ticket, ms));
                        }
                        Some(_) => queues[here].busy(ticket, now),
                    }
                }
            }
        }
        assert_eq!(left, 0);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Enter(Priority, u8),
        Turn,
        Busy(usize),
        Leave(usize),
        Pass(u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
        let event = prop_oneof![
            (priority, 2..5_u8).prop_map(|(priority, to)| Event::Enter(priority, to)),
            Just(Event::Turn),
            (0..8_usize).prop_map(Event::Busy),
            (0..8_usize).prop_map(Event::Leave),
            (0..2000_u64).prop_map(Event::Pass),
        ];
        proptest::collection::vec(event, 0..200)
    }

    proptest! {
        #[test]
        fn the_limit_holds_the_order_holds_and_in_the_end_all_have_gone(limit in 1..5_usize, events in events()) {
            let mut queue = Queue::new(limit);
            let (mut going, mut ms) = (Vec::<Ticket>::new(), 0);
            for event in events {
                match event {
                    Event::Enter(priority, to) => {
                        queue.enter(priority, node(to));
                    }
                    Event::Turn => {
                        let before = queue.order();
                        let priorities = queue.entries.clone();
                        if let Some(ticket) = queue.turn(at(ms)) {
                            // Nobody was passed over but for the sake of a target without room.
                            let passed = before.iter().take_while(|other| **other != ticket);
                            for other in passed {
                                prop_assert!(queue.is_paused(&priorities[other].to, at(ms)));
                            }
                            going.push(ticket);
                        }
                    }
                    Event::Busy(index) if index < going.len() => queue.busy(going.remove(index), at(ms)),
                    Event::Leave(index) if index < going.len() => queue.leave(going.remove(index)),
                    Event::Busy(_) | Event::Leave(_) => {}
                    Event::Pass(pause) => ms += pause,
                }
                prop_assert!(queue.under_way() <= limit);
                prop_assert_eq!(queue.under_way(), going.len());
                if queue.under_way() < limit && !queue.order().is_empty() && queue.clone().turn(at(ms)).is_none() {
                    prop_assert!(queue.deadline().is_some_and(|deadline| deadline > at(ms)), "nobody will ask again");
                }
            }
            going.into_iter().for_each(|ticket| queue.leave(ticket));
            for _ in 0..queue.order().len() {
                ms += 2000;
                let ticket = queue.turn(at(ms));
                prop_assert!(ticket.is_some());
                queue.leave(ticket.unwrap());
            }
            prop_assert!(queue.order().is_empty());
        }
    }
}
