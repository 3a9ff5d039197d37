//! Containers: make, look, start, stop, remove.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use drover_api::{ApiError, ExitStatus, KillRequest, RemoveQuery, RunRequest, StatsEntry, StopRequest};
use drover_engine::Node;
use drover_model::{Action, Caller, ContainerRecord, ContainerStats};
use tracing::info;

use super::body::{By, Chosen, JsonBody, Parameters};
use super::refusal::Refusal;
use crate::gate::Concerns;

/// A record as the caller may see it. What a program was started with often holds secrets: a viewer sees the names of
/// variables alone.
fn shown(mut record: ContainerRecord, caller: &Caller) -> Json<ContainerRecord> {
    if !caller.sees_environment() {
        for variable in &mut record.spec.process.env {
            let name = variable.split('=').next().unwrap_or_default();
            *variable = format!("{name}=(hidden)");
        }
    }
    Json(record)
}

/// All containers on this node that the caller may see.
#[utoipa::path(get, path = "/v1/containers", tag = "containers", responses((status = 200, body = [ContainerRecord])))]
pub(super) async fn list(State(node): State<Arc<Node>>, By(caller): By) -> Json<Vec<ContainerRecord>> {
    let mut records = node.containers();
    records.retain(|record| caller.sees(Action::LookAtContainer, record.spec.owner.as_ref()));
    Json(records.into_iter().map(|record| shown(record, &caller).0).collect())
}

/// Make a container, which is the caller's, and start it.
#[utoipa::path(post, path = "/v1/containers", tag = "containers", request_body = RunRequest,
    responses((status = 201, body = ContainerRecord), (status = "default", body = ApiError)))]
pub(super) async fn run(
    State(node): State<Arc<Node>>,
    By(caller): By,
    JsonBody(request): JsonBody<RunRequest>,
) -> Result<(StatusCode, Extension<Concerns>, Json<ContainerRecord>), Refusal> {
    let record = node.run(request, caller).await?;
    info!(container = %record.spec.name, id = %record.spec.id, image = %record.spec.image, "container made and started");
    Ok((StatusCode::CREATED, Extension(Concerns(record.spec.name.clone())), Json(record)))
}

/// One container, by name, id, or unique beginning of an id.
#[utoipa::path(get, path = "/v1/containers/{name}", tag = "containers", params(("name" = String, Path)),
    responses((status = 200, body = ContainerRecord), (status = "default", body = ApiError)))]
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    By(caller): By,
    Chosen(name): Chosen,
) -> Result<Json<ContainerRecord>, Refusal> {
    Ok(shown(node.container(&name)?, &caller))
}

/// Remove a container and its files.
#[utoipa::path(delete, path = "/v1/containers/{name}", tag = "containers",
    params(("name" = String, Path), RemoveQuery),
    responses((status = 204, description = "removed"), (status = "default", body = ApiError)))]
pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
    Parameters(query): Parameters<RemoveQuery>,
) -> Result<StatusCode, Refusal> {
    let spec = node.container(&name)?.spec;
    node.remove(spec.id.as_str(), query.force).await?;
    info!(container = %spec.name, id = %spec.id, "container removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Start a container's program again.
#[utoipa::path(post, path = "/v1/containers/{name}/start", tag = "containers", params(("name" = String, Path)),
    responses((status = 200, body = ContainerRecord), (status = "default", body = ApiError)))]
pub(super) async fn start(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
) -> Result<Json<ContainerRecord>, Refusal> {
    let record = node.start(&name).await?;
    info!(container = %record.spec.name, id = %record.spec.id, "container started");
    Ok(Json(record))
}

/// End a container's program: SIGTERM, and SIGKILL after the timeout.
#[utoipa::path(post, path = "/v1/containers/{name}/stop", tag = "containers", params(("name" = String, Path)),
    request_body = StopRequest,
    responses((status = 200, body = ContainerRecord), (status = "default", body = ApiError)))]
pub(super) async fn stop(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
    JsonBody(request): JsonBody<StopRequest>,
) -> Result<Json<ContainerRecord>, Refusal> {
    Ok(Json(node.stop(&name, Duration::from_secs(request.timeout_s)).await?))
}

/// Send a signal to a container's program.
#[utoipa::path(post, path = "/v1/containers/{name}/kill", tag = "containers", params(("name" = String, Path)),
    request_body = KillRequest,
    responses((status = 204, description = "sent"), (status = "default", body = ApiError)))]
pub(super) async fn kill(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
    JsonBody(request): JsonBody<KillRequest>,
) -> Result<StatusCode, Refusal> {
    node.kill(&name, request.signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a container uses now.
#[utoipa::path(get, path = "/v1/containers/{name}/stats", tag = "containers", params(("name" = String, Path)),
    responses((status = 200, body = ContainerStats), (status = "default", body = ApiError)))]
pub(super) async fn stats(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
) -> Result<Json<ContainerStats>, Refusal> {
    Ok(Json(node.stats(&name).await?))
}

/// What all containers use that run and that the caller may see.
#[utoipa::path(get, path = "/v1/stats", tag = "containers", responses((status = 200, body = [StatsEntry])))]
pub(super) async fn all_stats(State(node): State<Arc<Node>>, By(caller): By) -> Json<Vec<StatsEntry>> {
    Json(node.all_stats(&caller).await.into_iter().map(|(id, stats)| StatsEntry { id, stats }).collect())
}

/// Answer when a container's program has ended.
#[utoipa::path(post, path = "/v1/containers/{name}/wait", tag = "containers", params(("name" = String, Path)),
    responses((status = 200, body = ExitStatus), (status = "default", body = ApiError)))]
pub(super) async fn wait(State(node): State<Arc<Node>>, Chosen(name): Chosen) -> Result<Json<ExitStatus>, Refusal> {
    Ok(Json(ExitStatus { status: node.wait(&name).await? }))
}
