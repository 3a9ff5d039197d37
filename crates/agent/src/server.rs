//! The accept loop: TLS, then the API or the migration link, whichever protocol the client chose.
//!
//! Bounded: the number of connections, the time of a handshake, the time that open connections get at the end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use drover_api::tls::{API_PROTOCOL, LINK_PROTOCOL};
use drover_model::NodeName;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::routes::closed;

/// The bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at one time; more wait in the kernel's queue.
    pub connections: usize,
    /// How long a TLS handshake, and then a request's head, may take.
    pub handshake: Duration,
    /// How long open requests get to finish when the server stops.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, handshake: Duration::from_secs(10), farewell: Duration::from_secs(10) }
    }
}

/// What is served, and within which bounds.
#[derive(Debug)]
pub struct Server<Link> {
    /// Certificates; clients must show theirs.
    pub tls: Arc<ServerConfig>,
    /// The API.
    pub router: Router,
    /// Called with the name in the client's certificate when a client opens a migration link.
    pub link: Link,
    /// The bounds.
    pub limits: Limits,
}

/// The pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<Link, Linked> Server<Link>
where
    Link: Fn(NodeName, TlsStream<TcpStream>) -> Linked + Clone + Send + Sync + 'static,
    Linked: Future<Output = ()> + Send + 'static,
{
    /// Serves connections until `ordered` is done; then accepts no more, and lets open requests finish while
    /// `closing` ends what keeps them open.
    pub async fn run(
        self,
        listener: TcpListener,
        ordered: impl Future<Output = ()>,
        closing: impl Future<Output = ()>,
    ) {
        let limits = self.limits;
        let (stop, stopped) = watch::channel(());
        let permits = Arc::new(Semaphore::new(limits.connections));
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        tokio::pin!(ordered);
        loop {
            let accepted = async {
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            tokio::select! {
                () = &mut ordered => break,
                Some(_) = connections.join_next() => {}
                (permit, accepted) = accepted => match accepted {
                    Ok((stream, address)) => {
                        let (server, stopped) = (server.clone(), stopped.clone());
                        connections.spawn(async move {
                            let _permit = permit;
                            debug!(%address, "connection accepted");
                            server.connection(stream, stopped).await;
                        });
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop((listener, stop));
        let finished = async { while connections.join_next().await.is_some() {} };
        let (finished, ()) = tokio::join!(tokio::time::timeout(limits.farewell, finished), closing);
        if finished.is_err() {
            warn!("connections cut off: they did not finish in time");
            connections.shutdown().await;
        }
    }

    async fn connection(&self, stream: TcpStream, stopped: watch::Receiver<()>) {
        if let Err(error) = stream.set_nodelay(true).and_then(|()| drover_api::keep_alive(&stream)) {
            debug!(%error, "cannot set up a connection");
            return;
        }
        let shaking = async {
            // A connection that ends before its first byte is a look at whether somebody listens.
            if stream.peek(&mut [0]).await? == 0 {
                return Ok(None);
            }
            TlsAcceptor::from(self.tls.clone()).accept(stream).await.map(Some)
        };
        let stream = match tokio::time::timeout(self.limits.handshake, shaking).await {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) => return debug!("connection ended before its first byte"),
            Ok(Err(error)) => return warn!(%error, "TLS handshake failed"),
            Err(_) => return warn!("TLS handshake took too long"),
        };
        match stream.get_ref().1.alpn_protocol() {
            Some(API_PROTOCOL) if is_of_a_node(&stream) => {
                let node = peer_name(&stream).map(|name| name.to_string());
                warn!(node, "API refused: the certificate is one of a node");
                self.api(closed(), stream, stopped).await;
            }
            Some(API_PROTOCOL) => self.api(self.router.clone(), stream, stopped).await,
            Some(LINK_PROTOCOL) => match peer_name(&stream) {
                Some(peer) => (self.link)(peer, stream).await,
                None => warn!("link refused: the certificate's common name is no node name"),
            },
            _ => warn!("connection refused: the client asked for no protocol"),
        }
    }

    async fn api(&self, router: Router, stream: TlsStream<TcpStream>, mut stopped: watch::Receiver<()>) {
        let service = TowerToHyperService::new(router);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.handshake)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let served = tokio::select! {
            served = &mut connection => served,
            // The sender is dropped, nothing is ever sent.
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            debug!(%error, "connection broke");
        }
    }
}

/// Whether the client's certificate, which the handshake has checked, is one of a node: it may also serve. A node that was taken
/// over shall not do what users may do on all others. One that cannot be read is nobody's.
fn is_of_a_node(stream: &TlsStream<TcpStream>) -> bool {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(Ok((_, certificate))) = certificate.map(|certificate| X509Certificate::from_der(certificate)) else {
        return true;
    };
    certificate.extended_key_usage().map_or(true, |usage| usage.is_some_and(|usage| usage.value.server_auth))
}

/// The common name in the client's certificate, which the handshake has checked.
fn peer_name(stream: &TlsStream<TcpStream>) -> Option<NodeName> {
    let (_, certificate) = X509Certificate::from_der(stream.get_ref().1.peer_certificates()?.first()?).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.parse().ok()?;
    // Two common names would let a certificate be read in two ways.
    if names.next().is_some() { None } else { Some(name) }
}
