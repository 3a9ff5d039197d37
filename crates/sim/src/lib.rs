//! Simulations by seed: the same seed gives the same run, to the last event.
//!
//! `protocol` runs both machines of the migration protocol, the ownership rule and the journal on two simulated nodes that
//! one container moves between, under everything that can go wrong: messages that are lost, late, out of order or doubled;
//! links that end in the middle; agents and whole nodes that go down at any step and come back, or do not; disks that fail,
//! fail but keep what was written, or keep a part of it; clocks that jump; operators who cancel, move again and resolve.
//! After every event it is asked whether all promises hold:
//!
//! - Never do two copies of the container run.
//! - What goes on running, wherever, has the last version of every page and every file, or can still fetch it. A node that
//!   loses power between a container's first moment there and the durable acceptance may cost that time, nothing more.
//! - A container that no node with a part of it was cut off from power for never begins anew.
//! - Once everything is healed, everything ends: exactly one copy runs; without a durable decision on a source that lives
//!   that is the source's; both journals are closed, and nothing is left on the node that does not have the container.
//!
//! The machines and the journal are those of `drover-protocol`, unchanged. What is simulated is what the engine does for
//! them, and the engine's rules about it: one step at a time, in order, and what is durable when.

mod chance;
mod content;
mod disk;
mod fault;
mod lead;
mod mutant;
mod network;
mod node;
mod operator;
mod session;
mod trace;
mod violation;
mod world;

pub use mutant::Mutant;
pub use violation::Violation;
pub use world::{Ending, Run, run};
