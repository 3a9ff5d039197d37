//! Stops and starts the agent of a host, for tests of what happens when an agent dies.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::StepError;
use crate::exec::{ExecError, running_host};
use crate::status::{self, AgentState};
use crate::supervise::STOPPED;

/// How long the host has to follow.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// An agent that cannot be stopped or started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The host does not run.
    #[error(transparent)]
    Host(#[from] ExecError),
    /// It is no node.
    #[error("{0} runs no agent")]
    None(String),
    /// A step failed.
    #[error("cannot control the agent of {0}")]
    Step(String, #[source] StepError),
    /// The host did not follow in time.
    #[error("cannot control the agent of {0}: it is still {1:?}")]
    Slow(String, AgentState),
}

impl AgentError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Host(error) => error.hint(),
            Self::None(_) => Some("only nodes do: `drover lab status` lists them".into()),
            _ => None,
        }
    }
}

/// Kills the agent of `host` with SIGKILL and keeps it away, or lets it run again; returns when it is so. A killed
/// agent's containers go on.
///
/// # Errors
/// When the host does not run or does not follow.
pub fn set_agent(host: &str, running: bool) -> Result<(), AgentError> {
    let found = running_host(host)?;
    if !found.has_agent() {
        return Err(AgentError::None(host.into()));
    }
    let pid = found.pid;
    let path = PathBuf::from(format!("/proc/{pid}/root{STOPPED}"));
    let written = if running {
        fs::remove_file(&path).or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
    } else {
        fs::write(&path, "")
    };
    written.map_err(StepError::at("write", &path)).map_err(|error| AgentError::Step(host.into(), error))?;
    let process = Pid::from_raw(pid).expect("a process has a positive number");
    kill_process(process, Signal::USR1)
        .map_err(StepError::of("signal", "its first process"))
        .map_err(|error| AgentError::Step(host.into(), error))?;
    let wanted = if running { AgentState::Running } else { AgentState::Stopped };
    let end = Instant::now() + PATIENCE;
    loop {
        let state = status::agent(Some(pid));
        if state == wanted {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(AgentError::Slow(host.into(), state));
        }
        std::thread::sleep(PAUSE);
    }
}
