//! Images: look, import, remove.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use drover_api::{ApiError, ImageInfo};
use drover_engine::Node;
use drover_model::Digest;
use tracing::info;

use super::body::{BodyReader, Segment};
use super::refusal::Refusal;

/// All images on this node.
#[utoipa::path(get, path = "/v1/images", tag = "images",
    responses((status = 200, body = [ImageInfo]), (status = "default", body = ApiError)))]
pub(super) async fn list(State(node): State<Arc<Node>>) -> Result<Json<Vec<ImageInfo>>, Refusal> {
    Ok(Json(node.images()?))
}

/// Import a root file system from an uncompressed tar archive; the name leads to it from then on.
#[utoipa::path(post, path = "/v1/images/{name}", tag = "images",
    params(("name" = String, Path, description = "percent-encoded: it may contain ':' and '/'")),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = ImageInfo), (status = "default", body = ApiError)))]
pub(super) async fn import(
    State(node): State<Arc<Node>>,
    Segment(name): Segment<String>,
    body: Body,
) -> Result<(StatusCode, Json<ImageInfo>), Refusal> {
    let image = node.import_image(&name, BodyReader::new(body)).await?;
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
