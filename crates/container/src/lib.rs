//! One container on one node: its sandbox (runc), its checkpoint and restore (CRIU), its shim.
//!
//! Invariants:
//! - The shim is the parent of the container's first process and holds its standard streams; it outlives the agent.
//! - CRIU is driven over its RPC by a resident process, never through runc; runc learns of a restored container by
//!   `Runc::adopt`.
//! - After a dump CRIU has finished and holds nothing: the processes are kept frozen by their control group alone, so
//!   that the death of an agent or of CRIU cannot set them free.
//! - After a restore the same is true on the target.

pub mod criu;
mod dump;
mod externals;
mod layout;
mod log;
mod notes;
pub mod preflight;
mod refused;
mod runc;
mod seccomp;
pub mod shim;
mod spec;

pub use dump::{DumpError, DumpRequest, PAGE_SERVER, dump};
pub use externals::{Devices, External, ExternalSource, UnknownMount};
pub use layout::{Layout, prepare_dev, prepare_template};
pub use log::{LogReader, LogWriter};
pub use notes::Notes;
pub use refused::RefusedProgram;
pub use runc::{ExecSpec, Runc, RuncError, last_reason};
pub use spec::oci_spec;
