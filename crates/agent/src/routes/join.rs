//! Joining: the one route that needs no certificate, on connections that can do nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use drover_api::{Admission, JoinRequest, routes};
use tracing::{info, warn};

use super::body::JsonBody;
use super::refusal::Refusal;
use crate::gate::Gate;
use crate::membership::Membership;

/// The longest body in bytes: a token and a request for a certificate.
const LONGEST_BODY: usize = 16 << 10;

/// The router of connections on which nodes join.
pub(crate) fn router(membership: Arc<Membership>, gate: Arc<Gate>) -> Router {
    Router::new()
        .route(routes::JOIN, post(join))
        .fallback(async || Refusal::no_route())
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state((membership, gate))
}

async fn join(
    State((membership, gate)): State<(Arc<Membership>, Arc<Gate>)>,
    Extension(address): Extension<SocketAddr>,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Result<(StatusCode, Json<Admission>), Refusal> {
    let name = request.name.clone();
    let joining = tokio::task::spawn_blocking(move || membership.join(&request, address.ip()));
    let joined = match joining.await {
        Ok(joined) => joined,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    match &joined {
        Ok(_) => info!(node = %name, %address, "node has joined the cluster"),
        Err(error) => warn!(node = %name, %address, %error, "node may not join the cluster"),
    }
    gate.joined(&name, address, joined.is_ok()).await;
    Ok((StatusCode::CREATED, Json(joined?)))
}
