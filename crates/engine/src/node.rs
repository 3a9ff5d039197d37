//! A node: what the agent's API calls.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drover_api::{
    ExecRequest, ImageInfo, LogQuery, LogRecord, MigrateRequest, RunRequest, SessionInput, SessionOutput,
};
use drover_model::{
    ContainerRecord, ContainerStats, Digest, Explained, MigrationId, MigrationState, NodeInfo, NodeName,
};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

/// How a node is set up; the agent reads it from its configuration file.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The node's name.
    pub name: NodeName,
    /// Where containers, images and the journal live; must survive a reboot.
    pub state: PathBuf,
    /// Sockets and mounts; must not survive a reboot.
    pub run: PathBuf,
    /// The link that containers' interfaces stand on.
    pub uplink: String,
    /// Addresses that containers get when none is asked for; with the prefix length of the network.
    pub pool: Option<Pool>,
    /// Nodes that containers may move to.
    pub peers: Vec<Peer>,
    /// The certificates for the link to peers.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Addresses to give out.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The range.
    pub range: IpNet,
    /// The prefix length of the network that it is a part of.
    pub prefix: u8,
    /// The default gateway, if there is one.
    pub gateway: Option<std::net::IpAddr>,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name, which its certificate must carry.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: SocketAddr,
}

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such thing (404).
    #[error("{0}")]
    NotFound(Explained),
    /// It contradicts the present state (409).
    #[error("{0}")]
    Conflict(Explained),
    /// The request makes no sense (400).
    #[error("{0}")]
    Invalid(Explained),
    /// It was tried and failed (500).
    #[error("{0}")]
    Failed(Explained),
}

/// An attached or executed program: send input, receive output until `Exited` or `Failed`.
#[derive(Debug)]
pub struct Session {
    /// To the program; dropping it detaches.
    pub input: mpsc::Sender<SessionInput>,
    /// From the program.
    pub output: mpsc::Receiver<SessionOutput>,
}

/// A node.
#[derive(Debug)]
pub struct Node {}

impl Node {
    pub async fn open(config: NodeConfig) -> Result<Arc<Self>, NodeError> {
        todo!()
    }
    pub fn info(&self) -> NodeInfo {
        todo!()
    }
    /// Makes a container and starts it.
    pub async fn run(&self, request: RunRequest) -> Result<ContainerRecord, NodeError> {
        todo!()
    }
    pub fn containers(&self) -> Vec<ContainerRecord> {
        todo!()
    }
    /// By name, id, or unique beginning of an id.
    pub fn container(&self, name: &str) -> Result<ContainerRecord, NodeError> {
        todo!()
    }
    pub async fn start(&self, name: &str) -> Result<ContainerRecord, NodeError> {
        todo!()
    }
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<ContainerRecord, NodeError> {
        todo!()
    }
    pub async fn kill(&self, name: &str, signal: i32) -> Result<(), NodeError> {
        todo!()
    }
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), NodeError> {
        todo!()
    }
    pub async fn stats(&self, name: &str) -> Result<ContainerStats, NodeError> {
        todo!()
    }
    /// Waits until the program has ended; gives its exit status.
    pub async fn wait(&self, name: &str) -> Result<i32, NodeError> {
        todo!()
    }
    /// The log so far and, when following, what comes, until the receiver is dropped or the container is gone.
    pub async fn logs(&self, name: &str, query: LogQuery) -> Result<mpsc::Receiver<LogRecord>, NodeError> {
        todo!()
    }
    pub async fn attach(&self, name: &str) -> Result<Session, NodeError> {
        todo!()
    }
    pub async fn exec(&self, name: &str, request: ExecRequest) -> Result<Session, NodeError> {
        todo!()
    }
    pub fn images(&self) -> Result<Vec<ImageInfo>, NodeError> {
        todo!()
    }
    /// `tar`: an uncompressed tar archive of a root file system.
    pub async fn import_image(
        &self,
        name: &str,
        tar: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<ImageInfo, NodeError> {
        todo!()
    }
    pub async fn remove_image(&self, name: &str) -> Result<Digest, NodeError> {
        todo!()
    }
    pub async fn migrate(&self, request: MigrateRequest) -> Result<MigrationState, NodeError> {
        todo!()
    }
    pub fn migrations(&self) -> Vec<MigrationState> {
        todo!()
    }
    pub fn migration(&self, id: &MigrationId) -> Result<watch::Receiver<MigrationState>, NodeError> {
        todo!()
    }
    pub async fn cancel(&self, id: &MigrationId) -> Result<(), NodeError> {
        todo!()
    }
    /// Serves a peer that opened a migration link (ALPN `drover-link/1`); returns when the link is done.
    pub async fn serve_link(&self, peer: NodeName, link: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        todo!()
    }
    /// Ends what runs in the agent; containers go on.
    pub async fn close(&self) {
        todo!()
    }
}
