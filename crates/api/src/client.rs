//! The typed client: one method for each route, one connection for each call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_model::{
    AuditRecord, Check, ContainerId, ContainerRecord, ContainerStats, CopyRecord, Digest, DrainState, MigrationId,
    MigrationState, NodeFeatures, NodeInfo, NodeName, Plan, Side, UserName, VolumeName, VolumeRecord,
};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::connection::{ClientError, Outgoing, open};
use crate::routes::{self, fill, with_query};
use crate::{
    AddUserRequest, Admission, ApiError, CommitRequest, CreateVolumeRequest, DrainRequest, ExecRequest, ExitStatus,
    ImageDetail, ImageInfo, ImportQuery, JoinRequest, KillRequest, LogLines, LogQuery, MigrateRequest, NodeEndpoint,
    OverlayDownload, OverlayQuery, PruneReport, PullRequest, PushReport, PushRequest, RenewRequest, ResolveRequest,
    RoleRequest, RunRequest, SignedDocument, StatsEntry, StopRequest, SynthesizeQuery, TokenAnswer, TokenRequest,
};

/// How long a node may take to answer what it does at once.
const PROMPT: Duration = Duration::from_secs(30);
/// How long a node may take for work on a container or an image.
const WORK: Duration = Duration::from_secs(300);
/// The longest JSON answer in bytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// An upgraded connection: a framed stream, see [`crate::stream`].
pub type SessionLink = TokioIo<Upgraded>;

/// The pieces of an archive on its way to a node; an error breaks the import off.
pub type ImageChunks = mpsc::Receiver<io::Result<Bytes>>;

/// A client of one node.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: NodeEndpoint,
    tls: Arc<ClientConfig>,
}

impl Client {
    /// A client; nothing is sent yet. `tls` must speak [`crate::tls::API_PROTOCOL`].
    #[must_use]
    pub fn new(endpoint: NodeEndpoint, tls: Arc<ClientConfig>) -> Self {
        Self { endpoint, tls }
    }

    /// The node that it talks to.
    #[must_use]
    pub fn node_name(&self) -> &NodeName {
        &self.endpoint.name
    }

    /// What the node says about itself.
    pub async fn node(&self) -> Result<NodeInfo, ClientError> {
        self.ask(Method::GET, routes::NODE.into(), empty(), PROMPT).await
    }

    /// What the node's machine can do.
    pub async fn features(&self) -> Result<NodeFeatures, ClientError> {
        self.ask(Method::GET, routes::FEATURES.into(), empty(), PROMPT).await
    }

    /// The last records of the node's audit log, the oldest first.
    pub async fn audit(&self, tail: usize) -> Result<Vec<AuditRecord>, ClientError> {
        self.ask(Method::GET, format!("{}?tail={tail}", routes::AUDIT), empty(), PROMPT).await
    }

    /// Who belongs to the cluster; nothing when the node knows nothing newer than this version.
    pub async fn cluster(&self, newer_than: Option<u64>) -> Result<Option<SignedDocument>, ClientError> {
        let newer_than = newer_than.map(|version| version.to_string());
        let path = with_query(routes::CLUSTER.into(), &[("newer_than", &newer_than)]);
        let answer = self.send(self.request(Method::GET, path, empty()), PROMPT).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let bytes = self.collect(answer.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.answer("it is not what was asked for", Some(error)))
    }

    /// Tells the node of a newer document of its cluster.
    pub async fn tell(&self, signed: &SignedDocument) -> Result<(), ClientError> {
        self.order(Method::PUT, routes::CLUSTER.into(), self.json(signed)?, PROMPT).await
    }

    /// A certificate of the caller's own name for a new key.
    pub async fn renew(&self, request: &RenewRequest) -> Result<Admission, ClientError> {
        self.ask(Method::POST, routes::RENEW.into(), self.json(request)?, PROMPT).await
    }

    /// Has the node's own certificate renewed.
    pub async fn rotate(&self) -> Result<(), ClientError> {
        self.order(Method::POST, routes::ROTATE.into(), empty(), PROMPT).await
    }

    /// A token with which one node may join.
    pub async fn token(&self, request: &TokenRequest) -> Result<TokenAnswer, ClientError> {
        self.ask(Method::POST, routes::TOKENS.into(), self.json(request)?, PROMPT).await
    }

    /// Joins with a token; the client must speak the protocol of joining.
    pub async fn join(&self, request: &JoinRequest) -> Result<Admission, ClientError> {
        self.ask(Method::POST, routes::JOIN.into(), self.json(request)?, PROMPT).await
    }

    /// Removes a node from the cluster.
    pub async fn remove_node(&self, name: &NodeName) -> Result<(), ClientError> {
        self.order(Method::DELETE, fill(routes::CLUSTER_NODE, name.as_str()), empty(), PROMPT).await
    }

    /// Adds a user to the cluster.
    pub async fn add_user(&self, request: &AddUserRequest) -> Result<Admission, ClientError> {
        self.ask(Method::POST, routes::USERS.into(), self.json(request)?, PROMPT).await
    }

    /// Gives a user of the cluster another role.
    pub async fn set_role(&self, name: &UserName, request: &RoleRequest) -> Result<(), ClientError> {
        self.order(Method::POST, fill(routes::USER, name.as_str()), self.json(request)?, PROMPT).await
    }

    /// Removes a user from the cluster.
    pub async fn remove_user(&self, name: &UserName) -> Result<(), ClientError> {
        self.order(Method::DELETE, fill(routes::USER, name.as_str()), empty(), PROMPT).await
    }

    /// All containers on the node.
    pub async fn containers(&self) -> Result<Vec<ContainerRecord>, ClientError> {
        self.ask(Method::GET, routes::CONTAINERS.into(), empty(), PROMPT).await
    }

    /// Makes a container and starts it.
    pub async fn run(&self, request: &RunRequest) -> Result<ContainerRecord, ClientError> {
        self.ask(Method::POST, routes::CONTAINERS.into(), self.json(request)?, WORK).await
    }

    /// One container, by name, id, or the beginning of an id.
    pub async fn container(&self, name: &str) -> Result<ContainerRecord, ClientError> {
        self.ask(Method::GET, fill(routes::CONTAINER, name), empty(), PROMPT).await
    }

    /// Removes a container; `force` kills its program first.
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), ClientError> {
        let path = format!("{}?force={force}", fill(routes::CONTAINER, name));
        self.order(Method::DELETE, path, empty(), WORK).await
    }

    /// Starts a container's program again.
    pub async fn start(&self, name: &str) -> Result<ContainerRecord, ClientError> {
        self.ask(Method::POST, fill(routes::START, name), empty(), WORK).await
    }

    /// Ends a container's program: SIGTERM, and SIGKILL after the request's timeout.
    pub async fn stop(&self, name: &str, request: &StopRequest) -> Result<ContainerRecord, ClientError> {
        let limit = WORK.saturating_add(Duration::from_secs(request.timeout_s));
        self.ask(Method::POST, fill(routes::STOP, name), self.json(request)?, limit).await
    }

    /// Sends a signal to a container's program.
    pub async fn kill(&self, name: &str, request: &KillRequest) -> Result<(), ClientError> {
        self.order(Method::POST, fill(routes::KILL, name), self.json(request)?, PROMPT).await
    }

    /// What a container uses now.
    pub async fn stats(&self, name: &str) -> Result<ContainerStats, ClientError> {
        self.ask(Method::GET, fill(routes::STATS, name), empty(), PROMPT).await
    }

    /// What all containers on the node use that run.
    pub async fn all_stats(&self) -> Result<Vec<StatsEntry>, ClientError> {
        self.ask(Method::GET, routes::ALL_STATS.into(), empty(), PROMPT).await
    }

    /// A container's output.
    pub async fn logs(&self, name: &str, query: &LogQuery) -> Result<LogLines, ClientError> {
        let mut path = format!("{}?follow={}", fill(routes::LOGS, name), query.follow);
        if let Some(tail) = query.tail {
            path.push_str(&format!("&tail={tail}"));
        }
        let answer = self.send(self.request(Method::GET, path, empty()), PROMPT).await?;
        let node = self.endpoint.name.clone();
        Ok(LogLines::new(node, answer.into_body()))
    }

    /// Connects to the input and output of a container's program.
    pub async fn attach(&self, name: &str) -> Result<SessionLink, ClientError> {
        self.upgrade(fill(routes::ATTACH, name), empty()).await
    }

    /// Runs another program inside a container.
    pub async fn exec(&self, name: &str, request: &ExecRequest) -> Result<SessionLink, ClientError> {
        self.upgrade(fill(routes::EXEC, name), self.json(request)?).await
    }

    /// Waits, without limit, until a container's program has ended; its exit status.
    pub async fn wait(&self, name: &str) -> Result<i32, ClientError> {
        let status: ExitStatus = self.ask(Method::POST, fill(routes::WAIT, name), empty(), Duration::MAX).await?;
        Ok(status.status)
    }

    /// All images on the node.
    pub async fn images(&self) -> Result<Vec<ImageInfo>, ClientError> {
        self.ask(Method::GET, routes::IMAGES.into(), empty(), PROMPT).await
    }

    /// One image, by name or digest.
    pub async fn image(&self, name: &str) -> Result<ImageDetail, ClientError> {
        self.ask(Method::GET, fill(routes::IMAGE, name), empty(), PROMPT).await
    }

    /// Imports the tar of a root file system or an archive of images. Takes as long as the archive does.
    pub async fn import_image(
        &self,
        name: &str,
        query: &ImportQuery,
        chunks: ImageChunks,
    ) -> Result<ImageInfo, ClientError> {
        let path = with_query(fill(routes::IMAGE, name), &[("tag", &query.tag), ("platform", &query.platform)]);
        self.ask(Method::POST, path, streamed(chunks, routes::TAR), Duration::MAX).await
    }

    /// The difference between two images, as it comes. Takes as long as they are large.
    pub async fn overlay(&self, query: &OverlayQuery) -> Result<OverlayDownload, ClientError> {
        let level = query.level.map(|level| level.to_string());
        let parameters =
            [("base", &Some(query.base.clone())), ("image", &Some(query.image.clone())), ("level", &level)];
        let path = with_query(routes::OVERLAY.into(), &parameters);
        let answer = self.send(self.request(Method::GET, path, empty()), Duration::MAX).await?;
        let report = answer.headers().get(routes::OVERLAY_REPORT).map_or(&[][..], |value| value.as_bytes());
        let report = serde_json::from_slice(report);
        let report = report.map_err(|error| self.answer("it does not say what the overlay is made of", Some(error)))?;
        Ok(OverlayDownload::new(report, self.endpoint.name.clone(), answer.into_body()))
    }

    /// Makes an image of its base and an overlay. Takes as long as the overlay does.
    pub async fn synthesize(&self, query: &SynthesizeQuery, chunks: ImageChunks) -> Result<ImageInfo, ClientError> {
        let parameters = [("base", &Some(query.base.clone())), ("name", &query.name)];
        let path = with_query(routes::OVERLAY.into(), &parameters);
        self.ask(Method::POST, path, streamed(chunks, routes::OCTETS), Duration::MAX).await
    }

    /// Pulls an image from a registry. Takes as long as the registry does.
    pub async fn pull_image(&self, request: &PullRequest) -> Result<ImageInfo, ClientError> {
        self.ask(Method::POST, routes::PULL.into(), self.json(request)?, Duration::MAX).await
    }

    /// Pushes an image to a registry. Takes as long as the registry does.
    pub async fn push_image(&self, request: &PushRequest) -> Result<PushReport, ClientError> {
        self.ask(Method::POST, routes::PUSH.into(), self.json(request)?, Duration::MAX).await
    }

    /// Makes an image of a container. Takes as long as its changes are large.
    pub async fn commit(&self, name: &str, request: &CommitRequest) -> Result<ImageInfo, ClientError> {
        self.ask(Method::POST, fill(routes::COMMIT, name), self.json(request)?, Duration::MAX).await
    }

    /// Removes images that no container needs: those without a name, or `all`.
    pub async fn prune_images(&self, all: bool) -> Result<PruneReport, ClientError> {
        self.ask(Method::POST, format!("{}?all={all}", routes::PRUNE_IMAGES), empty(), WORK).await
    }

    /// Removes an image's name, and the image when no name is left; its digest.
    pub async fn remove_image(&self, name: &str) -> Result<Digest, ClientError> {
        self.ask(Method::DELETE, fill(routes::IMAGE, name), empty(), WORK).await
    }

    /// All volumes on the node.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, ClientError> {
        self.ask(Method::GET, routes::VOLUMES.into(), empty(), PROMPT).await
    }

    /// Declares a volume.
    pub async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<VolumeRecord, ClientError> {
        self.ask(Method::POST, routes::VOLUMES.into(), self.json(request)?, PROMPT).await
    }

    /// One volume.
    pub async fn volume(&self, name: &VolumeName) -> Result<VolumeRecord, ClientError> {
        self.ask(Method::GET, fill(routes::VOLUME, name.as_str()), empty(), PROMPT).await
    }

    /// Removes a volume that no container uses, with the files of a local one.
    pub async fn remove_volume(&self, name: &VolumeName) -> Result<(), ClientError> {
        self.order(Method::DELETE, fill(routes::VOLUME, name.as_str()), empty(), WORK).await
    }

    /// The copies on the node of files of containers that are elsewhere.
    pub async fn copies(&self) -> Result<Vec<CopyRecord>, ClientError> {
        self.ask(Method::GET, routes::COPIES.into(), empty(), WORK).await
    }

    /// Removes the copy of a container's files.
    pub async fn remove_copy(&self, id: &ContainerId) -> Result<(), ClientError> {
        self.order(Method::DELETE, fill(routes::COPY, id.as_str()), empty(), WORK).await
    }

    /// Begins a migration away from the node.
    pub async fn migrate(&self, request: &MigrateRequest) -> Result<MigrationState, ClientError> {
        self.ask(Method::POST, routes::MIGRATIONS.into(), self.json(request)?, WORK).await
    }

    /// Whether a container can be moved so; nothing is.
    pub async fn check(&self, request: &MigrateRequest) -> Result<Check, ClientError> {
        self.ask(Method::POST, routes::CHECK.into(), self.json(request)?, WORK).await
    }

    /// What a move would take; nothing is moved.
    pub async fn plan(&self, request: &MigrateRequest) -> Result<Plan, ClientError> {
        self.ask(Method::POST, routes::PLAN.into(), self.json(request)?, WORK).await
    }

    /// All migrations away from the node.
    pub async fn migrations(&self) -> Result<Vec<MigrationState>, ClientError> {
        self.ask(Method::GET, routes::MIGRATIONS.into(), empty(), PROMPT).await
    }

    /// One migration; with `wait` when it changes next, or when that time is over.
    pub async fn migration(&self, id: &MigrationId, wait: Option<Duration>) -> Result<MigrationState, ClientError> {
        let mut path = fill(routes::MIGRATION, id.as_str());
        if let Some(wait) = wait {
            path.push_str(&format!("?wait_ms={}", wait.as_millis()));
        }
        self.ask(Method::GET, path, empty(), PROMPT.saturating_add(wait.unwrap_or_default())).await
    }

    /// Cancels a migration that has not been decided yet.
    pub async fn cancel(&self, id: &MigrationId) -> Result<(), ClientError> {
        self.order(Method::DELETE, fill(routes::MIGRATION, id.as_str()), empty(), PROMPT).await
    }

    /// Says whose the container of a migration in doubt is.
    pub async fn resolve(&self, id: &MigrationId, keeps: Side) -> Result<(), ClientError> {
        let body = self.json(&ResolveRequest { keeps })?;
        self.order(Method::POST, fill(routes::RESOLVE, id.as_str()), body, PROMPT).await
    }

    /// Has the node take nothing new, and move what runs on it elsewhere.
    pub async fn drain(&self, request: &DrainRequest) -> Result<DrainState, ClientError> {
        self.ask(Method::POST, routes::DRAIN.into(), self.json(request)?, WORK).await
    }

    /// How the last drain goes; with `wait` when that changes next, or when that time is over.
    pub async fn drain_state(&self, wait: Option<Duration>) -> Result<DrainState, ClientError> {
        let mut path = routes::DRAIN.to_owned();
        if let Some(wait) = wait {
            path.push_str(&format!("?wait_ms={}", wait.as_millis()));
        }
        self.ask(Method::GET, path, empty(), PROMPT.saturating_add(wait.unwrap_or_default())).await
    }

    /// Begins no further move of a drain.
    pub async fn cancel_drain(&self) -> Result<(), ClientError> {
        self.order(Method::POST, routes::CANCEL_DRAIN.into(), empty(), PROMPT).await
    }

    /// Has the node take what comes again.
    pub async fn undrain(&self) -> Result<(), ClientError> {
        self.order(Method::DELETE, routes::DRAIN.into(), empty(), PROMPT).await
    }

    /// A request with an answer in JSON.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Payload,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.send(self.request(method, path, body), limit).await?;
        let bytes = self.collect(answer.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.answer("it is not what was asked for", Some(error)))
    }

    /// A request with an empty answer.
    async fn order(&self, method: Method, path: String, body: Payload, limit: Duration) -> Result<(), ClientError> {
        self.send(self.request(method, path, body), limit).await.map(drop)
    }

    /// A request that turns the connection into a framed stream.
    async fn upgrade(&self, path: String, body: Payload) -> Result<SessionLink, ClientError> {
        let mut request = self.request(Method::POST, path, body);
        request.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(routes::STREAM_PROTOCOL));
        let answer = self.send(request, PROMPT).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.answer("it does not turn into a stream", None));
        }
        let upgraded = hyper::upgrade::on(answer).await;
        upgraded.map(TokioIo::new).map_err(|source| ClientError::from_hyper(&self.endpoint.name, source))
    }

    /// Sends a request on a new connection; gives the answer when it reports success.
    async fn send(&self, request: Request<Outgoing>, limit: Duration) -> Result<Response<Incoming>, ClientError> {
        let node = &self.endpoint.name;
        let mut connection = open(&self.endpoint, &self.tls).await?;
        let answered = tokio::time::timeout(limit, connection.send_request(request)).await;
        let answered = answered.map_err(|_| ClientError::Late { node: node.clone(), limit })?;
        let answer = answered.map_err(|source| ClientError::from_hyper(node, source))?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let bytes = self.collect(answer.into_body()).await?;
        let error = serde_json::from_slice(&bytes).unwrap_or_else(|_| ApiError {
            error: format!("node {node} answered {status}"),
            hint: None,
            exit_status: None,
        });
        Err(ClientError::Refused { node: node.clone(), status, error })
    }

    fn request(&self, method: Method, path: String, body: Payload) -> Request<Outgoing> {
        let (body, content_type) = match body {
            Some((body, content_type)) => (body, Some(content_type)),
            None => (BodyExt::boxed_unsync(Empty::new().map_err(|never| match never {})), None),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // Paths are constants, filled in with percent-encoded names and numbers.
        *request.uri_mut() = path.parse().unwrap_or_default();
        if let Ok(host) = self.endpoint.name.as_str().parse() {
            request.headers_mut().insert(HOST, host);
        }
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        }
        request
    }

    fn json(&self, body: &impl Serialize) -> Result<Payload, ClientError> {
        let text = serde_json::to_vec(body).map_err(|error| self.answer("the request is no JSON", Some(error)))?;
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
        Ok(Some((BodyExt::boxed_unsync(body), "application/json")))
    }

    async fn collect(&self, body: impl Body<Data = Bytes, Error = hyper::Error>) -> Result<Bytes, ClientError> {
        match Limited::new(body, LONGEST_ANSWER).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(source) => ClientError::from_hyper(&self.endpoint.name, *source),
                Err(_) => self.answer("it is too long", None),
            }),
        }
    }

    fn answer(&self, what: &'static str, source: Option<serde_json::Error>) -> ClientError {
        ClientError::Answer { node: self.endpoint.name.clone(), what, source }
    }
}

/// A body and its content type.
type Payload = Option<(Outgoing, &'static str)>;

fn empty() -> Payload {
    None
}

fn streamed(chunks: ImageChunks, content_type: &'static str) -> Payload {
    let frames = futures_util::stream::unfold(chunks, async |mut chunks: ImageChunks| {
        chunks.recv().await.map(|chunk| (chunk.map(Frame::data), chunks))
    });
    Some((BodyExt::boxed_unsync(StreamBody::new(frames)), content_type))
}
