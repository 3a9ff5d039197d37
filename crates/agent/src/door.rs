//! The door: connections that have not shown a certificate yet. There is room for so many, and the newest always gets in:
//! whoever fills the room with silence pushes itself out.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The room behind the door.
#[derive(Debug)]
pub(crate) struct Door {
    room: usize,
    per_address: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Counts who came in.
    next: u64,
    /// The oldest first.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    from: IpAddr,
    _out: oneshot::Sender<()>,
}

/// A place inside; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    door: Arc<Door>,
    number: u64,
    /// Done when the place was given to somebody who came later.
    pub lost: oneshot::Receiver<()>,
}

impl Door {
    pub fn new(room: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { room, per_address, inside: Mutex::default() })
    }

    /// Lets a connection in. When there is no room, or none for its address, the oldest goes that takes it.
    pub fn enter(self: &Arc<Self>, from: IpAddr) -> Place {
        let from = network(from);
        let (out, lost) = oneshot::channel();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |waiting: &Waiting| waiting.from == from;
        if inside.waiting.iter().filter(|waiting| same(waiting)).count() >= self.per_address {
            let oldest = inside.waiting.iter().position(same);
            oldest.map(|oldest| inside.waiting.remove(oldest));
        }
        if inside.waiting.len() >= self.room {
            inside.waiting.pop_front();
        }
        let number = inside.next;
        inside.next += 1;
        inside.waiting.push_back(Waiting { number, from, _out: out });
        Place { door: Arc::clone(self), number, lost }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.waiting.retain(|waiting| waiting.number != self.number);
    }
}

/// One host has a whole network of 64 bits in IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(place: &mut Place) -> bool {
        !matches!(place.lost.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn whoever_fills_the_room_pushes_itself_out() {
        let door = Door::new(5, 2);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut other = door.enter(address(1));
        let mut flood: Vec<Place> = (0..4).map(|_| door.enter(address(2))).collect();
        assert_eq!(flood.iter_mut().map(lost).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(!lost(&mut other));
        let mut many: Vec<Place> = (3..8).map(|last| door.enter(address(last))).collect();
        assert!(lost(&mut other) && flood.iter_mut().all(lost) && !many.iter_mut().any(lost));
        many.clear();
        assert!(door.inside.lock().unwrap().waiting.is_empty());
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("fd77::1"), of("fd77::2:3"));
        assert_ne!(of("fd77::1"), of("fd77:0:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
