//! The engine: a node's containers, their migrations, the journal, and the link between two nodes.
//!
//! Invariants:
//! - A container has one owner: whoever's journal says so. The decision is durable before anybody acts on it.
//! - Everything that blocks runs on threads that may block; what runs on the runtime only waits.
//! - A container's parts are changed only by whoever holds its `operation` lock.

mod address;
mod admission;
mod allowance;
mod arrival;
mod check;
mod clock;
mod connect;
mod container;
mod copies;
mod crossing;
mod declare;
mod depart;
mod departure;
mod drain;
mod emptying;
mod error;
mod examination;
mod exec;
mod experience;
mod features;
mod following;
mod images;
mod journal;
mod lead;
mod lifecycle;
mod link;
mod node;
mod offer;
mod outgoing;
mod place;
mod plan;
mod pull;
mod recall;
mod receive;
mod recovery;
mod request;
mod resolve;
mod room;
mod session;
mod shared;
mod sharing;
mod spread;
mod standstill;
mod synthesis;
mod trees;
mod turns;
mod vigil;
mod volumes;

pub use crossing::LayerReader;
pub use drover_disk::Choice;
pub use error::NodeError;
pub use features::features_here;
pub use node::{Node, NodeConfig, Peer, Pool};
pub use session::Session;
