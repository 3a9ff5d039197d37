//! The accept loop: TLS, then the API or the migration link, whichever protocol the client chose.
//!
//! Bounded: connections before and after they have shown a certificate, those of one address and of one identity, the
//! time of a handshake, the time that open connections get at the end. A connection ends when whoever opened it is not
//! known any more.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use drover_api::tls::{API_PROTOCOL, LINK_PROTOCOL};
use drover_api::{Shown, Tethered};
use drover_cluster::JOIN_PROTOCOL;
use drover_model::{Identity, NodeName};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use crate::door::Door;
use crate::gate::Visitor;
use crate::limits::Limits;
use crate::roster::Roster;

/// A connection whose other end has shown a certificate.
pub type Connection = Tethered<TlsStream<TcpStream>>;

/// What is served, and within which bounds.
#[derive(Debug)]
pub struct Server<Link> {
    /// Certificates, as they are at any moment; clients must show theirs.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// Who is known, at any moment.
    pub roster: watch::Receiver<Arc<Roster>>,
    /// The API.
    pub router: Router,
    /// Called with the name in the client's certificate when a node opens a migration link.
    pub link: Link,
    /// Where nodes join that have no certificate yet; nothing where they cannot.
    pub joining: Option<Joining>,
    /// The bounds.
    pub limits: Limits,
}

/// What is served to those who have no certificate yet.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Certificates, as they are at any moment; clients show none.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// The one route.
    pub router: Router,
}

/// The pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections of a server share.
#[derive(Debug)]
struct Room {
    door: Arc<Door>,
    permits: Arc<Semaphore>,
    /// How many connections each identity has.
    identities: Mutex<HashMap<Identity, usize>>,
}

/// A place among those who have shown a certificate; it is free again when this is dropped.
#[derive(Debug)]
struct Seat {
    room: Arc<Room>,
    identity: Identity,
    _permit: OwnedSemaphorePermit,
}

impl Room {
    /// A place for an identity; none when it has too many, or nobody leaves in time.
    async fn seat(self: &Arc<Self>, identity: &Identity, limits: &Limits) -> Option<Seat> {
        let taken = |identities: &HashMap<Identity, usize>| identities.get(identity).copied().unwrap_or(0);
        if taken(&self.identities()) >= limits.connections_per_identity {
            return None;
        }
        let waiting = Arc::clone(&self.permits).acquire_owned();
        let permit = tokio::time::timeout(limits.handshake, waiting).await.ok()?.ok()?;
        let mut identities = self.identities();
        if taken(&identities) >= limits.connections_per_identity {
            return None;
        }
        *identities.entry(identity.clone()).or_insert(0) += 1;
        Some(Seat { room: Arc::clone(self), identity: identity.clone(), _permit: permit })
    }

    fn identities(&self) -> std::sync::MutexGuard<'_, HashMap<Identity, usize>> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut identities = self.room.identities();
        if let Some(count) = identities.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                identities.remove(&self.identity);
            }
        }
    }
}

impl<Link, Linked> Server<Link>
where
    Link: Fn(NodeName, Arc<Visitor>, Connection) -> Linked + Clone + Send + Sync + 'static,
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
        let room = Arc::new(Room {
            door: Door::new(limits.handshakes, limits.handshakes_per_address),
            permits: Arc::new(Semaphore::new(limits.connections)),
            identities: Mutex::default(),
        });
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        tokio::pin!(ordered);
        loop {
            tokio::select! {
                () = &mut ordered => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        let (server, room, stopped) = (server.clone(), room.clone(), stopped.clone());
                        let mut place = room.door.enter(address.ip());
                        connections.spawn(async move {
                            debug!(%address, "connection accepted");
                            let entered = tokio::select! {
                                entered = server.enter(stream, address, &room) => entered,
                                _ = &mut place.lost => return debug!(%address, "connection gives way to a newer one"),
                            };
                            drop(place);
                            if let Some((stream, visitor, seat)) = entered {
                                server.serve(stream, visitor, seat, stopped).await;
                            }
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

    /// The handshake, and a seat.
    async fn enter(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        room: &Arc<Room>,
    ) -> Option<(TlsStream<TcpStream>, Arc<Visitor>, Seat)> {
        if let Err(error) = stream.set_nodelay(true).and_then(|()| drover_api::keep_alive(&stream)) {
            debug!(%error, "cannot set up a connection");
            return None;
        }
        let shaking = async {
            // A connection that ends before its first byte is a look at whether somebody listens.
            if stream.peek(&mut [0]).await? == 0 {
                return Ok(None);
            }
            let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let asks = |hello: ClientHello<'_>| hello.alpn().is_some_and(|mut all| all.any(|one| one == JOIN_PROTOCOL));
            let joining = self.joining.as_ref().filter(|_| asks(hello.client_hello()));
            let tls = Arc::clone(&joining.map_or(&self.tls, |joining| &joining.tls).borrow());
            hello.into_stream(tls).await.map(|stream| Some((stream, joining)))
        };
        let stream = match tokio::time::timeout(self.limits.handshake, shaking).await {
            Ok(Ok(Some((stream, None)))) => stream,
            // It keeps its place among those without a certificate, and gets no other.
            Ok(Ok(Some((stream, Some(joining))))) => {
                self.join(stream, address, joining.router.clone()).await;
                return None;
            }
            Ok(Ok(None)) => {
                debug!("connection ended before its first byte");
                return None;
            }
            Ok(Err(error)) => {
                warn!(%address, %error, "TLS handshake failed");
                return None;
            }
            Err(_) => {
                warn!(%address, "TLS handshake took too long");
                return None;
            }
        };
        let Some(shown) = shown(&stream) else {
            warn!(%address, "connection refused: its certificate names neither a node nor a user");
            return None;
        };
        let Some(seat) = room.seat(&shown.identity, &self.limits).await else {
            warn!(%address, identity = %shown.identity, "connection refused: there are too many");
            return None;
        };
        Some((stream, Arc::new(Visitor { shown, address }), seat))
    }

    /// One request of somebody without a certificate, in the time of two handshakes.
    async fn join(&self, stream: TlsStream<TcpStream>, address: SocketAddr, router: Router) {
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(address);
            router.call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.handshake)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if tokio::time::timeout(2 * self.limits.handshake, served).await.is_err() {
            warn!(%address, "joining took too long");
        }
    }

    async fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        visitor: Arc<Visitor>,
        seat: Seat,
        stopped: watch::Receiver<()>,
    ) {
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let socket = match stream.get_ref().0.as_fd().try_clone_to_owned() {
            Ok(socket) => socket,
            Err(error) => return warn!(%error, "cannot set up a connection"),
        };
        let forgotten = forgotten(self.roster.clone(), visitor.shown.clone());
        // The seat is taken for as long as the stream is there, which outlives its request when that becomes a session.
        let severed = async move {
            let _seat = seat;
            forgotten.await;
        };
        let stream = Tethered::new(stream, socket, severed);
        match (protocol.as_deref(), &visitor.shown.identity) {
            (Some(API_PROTOCOL), _) => self.api(stream, visitor, stopped).await,
            (Some(LINK_PROTOCOL), Identity::Node(peer)) => (self.link)(peer.clone(), visitor, stream).await,
            (Some(LINK_PROTOCOL), identity) => warn!(%identity, "link refused: the certificate is not a node's"),
            _ => warn!("connection refused: the client asked for no protocol"),
        }
    }

    async fn api(&self, stream: Connection, visitor: Arc<Visitor>, mut stopped: watch::Receiver<()>) {
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Arc::clone(&visitor));
            router.call(request)
        });
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

/// What the client's certificate says, which the handshake has checked.
fn shown(stream: &TlsStream<TcpStream>) -> Option<Shown> {
    Shown::read(stream.get_ref().1.peer_certificates()?.first()?)
}

/// Done when somebody who was known is known no longer. A stranger is told so by the API, and need not be cut off.
async fn forgotten(mut roster: watch::Receiver<Arc<Roster>>, shown: Shown) {
    let was_known = roster.borrow().knows(&shown);
    if !was_known || roster.wait_for(|roster| !roster.knows(&shown)).await.is_err() {
        // Nobody will change it any more.
        std::future::pending::<()>().await;
    }
}
