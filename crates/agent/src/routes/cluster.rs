//! The cluster itself: its document, and what its authority's node does about it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use drover_api::{
    AddUserRequest, Admission, ApiError, ClusterQuery, RenewRequest, RoleRequest, SignedDocument, TokenAnswer,
    TokenRequest,
};
use drover_cluster::ClusterError;
use drover_model::{NodeName, UserName};
use tracing::info;

use super::body::{JsonBody, Parameters, Segment};
use super::refusal::Refusal;
use crate::gate::Visitor;
use crate::membership::Membership;

/// The membership, if the node has one.
pub(super) type Member = Option<Arc<Membership>>;

fn of(member: Member) -> Result<Arc<Membership>, Refusal> {
    member.ok_or_else(Refusal::no_cluster)
}

/// Does what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    member: Member,
    work: impl FnOnce(&Membership) -> Result<T, ClusterError> + Send + 'static,
) -> Result<T, Refusal> {
    let membership = of(member)?;
    match tokio::task::spawn_blocking(move || work(&membership)).await {
        Ok(done) => Ok(done?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Who belongs to the cluster, as its authority has signed it.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster", params(ClusterQuery),
    responses((status = 200, body = SignedDocument), (status = 204, description = "there is no newer one"),
        (status = "default", body = ApiError)))]
pub(super) async fn show(
    State(member): State<Member>,
    Parameters(query): Parameters<ClusterQuery>,
) -> Result<Response, Refusal> {
    let believed = of(member)?.believed();
    if query.newer_than.is_some_and(|version| believed.document.version <= version) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(believed.signed.clone()).into_response())
}

/// Tell the node of a newer document; one that is not newer changes nothing.
#[utoipa::path(put, path = "/v1/cluster", tag = "cluster", request_body = SignedDocument,
    responses((status = 204, description = "heard"), (status = "default", body = ApiError)))]
pub(super) async fn tell(
    State(member): State<Member>,
    JsonBody(signed): JsonBody<SignedDocument>,
) -> Result<StatusCode, Refusal> {
    blocking(member, move |member| member.accept(signed)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A certificate of the caller's own name for a new key. The authority's node alone answers.
#[utoipa::path(post, path = "/v1/cluster/renew", tag = "cluster", request_body = RenewRequest,
    responses((status = 200, body = Admission), (status = "default", body = ApiError)))]
pub(super) async fn renew(
    State(member): State<Member>,
    Extension(visitor): Extension<Arc<Visitor>>,
    JsonBody(request): JsonBody<RenewRequest>,
) -> Result<Json<Admission>, Refusal> {
    let identity = visitor.shown.identity.clone();
    let admission = blocking(member, move |member| member.renewed(&visitor.shown, &request.request)).await?;
    info!(%identity, "certificate renewed");
    Ok(Json(admission))
}

/// Have this node's own certificate renewed now.
#[utoipa::path(post, path = "/v1/cluster/rotate", tag = "cluster",
    responses((status = 204, description = "it has a new one"), (status = "default", body = ApiError)))]
pub(super) async fn rotate(State(member): State<Member>) -> Result<StatusCode, Refusal> {
    of(member)?.renew().await.map_err(Refusal::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// A token with which one node may join, once. The authority's node alone answers.
#[utoipa::path(post, path = "/v1/cluster/tokens", tag = "cluster", request_body = TokenRequest,
    responses((status = 201, body = TokenAnswer), (status = "default", body = ApiError)))]
pub(super) async fn token(
    State(member): State<Member>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<(StatusCode, Json<TokenAnswer>), Refusal> {
    let answer = blocking(member, move |member| member.token(request)).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Remove a node. The authority's node alone answers.
#[utoipa::path(delete, path = "/v1/cluster/nodes/{name}", tag = "cluster", params(("name" = String, Path)),
    responses((status = 204, description = "removed"), (status = "default", body = ApiError)))]
pub(super) async fn remove_node(
    State(member): State<Member>,
    Segment(name): Segment<NodeName>,
) -> Result<StatusCode, Refusal> {
    info!(node = %name, "node is being removed from the cluster");
    blocking(member, move |member| member.remove_node(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Add a user. The authority's node alone answers.
#[utoipa::path(post, path = "/v1/cluster/users", tag = "cluster", request_body = AddUserRequest,
    responses((status = 201, body = Admission), (status = "default", body = ApiError)))]
pub(super) async fn add_user(
    State(member): State<Member>,
    JsonBody(request): JsonBody<AddUserRequest>,
) -> Result<(StatusCode, Json<Admission>), Refusal> {
    info!(user = %request.name, role = %request.role, "user is being added to the cluster");
    Ok((StatusCode::CREATED, Json(blocking(member, move |member| member.add_user(request)).await?)))
}

/// Give a user another role: it counts from the next request on. The authority's node alone answers.
#[utoipa::path(post, path = "/v1/cluster/users/{name}", tag = "cluster", params(("name" = String, Path)),
    request_body = RoleRequest,
    responses((status = 204, description = "given"), (status = "default", body = ApiError)))]
pub(super) async fn set_role(
    State(member): State<Member>,
    Segment(name): Segment<UserName>,
    JsonBody(request): JsonBody<RoleRequest>,
) -> Result<StatusCode, Refusal> {
    info!(user = %name, role = %request.role, "user is being given another role");
    blocking(member, move |member| member.set_role(&name, request.role)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a user: what its certificates opened ends. The authority's node alone answers.
#[utoipa::path(delete, path = "/v1/cluster/users/{name}", tag = "cluster", params(("name" = String, Path)),
    responses((status = 204, description = "removed"), (status = "default", body = ApiError)))]
pub(super) async fn remove_user(
    State(member): State<Member>,
    Segment(name): Segment<UserName>,
) -> Result<StatusCode, Refusal> {
    info!(user = %name, "user is being removed from the cluster");
    blocking(member, move |member| member.remove_user(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}
