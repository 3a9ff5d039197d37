//! The routes of the API and their description.

mod audit;
mod body;
mod cluster;
mod container;
mod copies;
mod drain;
mod image;
pub(crate) mod join;
mod migration;
mod overlay;
mod refusal;
mod session;
mod volume;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use drover_api::routes;
use drover_engine::Node;
use drover_model::{NodeFeatures, NodeInfo};
pub(crate) use refusal::Refusal;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;

use crate::gate::{Gate, pass};
use crate::membership::Membership;

/// The longest JSON body of a request in bytes.
pub(crate) const LONGEST_BODY: usize = 1 << 20;

/// The router of a node, behind its gate.
pub(crate) fn router(node: Arc<Node>, gate: Arc<Gate>, member: Option<Arc<Membership>>) -> Router {
    let audit = Router::new().route(routes::AUDIT, get(audit::tail)).with_state(gate.clone());
    let cluster = Router::new()
        .route(routes::CLUSTER, get(cluster::show).put(cluster::tell))
        .route(routes::RENEW, post(cluster::renew))
        .route(routes::ROTATE, post(cluster::rotate))
        .route(routes::TOKENS, post(cluster::token))
        .route(routes::CLUSTER_NODE, delete(cluster::remove_node))
        .route(routes::USERS, post(cluster::add_user))
        .route(routes::USER, delete(cluster::remove_user).post(cluster::set_role))
        .with_state(member);
    Router::new()
        .route(routes::NODE, get(node_info))
        .route(routes::FEATURES, get(features))
        .route(routes::OPENAPI, get(document))
        .route(routes::CONTAINERS, get(container::list).post(container::run))
        .route(routes::CONTAINER, get(container::show).delete(container::remove))
        .route(routes::START, post(container::start))
        .route(routes::STOP, post(container::stop))
        .route(routes::KILL, post(container::kill))
        .route(routes::STATS, get(container::stats))
        .route(routes::ALL_STATS, get(container::all_stats))
        .route(routes::WAIT, post(container::wait))
        .route(routes::LOGS, get(session::logs))
        .route(routes::ATTACH, post(session::attach))
        .route(routes::EXEC, post(session::exec))
        .route(routes::IMAGES, get(image::list))
        .route(routes::IMAGE, get(image::show).post(image::import).merge(delete(image::remove)))
        .route(routes::COMMIT, post(image::commit))
        .route(routes::PRUNE_IMAGES, post(image::prune))
        .route(routes::PULL, post(image::pull))
        .route(routes::PUSH, post(image::push))
        .route(routes::OVERLAY, get(overlay::make).post(overlay::synthesize))
        .route(routes::MIGRATIONS, get(migration::list).post(migration::begin))
        .route(routes::CHECK, post(migration::check))
        .route(routes::PLAN, post(migration::plan))
        .route(routes::RESOLVE, post(migration::resolve))
        .route(routes::MIGRATION, get(migration::show).delete(migration::cancel))
        .route(routes::DRAIN, get(drain::show).post(drain::begin).merge(delete(drain::end)))
        .route(routes::CANCEL_DRAIN, post(drain::cancel))
        .route(routes::VOLUMES, get(volume::list).post(volume::create))
        .route(routes::VOLUME, get(volume::show).delete(volume::remove))
        .route(routes::COPIES, get(copies::list))
        .route(routes::COPY, delete(copies::remove))
        .fallback(async || Refusal::no_route())
        .method_not_allowed_fallback(async || Refusal::no_method())
        .with_state(node)
        .merge(audit)
        .merge(cluster)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn_with_state(gate, pass))
}

/// The API as an OpenAPI document, made from the handlers and the types of their bodies.
#[must_use]
pub fn openapi() -> Document {
    Description::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Drover node API",
        description = "One node: its containers, images, volumes, copies and migrations. TLS 1.3 with \
        certificates on both sides; ALPN protocol `drover-api/1`. Every answer outside 2xx is an `ApiError`."
    ),
    paths(
        node_info,
        features,
        document,
        audit::tail,
        cluster::show,
        cluster::tell,
        cluster::renew,
        cluster::rotate,
        cluster::token,
        cluster::remove_node,
        cluster::add_user,
        cluster::set_role,
        cluster::remove_user,
        container::list,
        container::run,
        container::show,
        container::remove,
        container::start,
        container::stop,
        container::kill,
        container::stats,
        container::all_stats,
        container::wait,
        session::logs,
        session::attach,
        session::exec,
        image::list,
        image::show,
        image::import,
        image::remove,
        image::commit,
        image::prune,
        image::pull,
        image::push,
        overlay::make,
        overlay::synthesize,
        migration::list,
        migration::begin,
        migration::check,
        migration::plan,
        migration::show,
        migration::cancel,
        migration::resolve,
        drain::begin,
        drain::show,
        drain::end,
        drain::cancel,
        volume::list,
        volume::create,
        volume::show,
        volume::remove,
        copies::list,
        copies::remove,
    )
)]
struct Description;

/// What the node says about itself.
#[utoipa::path(get, path = "/v1/node", tag = "node", responses((status = 200, body = NodeInfo)))]
async fn node_info(State(node): State<Arc<Node>>) -> Json<NodeInfo> {
    Json(node.info().await)
}

/// What the node's machine can do, probed anew.
#[utoipa::path(get, path = "/v1/features", tag = "node", responses((status = 200, body = NodeFeatures)))]
async fn features(State(node): State<Arc<Node>>) -> Json<NodeFeatures> {
    Json(node.features().await)
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "node",
    responses((status = 200, description = "an OpenAPI document", content_type = "application/json")))]
async fn document() -> Json<Document> {
    Json(openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_every_description_is_a_route() {
        let mut described: Vec<String> = openapi().paths.paths.into_keys().collect();
        let mut routed = routes::ALL.map(str::to_owned).to_vec();
        described.sort();
        routed.sort();
        assert_eq!(described, routed);
    }
}
