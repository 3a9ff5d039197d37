//! The shim: the small process beside each container that is the parent of its first process, holds its standard
//! streams, writes its log and keeps its exit status. It outlives the agent, which speaks to it over a socket.

mod channel;
mod client;
mod output;
mod restore;
mod server;

use std::path::PathBuf;

use drover_model::{ContainerId, Explained, LogRecord};
use serde::{Deserialize, Serialize};

use crate::Layout;

pub use channel::{Channel, Packet};
pub use client::{Shim, ShimError};
pub use server::{Failure, Fill, serve};

/// What a shim is told when it is started; a file whose path is its only argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimSpec {
    /// The container.
    pub id: ContainerId,
    /// Its places.
    pub layout: Layout,
    /// The node's directory for what does not survive a reboot.
    pub run: PathBuf,
    /// Whether the standard streams are a terminal.
    pub terminal: bool,
    /// Whether standard input stays open; otherwise the program reads its end at once.
    pub stdin_open: bool,
    /// The directory beneath which the node's control groups lie, in every hierarchy.
    pub cgroup_base: String,
    /// The container's control group beneath the base.
    pub cgroup: String,
    /// The control group of the shims beneath the base.
    pub shims_cgroup: String,
}

/// How a container's program ended; the file that the shim leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit status; 128 + N when signal N ended it.
    pub status: i32,
}

/// What the agent asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Create the container from its bundle.
    Create,
    /// Start its program.
    Start,
    /// Start what a restore needs, to save time then.
    Arm,
    /// Restore it from its images and leave it frozen.
    Restore,
    /// Answer when no page of the restored container is missing any more.
    AwaitFilled,
    /// Say how it is.
    State,
    /// Answer when the program has ended, or the container was discarded.
    Wait,
    /// Send its first process a signal.
    Signal(i32),
    /// With the container frozen: log all it has printed, and say what it has not read.
    Drain,
    /// Connect to its standard streams.
    Attach,
    /// Tell all that is in the log and all that comes.
    Follow,
    /// End without a word when it ends: it runs elsewhere, or was never to run.
    Discard,
}

/// What the shim answers, and what it tells of its own accord on a connection that attached or follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// How it is.
    State {
        /// Its first process, once there is one.
        pid: Option<u32>,
        /// The status it ended with, once it has.
        exit: Option<i32>,
    },
    /// What the program has not read yet of its standard input.
    Drained(Vec<u8>),
    /// Restored, with this first process.
    Restored(u32),
    /// A log record.
    Record(LogRecord),
    /// The program ended with this status.
    Exited(i32),
    /// It is not done, for this reason.
    Failed(Explained),
}

/// What an attached agent tells beside standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The size of the user's terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// No more standard input.
    StdinClosed,
}
