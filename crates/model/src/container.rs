//! A container as its users see it: what was asked for, and how it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, ContainerId, ContainerName, Digest, Interface, Mount, NodeName, UserName, VolumeName};

/// What was asked for. It never changes over the life of a container and travels with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerSpec {
    /// The identity, for life.
    pub id: ContainerId,
    /// The name that people use.
    pub name: ContainerName,
    /// The image's name when the container was made.
    pub image: String,
    /// The image's content.
    pub image_digest: Digest,
    /// The program.
    pub process: ProcessSpec,
    /// Limits on resources.
    pub limits: Limits,
    /// The interface with the addresses that travel; none: only loopback.
    pub interface: Option<Interface>,
    /// The host name inside.
    pub hostname: String,
    /// What happens when the program ends.
    #[schema(value_type = String, example = "on-failure:3")]
    pub restart: RestartPolicy,
    /// What is mounted inside beside the root, parents before what lies in them.
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// When it was made: RFC 3339, UTC.
    pub created_at: String,
    /// The ports on which its image says that it listens, `80/tcp` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// The number of the signal that asks its program to end; absent: SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// The user who made it, as the agent knows from the certificate; absent: made by an older agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserName>,
}

/// The program that a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessSpec {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// Environment, `KEY=VALUE` each.
    pub env: Vec<String>,
    /// Working directory inside.
    pub cwd: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Whether standard input, output and error are a terminal.
    pub terminal: bool,
    /// Whether standard input stays open for `attach`; otherwise it is `/dev/null`.
    pub stdin_open: bool,
}

/// Limits on resources; absent means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<Bytes>,
    /// CPU time in thousandths of one core.
    pub cpu_millis: Option<u32>,
    /// Number of tasks.
    pub pids: Option<u32>,
}

impl Eq for Limits {}

/// What happens when the program ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again unless it ended with status 0; at most this often in a row (0: no limit).
    OnFailure(u32),
    /// It is started again, also after the node came back, unless a user stopped it.
    UnlessStopped,
    /// It is started again, and after the node came back even when a user had stopped it.
    Always,
}

impl RestartPolicy {
    /// Whether a program that ended by itself is started again, having been so `restarts` times in a row.
    #[must_use]
    pub fn restarts_after_exit(self, status: i32, restarts: u32) -> bool {
        match self {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure(limit) => status != 0 && (limit == 0 || restarts < limit),
            RestartPolicy::UnlessStopped | RestartPolicy::Always => true,
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "no" => Ok(Self::No),
            None if text == "on-failure" => Ok(Self::OnFailure(0)),
            None if text == "unless-stopped" => Ok(Self::UnlessStopped),
            None if text == "always" => Ok(Self::Always),
            Some(("on-failure", limit)) => {
                let number = limit.parse().map_err(|_| format!("{limit:?} is no number of restarts"))?;
                // Without a limit it is called `on-failure`; nobody means that by a zero.
                if number == 0 { Err("use a number of restarts from 1".into()) } else { Ok(Self::OnFailure(number)) }
            }
            _ => Err(format!("{text:?} is no restart policy: use no, on-failure[:N], unless-stopped or always")),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(0) => f.write_str("on-failure"),
            Self::OnFailure(limit) => write!(f, "on-failure:{limit}"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
            Self::Always => f.write_str("always"),
        }
    }
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ContainerState {
    /// Its root and network exist, its program was not started yet.
    Created,
    /// Its program runs.
    Running,
    /// It is frozen, in the course of a migration away from this node.
    Frozen,
    /// It is being received from another node; it does not run here.
    Arriving,
    /// Its program ended.
    Exited {
        /// The exit status; 128 + N when signal N ended it.
        status: i32,
    },
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Running => f.write_str("running"),
            Self::Frozen => f.write_str("frozen"),
            Self::Arriving => f.write_str("arriving"),
            Self::Exited { status } => write!(f, "exited ({status})"),
        }
    }
}

/// A container as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerRecord {
    /// What was asked for.
    pub spec: ContainerSpec,
    /// How it is.
    #[serde(flatten)]
    pub state: ContainerState,
    /// The node that answers.
    pub node: NodeName,
    /// The process id of its first process in the node's view, while it runs.
    pub pid: Option<u32>,
    /// How often it has moved: rises by one with each migration.
    pub generation: u64,
    /// How often its restart policy has started it again.
    pub restarts: u32,
    /// When its program was last started: RFC 3339, UTC. A move does not change it.
    pub started_at: Option<String>,
    /// Memory that is on another node alone, while it runs here already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follows>,
    /// Shared volumes that are lost: it stands still until they are back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaits: Vec<VolumeName>,
}

/// Memory that follows a container: whoever needs it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Follows {
    /// The node that it is on.
    pub from: NodeName,
    /// Since when the container has run without it: RFC 3339, UTC.
    pub since: String,
    /// Whether that node can be reached. If it never can again, the container cannot go on: kill it.
    pub reachable: bool,
}

impl ContainerRecord {
    /// How it is, for people.
    #[must_use]
    pub fn condition(&self) -> String {
        if !self.awaits.is_empty() {
            let names: Vec<&str> = self.awaits.iter().map(VolumeName::as_str).collect();
            return format!("{}, waits for volume {}", self.state, names.join(", "));
        }
        match &self.follows {
            Some(Follows { from, reachable: true, .. }) => format!("{}, memory follows from {from}", self.state),
            Some(Follows { from, reachable: false, .. }) => format!("{}, waits for memory on {from}", self.state),
            None => self.state.to_string(),
        }
    }
}

/// What a container uses at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerStats {
    /// Processor time used on this node in nanoseconds.
    pub cpu_ns: u64,
    /// Memory charged now.
    pub memory: Bytes,
    /// The memory limit, if any.
    pub memory_limit: Option<Bytes>,
    /// Tasks now.
    pub pids: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_survive_printing_and_parsing() {
        for text in ["no", "on-failure", "on-failure:3", "unless-stopped", "always"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        for bad in ["", "never", "on-failure:", "on-failure:x", "on-failure:0", "always:3"] {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn on_failure_stops_after_its_limit() {
        let policy = RestartPolicy::OnFailure(2);
        assert!(policy.restarts_after_exit(1, 1));
        assert!(!policy.restarts_after_exit(1, 2));
        assert!(!policy.restarts_after_exit(0, 0));
    }
}
