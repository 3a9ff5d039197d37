//! Images: look, import, make of a container, pull, push, remove.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use drover_api::{
    ApiError, CommitRequest, ImageDetail, ImageInfo, ImportQuery, PruneQuery, PruneReport, PullRequest, PushReport,
    PushRequest,
};
use drover_engine::{Choice, Node};
use drover_model::Digest;
use tracing::info;

use super::body::{BodyReader, Chosen, JsonBody, Parameters, Segment};
use super::refusal::Refusal;

/// All images on this node.
#[utoipa::path(get, path = "/v1/images", tag = "images",
    responses((status = 200, body = [ImageInfo]), (status = "default", body = ApiError)))]
pub(super) async fn list(State(node): State<Arc<Node>>) -> Result<Json<Vec<ImageInfo>>, Refusal> {
    Ok(Json(node.images().await?))
}

/// One image, with its configuration, its history and its layers.
#[utoipa::path(get, path = "/v1/images/{name}", tag = "images",
    params(("name" = String, Path, description = "a name, percent-encoded, or a digest")),
    responses((status = 200, body = ImageDetail), (status = "default", body = ApiError)))]
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Segment(name): Segment<String>,
) -> Result<Json<ImageDetail>, Refusal> {
    Ok(Json(node.image(&name).await?))
}

/// Import the tar of a root file system, of an OCI image layout, or what `docker save` writes, compressed by gzip or
/// Zstandard or not at all; the name leads to it from then on.
#[utoipa::path(post, path = "/v1/images/{name}", tag = "images",
    params(("name" = String, Path, description = "percent-encoded: it may contain ':' and '/'"), ImportQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = ImageInfo), (status = "default", body = ApiError)))]
pub(super) async fn import(
    State(node): State<Arc<Node>>,
    Segment(name): Segment<String>,
    Parameters(query): Parameters<ImportQuery>,
    body: Body,
) -> Result<(StatusCode, Json<ImageInfo>), Refusal> {
    let choice = Choice { tag: query.tag, platform: query.platform };
    let image = node.import_image(&name, choice, BodyReader::new(body)).await?;
    info!(image = %name, digest = %image.digest, size = %image.size, "image imported");
    Ok((StatusCode::CREATED, Json(image)))
}

/// Remove a name, and the image when no name is left.
#[utoipa::path(delete, path = "/v1/images/{name}", tag = "images",
    params(("name" = String, Path, description = "percent-encoded: it may contain ':' and '/'")),
    responses((status = 200, body = Digest), (status = "default", body = ApiError)))]
pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    Segment(name): Segment<String>,
) -> Result<Json<Digest>, Refusal> {
    let digest = node.remove_image(&name).await?;
    info!(image = %name, %digest, "image removed");
    Ok(Json(digest))
}

/// Make an image of a container's image and what the container has changed; one that runs stands still meanwhile.
#[utoipa::path(post, path = "/v1/containers/{name}/commit", tag = "images", params(("name" = String, Path)),
    request_body = CommitRequest,
    responses((status = 201, body = ImageInfo), (status = "default", body = ApiError)))]
pub(super) async fn commit(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
    JsonBody(request): JsonBody<CommitRequest>,
) -> Result<(StatusCode, Json<ImageInfo>), Refusal> {
    let image = node.commit(&name, request).await?;
    info!(container = %name, digest = %image.digest, size = %image.size, "image made of a container");
    Ok((StatusCode::CREATED, Json(image)))
}

/// Remove images that no container needs: those without a name, or all.
#[utoipa::path(post, path = "/v1/prune/images", tag = "images", params(PruneQuery),
    responses((status = 200, body = PruneReport), (status = "default", body = ApiError)))]
pub(super) async fn prune(
    State(node): State<Arc<Node>>,
    Parameters(query): Parameters<PruneQuery>,
) -> Result<Json<PruneReport>, Refusal> {
    let report = node.prune_images(query.all).await?;
    info!(images = report.images.len(), layers = report.layers.len(), "images pruned");
    Ok(Json(report))
}

/// Pull an image from a registry: only the layers that are missing.
#[utoipa::path(post, path = "/v1/registry/pull", tag = "images", request_body = PullRequest,
    responses((status = 201, body = ImageInfo), (status = "default", body = ApiError)))]
pub(super) async fn pull(
    State(node): State<Arc<Node>>,
    JsonBody(request): JsonBody<PullRequest>,
) -> Result<(StatusCode, Json<ImageInfo>), Refusal> {
    let reference = request.reference.clone();
    let image = node.pull_image(request).await?;
    info!(%reference, digest = %image.digest, size = %image.size, "image pulled");
    Ok((StatusCode::CREATED, Json(image)))
}

/// Push an image to a registry: only the layers that it lacks.
#[utoipa::path(post, path = "/v1/registry/push", tag = "images", request_body = PushRequest,
    responses((status = 200, body = PushReport), (status = "default", body = ApiError)))]
pub(super) async fn push(
    State(node): State<Arc<Node>>,
    JsonBody(request): JsonBody<PushRequest>,
) -> Result<Json<PushReport>, Refusal> {
    let report = node.push_image(request).await?;
    info!(reference = %report.reference, digest = %report.digest, "image pushed");
    Ok(Json(report))
}
