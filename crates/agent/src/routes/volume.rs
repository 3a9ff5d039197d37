//! Volumes: declare, look, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use drover_api::{ApiError, CreateVolumeRequest};
use drover_engine::Node;
use drover_model::{Action, Driver, Object, Verdict, VolumeName, VolumeRecord, decide};
use tracing::info;

use super::body::{By, JsonBody, Segment};
use super::refusal::Refusal;

/// All volumes on this node that the caller may see.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", responses((status = 200, body = [VolumeRecord])))]
pub(super) async fn list(State(node): State<Arc<Node>>, By(caller): By) -> Json<Vec<VolumeRecord>> {
    let mut volumes = node.volumes();
    volumes.retain(|volume| caller.sees(Action::LookAtVolume, volume.spec.owner.as_ref()));
    Json(volumes)
}

/// Declare a volume. Those that show what is elsewhere are for administrators: a node mounts them as root.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", request_body = CreateVolumeRequest,
    responses((status = 201, body = VolumeRecord), (status = "default", body = ApiError)))]
pub(super) async fn create(
    State(node): State<Arc<Node>>,
    By(caller): By,
    JsonBody(mut request): JsonBody<CreateVolumeRequest>,
) -> Result<(StatusCode, Json<VolumeRecord>), Refusal> {
    let is_local = request.driver == Driver::Local;
    if !is_local && decide(&caller, Action::MakeSharedVolume, Object::Any) != Verdict::Allowed {
        return Err(Refusal::forbidden(&caller, Action::MakeSharedVolume));
    }
    if caller.has_only_own() && request.owner.as_ref().is_some_and(|owner| Some(owner) != caller.user()) {
        let reason = "cannot create a volume for somebody else";
        return Err(Refusal::not_yours(reason, "leave the owner out: it will be yours"));
    }
    request.owner = request.owner.or_else(|| caller.user().cloned());
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
