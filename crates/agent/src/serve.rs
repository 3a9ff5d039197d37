//! From a configuration file to a served node, until a signal ends it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drover_api::tls::{LINK_PROTOCOL, TlsError};
use drover_cluster::Directory;
use drover_engine::{Node, NodeError, Peer};
use drover_model::NodeName;
use drover_registry::AccessError;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::gate::{AuditLog, Gate, LARGEST_FILE, Visitor};
use crate::membership::{Membership, MembershipError};
use crate::routes::{self, router};
use crate::{AgentConfig, ConfigError, Joining, Roster, Server};

/// An agent that could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration file cannot be used.
    #[error("cannot configure the agent")]
    Config(#[from] ConfigError),
    /// The certificates cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// The node's part in its cluster cannot be had.
    #[error("cannot be a node of the cluster")]
    Membership(#[from] MembershipError),
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
    let Known { tls, link_tls, roster, peers, member } = known(&config)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let address = config.listen;
    // Before the node is opened: when another agent serves it already, this one stops here.
    let listener = TcpListener::bind(address).await.map_err(|error| AgentError::Listen(address, error))?;
    let name = config.name.clone();
    let (limits, requests) = (config.limits.connections(), config.limits.requests());
    let log = AuditLog::new(config.state.join("audit.jsonl"), LARGEST_FILE);
    let docker = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let node = Node::open(config.node(peers, link_tls, docker)?).await?;
    let gate = Gate::new(node.clone(), name.clone(), roster.clone(), log, requests);
    info!(node = %name, %address, version = env!("CARGO_PKG_VERSION"), "agent serves");

    let joining = member.as_ref().and_then(|member| {
        let router = routes::join::router(member.clone(), gate.clone());
        Some(Joining { tls: member.joining()?, router })
    });
    if let Some(member) = &member {
        tokio::spawn(member.clone().keep_up());
    }
    let (linked, keeper) = (node.clone(), gate.clone());
    let server = Server {
        tls,
        roster,
        router: router(node.clone(), gate, member),
        link: move |peer, visitor, stream| serve_link(linked.clone(), keeper.clone(), peer, visitor, stream),
        joining,
        limits,
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

/// Who is known and what is shown, at any moment.
struct Known {
    tls: watch::Receiver<Arc<ServerConfig>>,
    link_tls: watch::Receiver<Arc<ClientConfig>>,
    roster: watch::Receiver<Arc<Roster>>,
    peers: watch::Receiver<Arc<[Peer]>>,
    member: Option<Arc<Membership>>,
}

/// By the cluster's document, or by the configuration: it does not change then.
fn known(config: &AgentConfig) -> Result<Known, AgentError> {
    if let Some(cluster) = &config.cluster {
        let member = Membership::open(Directory::at(&cluster.directory), &config.name)?;
        let (tls, link_tls) = (member.server(), member.link());
        return Ok(Known { tls, link_tls, roster: member.roster(), peers: member.peers(), member: Some(member) });
    }
    let files = config.tls.as_ref().ok_or(ConfigError::Membership)?;
    let credentials = files.read()?;
    if config.user.is_empty() {
        warn!("the configuration names no [[user]]: nobody may use the API");
    }
    Ok(Known {
        tls: watch::channel(credentials.server()?).1,
        link_tls: watch::channel(credentials.client(LINK_PROTOCOL)?).1,
        roster: watch::channel(Arc::new(config.roster())).1,
        peers: watch::channel(config.peers().into()).1,
        member: None,
    })
}

/// A certificate of the cluster lets nobody send containers; only a peer may.
async fn serve_link(
    node: Arc<Node>,
    gate: Arc<Gate>,
    peer: NodeName,
    visitor: Arc<Visitor>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) {
    let is_peer = gate.is_peer(&visitor);
    gate.linked(&visitor, is_peer).await;
    if is_peer {
        node.serve_link(peer, stream).await;
    } else {
        warn!(%peer, "link refused: no peer of this name is configured");
    }
}
