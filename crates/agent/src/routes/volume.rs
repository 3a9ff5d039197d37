//! Volumes: declare, look, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use drover_api::{ApiError, CreateVolumeRequest};
use drover_engine::Node;
use drover_model::{VolumeName, VolumeRecord};
use tracing::info;

use super::body::{JsonBody, Segment};
use super::refusal::Refusal;

/// All volumes on this node.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", responses((status = 200, body = [VolumeRecord])))]
pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<Vec<VolumeRecord>> {
    Json(node.volumes())
}

/// Declare a volume.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", request_body = CreateVolumeRequest,
    responses((status = 201, body = VolumeRecord), (status = "default", body = ApiError)))]
pub(super) async fn create(
    State(node): State<Arc<Node>>,
    JsonBody(request): JsonBody<CreateVolumeRequest>,
) -> Result<(StatusCode, Json<VolumeRecord>), Refusal> {
    let record = node.create_volume(request).await?;
    info!(volume = %record.spec.name, driver = %record.spec.driver, "volume declared");
    Ok((StatusCode::CREATED, Json(record)))
}

/// One volume.
#[utoipa::path(get, path = "/v1/volumes/{name}", tag = "volumes", params(("name" = String, Path)),
    responses((status = 200, body = VolumeRecord), (status = "default", body = ApiError)))]
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Segment(name): Segment<VolumeName>,
) -> Result<Json<VolumeRecord>, Refusal> {
    Ok(Json(node.volume(&name)?))
}

/// Remove a volume that no container uses, with the files of a local one.
#[utoipa::path(delete, path = "/v1/volumes/{name}", tag = "volumes", params(("name" = String, Path)),
    responses((status = 204, description = "removed"), (status = "default", body = ApiError)))]
pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    Segment(name): Segment<VolumeName>,
) -> Result<StatusCode, Refusal> {
    node.remove_volume(&name).await?;
    info!(volume = %name, "volume removed");
    Ok(StatusCode::NO_CONTENT)
}
