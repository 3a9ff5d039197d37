//! The audit log: look.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use drover_api::{ApiError, AuditQuery};
use drover_model::AuditRecord;

use super::body::Parameters;
use super::refusal::Refusal;
use crate::gate::Gate;

/// How many records are given when nobody says how many.
const USUAL: usize = 100;

/// The last records of this node's audit log, the oldest first; at most 10,000.
#[utoipa::path(get, path = "/v1/audit", tag = "node", params(AuditQuery),
    responses((status = 200, body = [AuditRecord]), (status = "default", body = ApiError)))]
pub(super) async fn tail(
    State(gate): State<Arc<Gate>>,
    Parameters(query): Parameters<AuditQuery>,
) -> Result<Json<Vec<AuditRecord>>, Refusal> {
    Ok(Json(gate.audit(query.tail.unwrap_or(USUAL)).await.map_err(|error| Refusal::unread_log(&error))?))
}
