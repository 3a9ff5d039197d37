//! The one error of a command: what it could not do, because of what. Printed once, by `main`.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use drover_agent::AgentError;
use drover_api::tls::TlsError;
use drover_api::{ApiError, ClientError, ContextError};
use drover_cluster::ClusterError;
use drover_model::{ContainerState, Explained, InvalidMount, NodeName, Outcome};

use crate::choice::ChoiceError;

/// A command that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct Failure {
    action: String,
    // In a box: every result in this crate is as large as its failure.
    #[source]
    cause: Box<Cause>,
    status: u8,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// TLS without a certificate cannot be set up.
    #[error("cannot set up TLS")]
    Joining(#[source] rustls::Error),
    /// Something of the lab.
    #[error(transparent)]
    Lab(#[from] Hinted),
    /// The shim.
    #[error("{0}")]
    Shim(Box<dyn Error + Send + Sync>),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
    /// A migration ended, but not on the target.
    #[error("{reason}")]
    Unmoved { outcome: Outcome, reason: String, hint: Option<String> },
    /// An attached program's stream ended without its exit status.
    #[error("the session broke: {0}")]
    Session(String),
    /// The agent that carried the stream went away in the middle of it.
    #[error("the agent of {node} went away")]
    AgentGone { node: NodeName, hint: String },
    /// Programs cannot have a terminal when we have none.
    #[error("the input device is not a terminal")]
    NoTerminal,
    /// The container does not run.
    #[error("it is {0}")]
    State(ContainerState),
    #[error(transparent)]
    Mount(#[from] InvalidMount),
    /// By its user.
    #[error("it was interrupted")]
    Interrupted,
    /// A name that images or archives cannot have.
    #[error("{0}")]
    Invalid(&'static str),
}

/// An error's whole chain with its hint.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Hinted(Explained);

impl Hinted {
    /// A reason of our own.
    pub fn plain(reason: &str, hint: String) -> Self {
        Self(Explained { reason: reason.to_owned(), hint: Some(hint) })
    }

    pub fn new(error: &dyn Error, hint: Option<String>) -> Self {
        Self(Explained { hint, ..Explained::from_chain(error) })
    }
}

/// Says what was being done when a cause came up.
pub trait Doing<T> {
    /// The failure to `action`, as in `cannot {action}`.
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Cause>> Doing<T> for Result<T, E> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(action(), error))
    }
}

impl Failure {
    /// The failure to `action`, as in `cannot {action}`.
    pub fn new(action: String, cause: impl Into<Cause>) -> Self {
        Self { action, cause: Box::new(cause.into()), status: 1 }
    }

    /// The same with another exit status.
    #[must_use]
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// The exit status of the command: a program that cannot be run has that of shells.
    #[must_use]
    pub fn status(&self) -> u8 {
        let program = match &*self.cause {
            Cause::Client(ClientError::Refused { error, .. }) => error.exit_status,
            _ => None,
        };
        program.and_then(|status| u8::try_from(status).ok()).unwrap_or(self.status)
    }

    /// The chain and the hint, fit to print.
    #[must_use]
    pub fn explain(&self) -> ApiError {
        // A node's refusal already says what could not be done, and where more precisely than we know.
        let complete = matches!(&*self.cause, Cause::Client(ClientError::Refused { error, .. })
            if error.error.starts_with("cannot "));
        let first: &dyn Error = if complete { &*self.cause } else { self };
        let mut error = first.to_string();
        let mut next = first.source();
        while let Some(cause) = next {
            error.push_str(": ");
            error.push_str(cause.to_string().trim_end());
            next = cause.source();
        }
        ApiError { error, hint: self.cause.hint(), exit_status: None }
    }

    /// Whether a node answered that it does not do it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(&*self.cause, Cause::Client(ClientError::Refused { .. }))
    }

    /// Whether the reader of our output went away: nobody is left to tell.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        matches!(&*self.cause, Cause::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Cause {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint(),
            Self::Choice(error) => error.hint(),
            Self::Unmoved { hint, .. } => hint.clone(),
            Self::Context(ContextError::Unknown) => {
                Some(
                    "start a lab with `drover lab up`, or name a cluster's context file in DROVER_CONTEXT (docs/operating.md \
                     has an example)"
                        .into(),
                )
            }
            Self::Agent(error) => error.hint(),
            Self::Cluster(error) => error.hint(),
            Self::Mount(error) => error.hint().map(str::to_owned),
            Self::Lab(hinted) => hinted.0.hint.clone(),
            Self::AgentGone { hint, .. } => Some(hint.clone()),
            Self::NoTerminal => Some("leave -t out to pass on what comes from a pipe or a file".into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Result<(), ClientError> {
        let error = ApiError { error: text.into(), hint: Some("start it".into()), exit_status: None };
        Err(ClientError::Refused { node: "n1".parse().unwrap(), status: 409u16.try_into().unwrap(), error })
    }

    #[test]
    fn a_chain_is_joined_and_keeps_the_hint() {
        let failure = refused("it does not run").doing(|| "stop web".into()).unwrap_err();
        let explained = failure.explain();
        assert_eq!(explained.error, "cannot stop web: it does not run");
        assert_eq!(explained.hint.as_deref(), Some("start it"));
    }

    #[test]
    fn a_node_that_says_what_it_cannot_do_is_not_repeated() {
        let failure = refused("cannot stop web: it does not run").doing(|| "stop web".into()).unwrap_err();
        assert_eq!(failure.explain().error, "cannot stop web: it does not run");
    }

    #[test]
    fn a_program_that_cannot_be_run_has_the_status_of_shells() {
        let error = ApiError { error: "cannot run x in web: there is none".into(), hint: None, exit_status: Some(127) };
        let refused = ClientError::Refused { node: "n1".parse().unwrap(), status: 422u16.try_into().unwrap(), error };
        let failure = Failure::new("run image".into(), refused).with_status(125);
        assert_eq!(failure.status(), 127);
        let failure = refused_stop().with_status(125);
        assert_eq!((refused_stop().status(), failure.status()), (1, 125));
    }

    fn refused_stop() -> Failure {
        refused("cannot stop web").doing(|| "stop web".into()).unwrap_err()
    }

    #[test]
    fn causes_of_causes_are_told() {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let address = "10.0.0.1:7780".parse().unwrap();
        let error = ClientError::Unreachable { node: "n1".parse().unwrap(), address, source };
        let explained = Err::<(), _>(error).doing(|| "list images".into()).unwrap_err().explain();
        let expected = "cannot list images: cannot reach node n1 at 10.0.0.1:7780: connection refused";
        assert_eq!(explained.error, expected);
        assert_eq!(explained.hint.unwrap(), "check that the agent runs on n1 and listens on 10.0.0.1:7780");
    }
}
