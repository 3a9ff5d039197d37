//! Why a node did not do what it was asked.

use std::error::Error;

use drover_container::RefusedProgram;
use drover_model::{ContainerId, ContainerName, Explained, MigrationId, VolumeName};

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// There is no such thing (404).
    #[error("{0}")]
    NotFound(Explained),
    /// It contradicts the present state (409).
    #[error("{0}")]
    Conflict(Explained),
    /// The request makes no sense (400).
    #[error("{0}")]
    Invalid(Explained),
    /// It was tried and failed (500).
    #[error("{0}")]
    Failed(Explained),
    /// A program cannot be run in its container (422).
    #[error("{why}")]
    Program {
        /// Why.
        why: Explained,
        /// The status that shells give such a program: 127 when there is none, 126 when it cannot be executed.
        status: i32,
    },
}

impl NodeError {
    pub(crate) fn not_found(reason: impl Into<String>, hint: &str) -> Self {
        Self::NotFound(explained(reason, hint))
    }

    pub(crate) fn conflict(reason: impl Into<String>, hint: &str) -> Self {
        Self::Conflict(explained(reason, hint))
    }

    pub(crate) fn invalid(reason: impl Into<String>, hint: &str) -> Self {
        Self::Invalid(explained(reason, hint))
    }

    /// `cannot X: because Y`, from the chain of `error`.
    pub(crate) fn failed(attempt: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Failed(failure(attempt, error))
    }

    /// `cannot run PROGRAM in CONTAINER`, when runc's `reason` is about the program.
    pub(crate) fn program(program: &str, container: &ContainerName, reason: &str) -> Option<Self> {
        let RefusedProgram { reason, hint, status } = RefusedProgram::read(reason)?;
        Some(Self::Program { why: explained(format!("cannot run {program} in {container}: {reason}"), hint), status })
    }

    /// There is no such container here, whoever asks and for whatever reason.
    #[must_use]
    pub fn no_container(wanted: &str) -> Self {
        Self::not_found(format!("cannot find container {wanted:?} on this node"), "`drover ps -a` lists all containers")
    }

    /// There is no such migration.
    #[must_use]
    pub fn no_migration(id: &MigrationId) -> Self {
        Self::not_found(format!("cannot find migration {id} on this node"), "`drover migrations` lists them")
    }

    /// There is no such volume.
    #[must_use]
    pub fn no_volume(name: &VolumeName) -> Self {
        Self::not_found(format!("there is no volume {name} on this node"), "`drover volume ls` lists the volumes")
    }

    /// There is no such copy.
    #[must_use]
    pub fn no_copy(id: &ContainerId) -> Self {
        let reason = format!("there is no copy of files of a container {id}");
        Self::not_found(reason, "`drover copies ls` lists them")
    }

    /// The words in it.
    #[must_use]
    pub fn explained(&self) -> &Explained {
        match self {
            Self::NotFound(why) | Self::Conflict(why) | Self::Invalid(why) | Self::Failed(why) => why,
            Self::Program { why, .. } => why,
        }
    }
}

fn explained(reason: impl Into<String>, hint: &str) -> Explained {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Explained { reason: reason.into(), hint }
}

/// `cannot X: because Y`, with a hint where the cause is one that has a known remedy.
pub(crate) fn failure(attempt: &str, error: &(dyn Error + 'static)) -> Explained {
    let cause = Explained::from_chain(error);
    let hint = cause.hint.or_else(|| remedy(&cause.reason).map(str::to_owned));
    Explained { reason: format!("{attempt}: {}", cause.reason), hint }
}

/// What helps against causes that users meet again and again.
fn remedy(reason: &str) -> Option<&'static str> {
    const REMEDIES: [(&str, &str); 13] = [
        ("No space left on device", "free disk space on that node, or remove images with `drover image rm`"),
        ("cannot start criu", "install criu 4.2 or newer on that node"),
        ("cannot start runc", "install runc on that node"),
        ("executable file not found", "the image has no such program; check the command and its path"),
        ("final child's PID", "raise --pids-limit: a container takes a few processes to start"),
        ("cannot find the uplink", "set `uplink` in the node's agent.toml to the name of its network link"),
        ("Address already in use", "another container or host has that address"),
        ("io_uring", "processes that use io_uring cannot be dumped by CRIU; turn it off in the program"),
        ("session leader", "end running `drover exec` sessions before the move"),
        ("ghost file", "a deleted file is still open in it and large: allow it with --deleted-files"),
        ("cannot travel", "remove that mount inside the container before the move"),
        ("has removed from /dev", "stop the container and start it again: it gets a new /dev"),
        ("Connection refused", "is the agent running on that node?"),
    ];
    REMEDIES.iter().find(|(cause, _)| reason.contains(cause)).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_cause_gets_its_remedy() {
        let cause = std::io::Error::from_raw_os_error(28);
        let why = failure("cannot unpack", &cause);
        assert!(why.reason.starts_with("cannot unpack: No space left"), "{}", why.reason);
        assert!(why.hint.unwrap().contains("free disk space"));
    }
}
