//! `drover lab status`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use drover_model::{Bandwidth, NodeName};
use serde::Serialize;

use crate::error::StepError;
use crate::place::{Place, PlaceError};
use crate::record::Record;
use crate::supervise::{RUNNING, STOPPED};

/// A lab and its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabStatus {
    /// Whether it was made to its end; if not, `up` was interrupted or is at work.
    pub complete: bool,
    /// The rate of each node's link in each direction; none for no limit.
    pub link: Option<Bandwidth>,
    /// The nodes, and then the client.
    pub hosts: Vec<HostStatus>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    /// Its name.
    pub name: NodeName,
    /// Its first process, in the caller's numbers; none when the host is dead.
    pub pid: Option<i32>,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its agent.
    pub agent: AgentState,
    /// The log of its agent.
    pub agent_log: PathBuf,
}

/// What a host's agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// The host has none.
    None,
    /// It runs.
    Running,
    /// It was stopped on purpose.
    Stopped,
    /// It died and is started again soon, or its host is dead.
    Dead,
}

/// A status that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The environment names no place.
    #[error("cannot find the lab's place")]
    Place(#[from] PlaceError),
    /// The record cannot be read.
    #[error("cannot tell the lab's status")]
    Step(#[from] StepError),
}

impl StatusError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Place(error) => error.hint(),
            Self::Step(_) => Some("if the lab was left broken: drover lab down".into()),
        }
    }
}

/// What there is of the lab; none when there is no lab.
///
/// # Errors
/// When the lab's record cannot be read.
pub fn status() -> Result<Option<LabStatus>, StatusError> {
    let place = Place::from_environment()?;
    let Some(record) = Record::read(&place)? else { return Ok(None) };
    let hosts = record.plan().hosts.into_iter().map(|host| {
        let pid = record.first_process(&place, &host.name);
        let has_agent = record.wanted.agent.is_some() && host.number.is_some();
        HostStatus {
            pid,
            v4: host.v4,
            v6: host.v6,
            agent: if has_agent { agent(pid) } else { AgentState::None },
            agent_log: place.agent_log(&host.name),
            name: host.name,
        }
    });
    Ok(Some(LabStatus { complete: record.complete, link: record.link, hosts: hosts.collect() }))
}

/// The state of the agent in the host whose first process is `pid`.
pub(crate) fn agent(pid: Option<i32>) -> AgentState {
    let Some(pid) = pid else { return AgentState::Dead };
    let exists = |path: &str| PathBuf::from(format!("/proc/{pid}/root{path}")).exists();
    match (exists(RUNNING), exists(STOPPED)) {
        (true, _) => AgentState::Running,
        (false, true) => AgentState::Stopped,
        (false, false) => AgentState::Dead,
    }
}
