//! One connection to a node's API: TCP, in another network namespace when the node is reached there, TLS, HTTP.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_model::NodeName;
use http::StatusCode;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio_rustls::TlsConnector;

use crate::{ApiError, NodeEndpoint};

/// How long connecting may take, and after it the TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Silence after which the other side is asked whether it is still there.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(5);
/// Time between such questions.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Unanswered questions after which the connection counts as broken.
const KEEP_ALIVE_COUNT: u32 = 3;
/// For so long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// A request's body.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// A call that a node did not answer with success.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection came about.
    #[error("cannot reach node {node} at {address}")]
    Unreachable {
        /// The node.
        node: NodeName,
        /// Where it should listen.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One side refused the other's certificate or protocol.
    #[error("cannot agree with node {node} on a secure connection")]
    Tls {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The node's name cannot stand in a certificate.
    #[error("cannot check the certificate of node {node}")]
    Name {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: InvalidDnsNameError,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to node {node} broke")]
    Broken {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The connection ended before the answer was complete.
    #[error("node {node} ended the connection before it had answered")]
    Ended {
        /// The node.
        node: NodeName,
    },
    /// No answer came in time.
    #[error("node {node} did not answer within {} s", limit.as_secs())]
    Late {
        /// The node.
        node: NodeName,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The answer cannot be understood: not the JSON that was expected, or too long.
    #[error("cannot understand the answer of node {node}: {what}")]
    Answer {
        /// The node.
        node: NodeName,
        /// What is wrong with it.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The node answered that it did not do it.
    #[error("{}", error.error)]
    Refused {
        /// The node.
        node: NodeName,
        /// The HTTP status.
        status: StatusCode,
        /// Why, and what to do about it.
        error: ApiError,
    },
}

impl ClientError {
    /// Whether the node answered that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }

    /// Whether the node never heard the request, or its answer was lost on the way: asking again may help.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken { .. } | Self::Ended { .. } | Self::Late { .. })
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { error, .. } => error.hint.clone(),
            Self::Unreachable { node, address, .. } => {
                Some(format!("check that the agent runs on {node} and listens on {address}"))
            }
            Self::Tls { node, .. } => Some(format!(
                "check that {node} and you have certificates of the same authority, and that its certificate is made \
                 out for the DNS name {node}"
            )),
            Self::Answer { .. } => Some("check that both sides run the same version of drover".into()),
            Self::Ended { node } => Some(format!(
                "if the agent of {node} was stopped, try again when it runs: its containers go on meanwhile"
            )),
            Self::Name { .. } | Self::Broken { .. } | Self::Late { .. } => None,
        }
    }

    /// The error for what hyper reports. In TLS 1.3 a refused client learns of it with the first answer only.
    pub(crate) fn from_hyper(node: &NodeName, source: hyper::Error) -> Self {
        match tls_cause(&source) {
            Some(cause) => Self::Tls { node: node.clone(), source: cause },
            // What TLS and HTTP have to say about an early end tells nobody more.
            None if source.is_incomplete_message() || is_early_end(&source) => Self::Ended { node: node.clone() },
            None => Self::Broken { node: node.clone(), source },
        }
    }
}

/// The TLS error at the bottom of `error`, if there is one.
fn tls_cause(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found.clone());
        }
        // An io::Error gives as its source the source of what it wraps, not what it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Whether the connection ended where more was to come.
fn is_early_end(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::UnexpectedEof;
        }
        next = error.source();
    }
    false
}

/// Has the kernel find out within about ten seconds that the other side of a connection is gone, be it that nothing is said or
/// that what was sent is not acknowledged. Without the latter it would go on sending for a quarter of an hour, with a
/// container that stands still.
///
/// # Errors
/// When the socket does not let it be set.
pub fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEP_ALIVE_COUNT)?;
    Ok(sockopt::set_tcp_user_timeout(&socket, u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX))?)
}

/// Connects to a node and is ready to send one request.
pub(crate) async fn open(
    endpoint: &NodeEndpoint,
    tls: &Arc<ClientConfig>,
) -> Result<SendRequest<Outgoing>, ClientError> {
    let node = &endpoint.name;
    let unreachable = |source| ClientError::Unreachable { node: node.clone(), address: endpoint.address, source };
    let name = ServerName::try_from(node.as_str().to_owned())
        .map_err(|source| ClientError::Name { node: node.clone(), source })?;
    let tcp = connect(endpoint).await.map_err(unreachable)?;
    let tcp = tokio::net::TcpStream::from_std(tcp).map_err(unreachable)?;
    let shaken = tokio::time::timeout(CONNECT_LIMIT, TlsConnector::from(tls.clone()).connect(name, tcp)).await;
    let secure =
        shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|source| match tls_cause(&source) {
            Some(cause) => ClientError::Tls { node: node.clone(), source: cause },
            None => unreachable(source),
        })?;
    let (sender, connection) =
        handshake(TokioIo::new(secure)).await.map_err(|source| ClientError::from_hyper(node, source))?;
    // Its errors are reported by the request on it; it ends with the request, the answer's body or the upgrade.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

/// A blocking connect on a thread of its own: the socket must be made inside the namespace.
async fn connect(endpoint: &NodeEndpoint) -> io::Result<TcpStream> {
    let NodeEndpoint { address, netns, .. } = endpoint.clone();
    let connect = move || TcpStream::connect_timeout(&address, CONNECT_LIMIT);
    let connecting = tokio::task::spawn_blocking(move || match netns {
        Some(path) => drover_sys::namespace::in_network(&path, connect)?,
        None => connect(),
    });
    let tcp = connecting.await.map_err(io::Error::other)??;
    tcp.set_nonblocking(true)?;
    tcp.set_nodelay(true)?;
    keep_alive(&tcp)?;
    Ok(tcp)
}
