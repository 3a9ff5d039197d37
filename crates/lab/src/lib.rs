//! The lab: many hosts on one machine, each of them namespaces over one shared Debian base.
//!
//! A lab is the hosts `n1` to `nN`, which run agents, and `client`, which does not, on one switch. Nothing of it lives
//! outside its own places: a directory under `/run`, a directory under `$DROVER_HOME`, a subtree of the caller's
//! cgroups, and namespaces.
//!
//! Invariants:
//! - The record is written before anything that it describes is made, so [`down`] can remove a lab that any process
//!   was killed in the middle of making.
//! - What runs is asked of the kernel (cgroups), never of pid files.
//! - No link of a lab is ever in the caller's network namespace, and no mount of a host in its mount namespace.

mod agent;
mod certificate;
mod cgroup;
mod down;
mod error;
mod exec;
mod host;
mod lock;
mod mount;
mod network;
mod place;
mod plan;
mod prepare;
mod record;
mod request;
mod root;
mod shape;
mod status;
mod supervise;
mod up;

pub use agent::{AgentError, set_agent};
pub use down::{DownError, Removed, down};
pub use error::{LogTail, StepError};
pub use exec::{ExecError, exec, output};
pub use host::{HostError, host_main};
pub use network::NetworkError;
pub use place::{Place, PlaceError};
pub use plan::{HostPlan, LARGEST, Plan};
pub use request::UpRequest;
pub use shape::{LinkError, set_link};
pub use status::{AgentState, HostStatus, LabStatus, StatusError, status};
pub use up::{Lab, UpError, up};
