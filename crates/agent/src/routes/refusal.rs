//! Every answer that reports an error: a status and an `ApiError`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use drover_api::ApiError;
use drover_cluster::ClusterError;
use drover_engine::NodeError;
use drover_model::{Action, Caller, Explained};

use crate::membership::MembershipError;
use std::time::Duration;

/// An answer that reports an error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: ApiError,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>, hint: Option<&str>) -> Self {
        Self { status, error: ApiError { error: error.into(), hint: hint.map(str::to_owned), exit_status: None } }
    }

    /// Somebody who is known may not do this.
    pub fn forbidden(caller: &Caller, action: Action) -> Self {
        let Some(role) = caller.role() else { return Self::stranger(caller) };
        let hint = format!("it takes {}; an administrator gives roles", takes(action));
        Self::new(
            StatusCode::FORBIDDEN,
            format!("{} has the role {role}, which may not do this", caller.identity()),
            Some(&hint),
        )
    }

    /// Somebody who has a certificate, and nothing to do here.
    pub fn stranger(caller: &Caller) -> Self {
        let (why, hint) = match caller {
            Caller::Peer(_) => ("is a node, and nodes do not use this", "show the certificate of a user"),
            _ => (
                "is not known here",
                "it was never added or has been removed: ask an administrator, or look at [[user]] in agent.toml",
            ),
        };
        Self::new(StatusCode::FORBIDDEN, format!("{} {why}", caller.identity()), Some(hint))
    }

    /// Nobody: the request came past the server.
    pub fn nobody() -> Self {
        Self::new(StatusCode::FORBIDDEN, "nobody is known to have sent this", None)
    }

    /// More requests than one may send.
    pub fn too_often(per_second: u32) -> Self {
        let reason = format!("you send more than {per_second} requests a second");
        Self::new(StatusCode::TOO_MANY_REQUESTS, reason, Some("wait a second; [limits] in agent.toml has the bound"))
    }

    /// A request that took too long.
    pub fn too_slow(limit: Duration) -> Self {
        let reason = format!("the node was not done within {} s", limit.as_secs());
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, Some("look at whether it was done before you ask again"))
    }

    /// A question about a cluster, to a node that is in none.
    pub fn no_cluster() -> Self {
        let hint = "its peers and users are those of agent.toml; `drover cluster init` makes a cluster";
        Self::new(StatusCode::CONFLICT, "this node is in no cluster", Some(hint))
    }

    pub fn unread_log(error: &std::io::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the audit log: {error}"), None)
    }

    /// What only who may do it to everything can ask for.
    pub(super) fn not_yours(reason: &str, hint: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, reason, Some(hint))
    }

    pub fn no_route() -> Self {
        let hint = "GET /v1/openapi.json lists the routes; client and node may have different versions";
        Self::new(StatusCode::NOT_FOUND, "this path does not exist", Some(hint))
    }

    pub fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method", None)
    }

    pub(super) fn no_upgrade() -> Self {
        let hint = "send `Connection: upgrade` and `Upgrade: drover-stream`";
        Self::new(StatusCode::UPGRADE_REQUIRED, "this path speaks a framed stream only", Some(hint))
    }

    /// The request was understood by nobody: a body, query or path that is not what the route expects.
    pub(super) fn unread(status: StatusCode, why: impl Into<String>) -> Self {
        Self::new(status, format!("cannot read the request: {}", why.into()), None)
    }
}

/// Who may do it.
fn takes(action: Action) -> &'static str {
    match action {
        Action::ChangeCluster | Action::TellCluster | Action::ReadAudit | Action::MakeSharedVolume => "an admin",
        Action::ChangeImage => "an operator or admin",
        _ => "an owner, operator or admin",
    }
}

impl From<ClusterError> for Refusal {
    fn from(error: ClusterError) -> Self {
        use ClusterError as E;
        let status = match &error {
            E::NoToken | E::Certificate { .. } => StatusCode::BAD_REQUEST,
            E::InvalidToken | E::OtherName => StatusCode::FORBIDDEN,
            E::ManyTries | E::ManyTokens => StatusCode::TOO_MANY_REQUESTS,
            E::NoNode(_) | E::NoUser(_) => StatusCode::NOT_FOUND,
            E::NodeExists(_)
            | E::UserExists(_)
            | E::AddressTaken(_)
            | E::IsAuthority(_)
            | E::LastAdmin(_)
            | E::Elsewhere(_) => StatusCode::CONFLICT,
            E::File { .. } | E::Parse { .. } | E::Taken(_) | E::Authority | E::Unsigned => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, Explained::from_chain(&error).reason, error.hint().as_deref())
    }
}

impl From<MembershipError> for Refusal {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::Cluster(error) => error.into(),
            error => {
                let reason = Explained::from_chain(&error).reason;
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason, Some("is the node with the authority up?"))
            }
        }
    }
}

impl From<NodeError> for Refusal {
    fn from(error: NodeError) -> Self {
        let exit_status = if let NodeError::Program { status, .. } = error { Some(status) } else { None };
        let (status, why) = match error {
            NodeError::NotFound(why) => (StatusCode::NOT_FOUND, why),
            NodeError::Conflict(why) => (StatusCode::CONFLICT, why),
            NodeError::Invalid(why) => (StatusCode::BAD_REQUEST, why),
            NodeError::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, why),
            NodeError::Program { why, .. } => (StatusCode::UNPROCESSABLE_ENTITY, why),
        };
        Self { status, error: ApiError { error: why.reason, hint: why.hint, exit_status } }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_its_status_and_keeps_its_hint() {
        let why = Explained { reason: "cannot stop web: it does not run".into(), hint: Some("start it".into()) };
        let cases = [
            (NodeError::NotFound(why.clone()), 404),
            (NodeError::Conflict(why.clone()), 409),
            (NodeError::Invalid(why.clone()), 400),
            (NodeError::Failed(why.clone()), 500),
            (NodeError::Program { why: why.clone(), status: 127 }, 422),
        ];
        for (error, status) in cases {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.status.as_u16(), status);
            let exit_status = (status == 422).then_some(127);
            assert_eq!(refusal.error, ApiError { error: why.reason.clone(), hint: why.hint.clone(), exit_status });
        }
    }
}
