//! Every answer that reports an error: a status and an `ApiError`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use drover_api::ApiError;
use drover_engine::NodeError;

/// An answer that reports an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    error: ApiError,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>, hint: Option<&str>) -> Self {
        Self { status, error: ApiError { error: error.into(), hint: hint.map(str::to_owned), exit_status: None } }
    }

    pub(super) fn no_route() -> Self {
        let hint = "GET /v1/openapi.json lists the routes; client and node may have different versions";
        Self::new(StatusCode::NOT_FOUND, "this path does not exist", Some(hint))
    }

    pub(super) fn no_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method", None)
    }

    pub(super) fn node() -> Self {
        let hint = "use a certificate of a user: one with the usage clientAuth and without serverAuth";
        Self::new(StatusCode::FORBIDDEN, "a node's certificate opens migration links and not the API", Some(hint))
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
    use drover_model::Explained;

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
