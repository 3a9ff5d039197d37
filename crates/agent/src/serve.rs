//! From a configuration file to a served node, until a signal ends it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drover_api::tls::{LINK_PROTOCOL, TlsError};
use drover_engine::{Node, NodeError};
use drover_model::NodeName;
use drover_registry::AccessError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::{AgentConfig, ConfigError, Limits, Server, router};

/// An agent that could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration file cannot be used.
    #[error("cannot configure the agent")]
    Config(#[from] ConfigError),
    /// The certificates cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// What is said about registries cannot be used.
    #[error("cannot set up the way to registries")]
    Registries(#[from] AccessError),
    /// The node cannot be opened.
    #[error("cannot open the node")]
    Node(#[from] NodeError),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
}

impl AgentError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Node(error) => error.explained().hint.clone(),
            Self::Listen(..) => {
                Some("check that no other agent runs and that `listen` is an address of this machine".into())
            }
            _ => None,
        }
    }
}

/// Serves a node until SIGTERM or SIGINT. Containers go on afterwards.
///
/// # Errors
/// When the agent cannot start; nothing has been changed on the node then, except by the engine's own recovery.
pub async fn serve(config_path: &Path) -> Result<(), AgentError> {
    let config = AgentConfig::read(config_path)?;
    let acceptor = config.tls.server()?;
    let link_tls = config.tls.client(LINK_PROTOCOL)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let address = config.listen;
    // Before the node is opened: when another agent serves it already, this one stops here.
    let listener = TcpListener::bind(address).await.map_err(|error| AgentError::Listen(address, error))?;
    let peers: Arc<[NodeName]> = config.peer.iter().map(|peer| peer.name.clone()).collect();
    let name = config.name.clone();
    let docker = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let node = Node::open(config.node(link_tls, docker)?).await?;
    info!(node = %name, %address, version = env!("CARGO_PKG_VERSION"), "agent serves");

    let linked = node.clone();
    let server = Server {
        tls: acceptor,
        router: router(node.clone()),
        link: move |peer, stream| serve_link(linked.clone(), peers.clone(), peer, stream),
        limits: Limits::default(),
    };
    let ordered = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        info!("agent stops");
    };
    server.run(listener, ordered, node.close()).await;
    info!("agent stopped");
    Ok(())
}

/// A certificate of the cluster lets a user use the API; only a peer may send containers.
async fn serve_link(
    node: Arc<Node>,
    peers: Arc<[NodeName]>,
    peer: NodeName,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) {
    if peers.contains(&peer) {
        node.serve_link(peer, stream).await;
    } else {
        warn!(%peer, "link refused: no peer of this name is configured");
    }
}
