//! Migrations away from this node: begin, follow, cancel.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use drover_api::{ApiError, MigrateRequest, MigrationQuery, ResolveRequest};
use drover_engine::{Node, NodeError};
use drover_model::{Action, Caller, Check, ContainerName, MigrationId, MigrationState, Plan};
use tokio::sync::watch;

use super::body::{By, JsonBody, Parameters, Segment};
use super::refusal::Refusal;
use crate::gate::Concerns;

/// The longest time that a request may wait for a change.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// All migrations that this node is or was the source of, and those in doubt that it is the target of; of containers that
/// the caller may see.
#[utoipa::path(get, path = "/v1/migrations", tag = "migrations", responses((status = 200, body = [MigrationState])))]
pub(super) async fn list(State(node): State<Arc<Node>>, By(caller): By) -> Json<Vec<MigrationState>> {
    let mut states = node.migrations();
    states.retain(|state| caller.sees(Action::LookAtMigration, state.owner.as_ref()));
    Json(states)
}

/// Begin a migration; the answer comes when it has begun, not when it is done.
#[utoipa::path(post, path = "/v1/migrations", tag = "migrations", request_body = MigrateRequest,
    responses((status = 202, body = MigrationState), (status = "default", body = ApiError)))]
pub(super) async fn begin(
    State(node): State<Arc<Node>>,
    By(caller): By,
    JsonBody(request): JsonBody<MigrateRequest>,
) -> Result<(StatusCode, Extension<Concerns>, Json<MigrationState>), Refusal> {
    let (name, request) = own(&node, &caller, request)?;
    let state = node.migrate(request).await?;
    Ok((StatusCode::ACCEPTED, Extension(Concerns(name)), Json(state)))
}

/// Whether a container can be moved so, on both nodes: nothing is moved.
#[utoipa::path(post, path = "/v1/check", tag = "migrations", request_body = MigrateRequest,
    responses((status = 200, body = Check), (status = "default", body = ApiError)))]
pub(super) async fn check(
    State(node): State<Arc<Node>>,
    By(caller): By,
    JsonBody(request): JsonBody<MigrateRequest>,
) -> Result<(Extension<Concerns>, Json<Check>), Refusal> {
    let (name, request) = own(&node, &caller, request)?;
    Ok((Extension(Concerns(name)), Json(node.check(request).await?)))
}

/// What a move would take, by what the container does and the link carries: nothing is moved.
#[utoipa::path(post, path = "/v1/plan", tag = "migrations", request_body = MigrateRequest,
    responses((status = 200, body = Plan), (status = "default", body = ApiError)))]
pub(super) async fn plan(
    State(node): State<Arc<Node>>,
    By(caller): By,
    JsonBody(request): JsonBody<MigrateRequest>,
) -> Result<(Extension<Concerns>, Json<Plan>), Refusal> {
    let (name, request) = own(&node, &caller, request)?;
    Ok((Extension(Concerns(name)), Json(node.plan(request).await?)))
}

/// The request, about a container that the caller may move.
fn own(node: &Node, caller: &Caller, request: MigrateRequest) -> Result<(ContainerName, MigrateRequest), Refusal> {
    let spec = node.container_of(caller, &request.container)?.spec;
    if !caller.sees(Action::MoveContainer, spec.owner.as_ref()) {
        return Err(NodeError::no_container(&request.container).into());
    }
    // By its id: what was decided is decided about this one.
    Ok((spec.name, MigrateRequest { container: spec.id.to_string(), ..request }))
}

/// One migration: at once, at its next change, or at once when it is over.
#[utoipa::path(get, path = "/v1/migrations/{id}", tag = "migrations",
    params(("id" = String, Path), MigrationQuery),
    responses((status = 200, body = MigrationState), (status = "default", body = ApiError)))]
pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Segment(id): Segment<MigrationId>,
    Parameters(query): Parameters<MigrationQuery>,
) -> Result<Json<MigrationState>, Refusal> {
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(LONGEST_WAIT);
    Ok(Json(next_state(node.migration(&id)?, wait).await))
}

/// Cancel a migration; refused once the decision is made.
#[utoipa::path(delete, path = "/v1/migrations/{id}", tag = "migrations", params(("id" = String, Path)),
    responses((status = 204, description = "being rolled back"), (status = "default", body = ApiError)))]
pub(super) async fn cancel(
    State(node): State<Arc<Node>>,
    Segment(id): Segment<MigrationId>,
) -> Result<StatusCode, Refusal> {
    node.cancel(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say whose the container of a migration in doubt is: this node does its part, the other one is not asked.
#[utoipa::path(post, path = "/v1/migrations/{id}/resolve", tag = "migrations", params(("id" = String, Path)),
    request_body = ResolveRequest,
    responses((status = 204, description = "being done"), (status = "default", body = ApiError)))]
pub(super) async fn resolve(
    State(node): State<Arc<Node>>,
    Segment(id): Segment<MigrationId>,
    JsonBody(request): JsonBody<ResolveRequest>,
) -> Result<StatusCode, Refusal> {
    node.resolve(&id, request.keeps).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The state after its next change, or after `wait`. A migration that is over does not change any more.
async fn next_state(mut states: watch::Receiver<MigrationState>, wait: Duration) -> MigrationState {
    let now = states.borrow_and_update().clone();
    if now.report.is_none() && !wait.is_zero() {
        // Late, or the sender is gone: either way what is known last is the answer.
        let _ = tokio::time::timeout(wait, states.changed()).await;
        return states.borrow().clone();
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::{Bytes, Phase};

    fn state(phase: Phase) -> MigrationState {
        MigrationState {
            id: "00".parse().unwrap(),
            container: "web".parse().unwrap(),
            owner: None,
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            priority: drover_model::Priority::Normal,
            queued: None,
            phase,
            began_at: String::new(),
            in_doubt: false,
            delayed: None,
            bytes_sent: Bytes(0),
            report: None,
        }
    }

    #[tokio::test]
    async fn a_poll_answers_at_a_change_at_its_timeout_and_at_the_end() {
        let (sender, receiver) = watch::channel(state(Phase::Prepare));
        let wait = Duration::from_secs(5);
        assert_eq!(next_state(receiver.clone(), Duration::from_millis(20)).await.phase, Phase::Prepare);
        let polled = tokio::spawn(next_state(receiver.clone(), wait));
        tokio::task::yield_now().await;
        sender.send_replace(state(Phase::Copy));
        assert_eq!(polled.await.unwrap().phase, Phase::Copy);
        drop(sender);
        assert_eq!(next_state(receiver, Duration::MAX).await.phase, Phase::Copy);
    }
}
