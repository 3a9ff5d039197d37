//! CRIU, driven over its RPC (`criu swrk`): one process for each request, spoken to over a socket pair.
//!
//! Source of the format: CRIU's `images/rpc.proto` (MIT). Only what Drover uses is declared.

mod calls;
mod conntrack;
mod coverage;
mod mappings;
mod rlimits;
mod rpc;
mod sleepers;
mod starting;
mod timers;
mod wire;
mod worker;
mod yard;

pub use calls::Call;
pub use conntrack::counts_nothing;
pub use coverage::Coverage;
pub use mappings::{Mappings, Told, Unconfirmed, flags_of_mappings};
pub use rlimits::limit_in;
pub use rpc::{InheritFd, Options, PageServer};
pub(crate) use sleepers::let_sleep;
pub use sleepers::{Sleepers, begin_anew};
pub use starting::is_starting;
pub(crate) use timers::let_expire;
pub use timers::rearm;
pub use wire::Fields;
pub(crate) use worker::Known;
pub use worker::{CriuError, Notification, RequestKind, Worker, version};
pub use yard::remove_all_left;
