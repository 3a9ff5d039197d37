//! The network of containers: an address and a MAC that travel with them.
//!
//! A container's [`Wire`] is a network namespace, pinned at a path, with a macvlan link named `eth0` on the node's
//! uplink. Its [`Gate`] decides whether frames pass: a container that stands still must neither answer nor reset its
//! connections, and one that arrives must not speak before it may run. [`Wire::announce`] tells the neighbours and the
//! switches between them where the MAC is now.
//!
//! Everything here blocks, for microseconds (gate, announcement) to some milliseconds (creation and removal).
//!
//! Invariants:
//! - a new wire passes no frame before its gate was set as asked;
//! - setting the gate starts no program and no thread;
//! - loopback traffic inside the container is never touched;
//! - a creation that fails leaves nothing behind.
//!
//! The node itself cannot talk to the macvlan links on its own uplink: a property of macvlan.

mod announcement;
mod frame;
mod gate;
mod link;
mod neighbour;
mod nftables;
mod probe;
mod wire;

pub use frame::claim;
pub use gate::Gate;
pub use probe::{ProbeError, holders, taken};
pub use wire::{Wire, WireError, remove};
