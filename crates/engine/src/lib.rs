//! The engine: a node's containers, their migrations, the journal, and the link between two nodes.

mod node;

pub use node::{Node, NodeConfig, NodeError, Peer, Pool, Session};
