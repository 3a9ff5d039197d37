//! Emptying the node: begin, follow, end.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use drover_api::{ApiError, DrainRequest, MigrationQuery};
use drover_engine::Node;
use drover_model::DrainState;

use super::body::{JsonBody, Parameters};
use super::migration::LONGEST_WAIT;
use super::refusal::Refusal;

/// Take nothing new, also after a restart of the agent, and move what runs to other nodes; the answer comes when that has
/// begun.
#[utoipa::path(post, path = "/v1/drain", tag = "node", request_body = DrainRequest,
    responses((status = 202, body = DrainState), (status = "default", body = ApiError)))]
pub(super) async fn begin(
    State(node): State<Arc<Node>>,
    JsonBody(request): JsonBody<DrainRequest>,
) -> Result<(StatusCode, Json<DrainState>), Refusal> {
    Ok((StatusCode::ACCEPTED, Json(node.drain(request).await?)))
}

/// The drain that was ordered last: at once, at its next change, or at once when all its moves have ended.
#[utoipa::path(get, path = "/v1/drain", tag = "node", params(MigrationQuery),
    responses((status = 200, body = DrainState), (status = "default", body = ApiError)))]
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Parameters(query): Parameters<MigrationQuery>,
) -> Result<Json<DrainState>, Refusal> {
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(LONGEST_WAIT);
    let mut states = node.drain_state()?;
    if !states.borrow_and_update().ended && !wait.is_zero() {
        // Late, or replaced by another drain: either way what is known last is the answer.
        let _ = tokio::time::timeout(wait, states.changed()).await;
    }
    let state = states.borrow().clone();
    Ok(Json(state))
}

/// Begin no further move of the drain. Those under way go on, and the node still takes nothing new.
#[utoipa::path(post, path = "/v1/drain/cancel", tag = "node",
    responses((status = 204, description = "no further move begins")))]
pub(super) async fn cancel(State(node): State<Arc<Node>>) -> StatusCode {
    node.cancel_drain().await;
    StatusCode::NO_CONTENT
}

/// Take what comes again; a drain that is under way begins no further move.
#[utoipa::path(delete, path = "/v1/drain", tag = "node",
    responses((status = 204, description = "the node takes containers again"), (status = "default", body = ApiError)))]
pub(super) async fn end(State(node): State<Arc<Node>>) -> Result<StatusCode, Refusal> {
    node.undrain().await?;
    Ok(StatusCode::NO_CONTENT)
}
