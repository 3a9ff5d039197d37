//! The agent: the daemon on each node. It serves the HTTP API and the migration link on one port.
//!
//! It decides nothing: a request becomes one call of [`drover_engine::Node`], the answer becomes JSON. Containers
//! do not live in it: they go on when it stops and when it crashes.

mod config;
mod door;
mod gate;
mod limits;
mod membership;
mod roster;
mod routes;
mod serve;
mod server;

pub use config::{AgentConfig, ConfigError, PeerConfig, PoolConfig, UserConfig};
pub use drover_engine::features_here;
pub use gate::Visitor;
pub use limits::{Limits, RequestLimits};
pub use membership::MembershipError;
pub use roster::Roster;
pub use routes::openapi;
pub use serve::{AgentError, serve};
pub use server::{Connection, Joining, Server};
