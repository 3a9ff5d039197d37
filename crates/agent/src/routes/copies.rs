//! Copies of files of containers that are elsewhere: look, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use drover_api::ApiError;
use drover_engine::Node;
use drover_model::{Action, ContainerId, CopyRecord};
use tracing::info;

use super::body::{By, Segment};
use super::refusal::Refusal;

/// All copies on this node of files of containers that are elsewhere, and that the caller may see, the oldest first.
#[utoipa::path(get, path = "/v1/copies", tag = "copies", responses((status = 200, body = [CopyRecord])))]
pub(super) async fn list(State(node): State<Arc<Node>>, By(caller): By) -> Json<Vec<CopyRecord>> {
    let mut copies = node.copies().await;
    copies.retain(|copy| caller.sees(Action::LookAtCopy, copy.owner.as_ref()));
    Json(copies)
}

/// Remove a copy.
#[utoipa::path(delete, path = "/v1/copies/{id}", tag = "copies", params(("id" = String, Path)),
    responses((status = 204, description = "removed"), (status = "default", body = ApiError)))]
pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    Segment(id): Segment<ContainerId>,
) -> Result<StatusCode, Refusal> {
    node.remove_copy(&id).await?;
    info!(container = %id, "copy removed");
    Ok(StatusCode::NO_CONTENT)
}
