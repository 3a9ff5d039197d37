//! Overlays: the difference between two images as a file, and an image that is made of one.

use std::fs::File;
use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use drover_api::{ApiError, ImageInfo, OverlayQuery, OverlayReport, SynthesizeQuery, routes};
use drover_engine::Node;
use tokio::io::AsyncReadExt;
use tracing::info;

use super::body::{BodyReader, Parameters};
use super::refusal::Refusal;

/// How much of a file is read at once, in bytes.
const PIECE: usize = 256 << 10;

/// Make an overlay: the difference between two images, of which and the base another node makes the image, bit for bit.
#[utoipa::path(get, path = "/v1/overlay", tag = "images", params(OverlayQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream",
            headers(("drover-overlay" = OverlayReport, description = "what it is made of, in JSON"))),
        (status = "default", body = ApiError)))]
pub(super) async fn make(
    State(node): State<Arc<Node>>,
    Parameters(query): Parameters<OverlayQuery>,
) -> Result<Response, Refusal> {
    let (file, report) = node.overlay(query).await?;
    info!(base = %report.base, image = %report.image, bytes = %report.bytes, "overlay made");
    Ok(answer(file, &report))
}

fn answer(file: File, report: &OverlayReport) -> Response {
    // Digests and numbers: a header may hold them.
    let described = serde_json::to_string(report).ok().and_then(|json| HeaderValue::try_from(json).ok());
    let described = described.unwrap_or_else(|| HeaderValue::from_static("{}"));
    let mut response =
        Body::from_stream(futures_util::stream::unfold(tokio::fs::File::from_std(file), read)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(routes::OCTETS));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(report.bytes.0));
    headers.insert(routes::OVERLAY_REPORT, described);
    response
}

/// The next piece of a file, and the file.
async fn read(mut file: tokio::fs::File) -> Option<(io::Result<Bytes>, tokio::fs::File)> {
    let mut piece = vec![0; PIECE];
    match file.read(&mut piece).await {
        Ok(0) => None,
        Ok(length) => {
            piece.truncate(length);
            Some((Ok(piece.into()), file))
        }
        Err(error) => Some((Err(error), file)),
    }
}

/// Make an image of its base, which is here, and an overlay.
#[utoipa::path(post, path = "/v1/overlay", tag = "images", params(SynthesizeQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = ImageInfo), (status = "default", body = ApiError)))]
pub(super) async fn synthesize(
    State(node): State<Arc<Node>>,
    Parameters(query): Parameters<SynthesizeQuery>,
    body: Body,
) -> Result<(StatusCode, Json<ImageInfo>), Refusal> {
    let image = node.synthesize(query, BodyReader::new(body)).await?;
    info!(digest = %image.digest, size = %image.size, "image synthesized");
    Ok((StatusCode::CREATED, Json(image)))
}
