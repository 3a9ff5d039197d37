//! The agent: the daemon on each node. It serves the HTTP API and the migration link on one port.
//!
//! It decides nothing: a request becomes one call of [`drover_engine::Node`], the answer becomes JSON. Containers
//! do not live in it: they go on when it stops and when it crashes.

mod config;
mod routes;
mod serve;
mod server;

pub use config::{AgentConfig, ConfigError, PeerConfig, PoolConfig};
pub use drover_engine::features_here;
pub use routes::{openapi, router};
pub use serve::{AgentError, serve};
pub use server::{Limits, Server};
