//! Connecting to a peer.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use drover_api::{Shown, Tethered};
use drover_model::{Explained, Identity};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::failure;
use crate::node::{Inner, Peer};

/// How long a peer may take to accept a connection and to show who it is.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Opens a link to a peer, who must show a certificate of its name and enrolment. It ends when the peer is one no longer.
    pub(crate) async fn connect(&self, peer: &Peer) -> Result<Tethered<TlsStream<TcpStream>>, Explained> {
        let attempt = format!("cannot reach {} at {}", peer.name, peer.address);
        // Where it is, and who it is, may have changed since it was asked for.
        let Some(peer) = self.peer(&peer.name) else {
            let hint = "`drover cluster show` lists the nodes of the cluster".to_owned();
            return Err(Explained { reason: format!("{attempt}: it is no peer any more"), hint: Some(hint) });
        };
        let tls = Arc::clone(&self.config.tls.borrow());
        let connect = async {
            let stream = TcpStream::connect(peer.address).await?;
            stream.set_nodelay(true)?;
            // A peer that vanishes while nothing is being sent must be missed.
            drover_api::keep_alive(&stream)?;
            let name = ServerName::try_from(peer.name.to_string()).map_err(std::io::Error::other)?;
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            if !is_shown(&stream, &peer) {
                return Err(std::io::Error::other("it shows a certificate that is not its own any more"));
            }
            let socket = stream.get_ref().0.as_fd().try_clone_to_owned()?;
            Ok(Tethered::new(stream, socket, is_gone(self.config.peers.clone(), peer.clone())))
        };
        match tokio::time::timeout(PATIENCE, connect).await {
            Ok(connected) => connected.map_err(|error| failure(&attempt, &error)),
            Err(_) => {
                let reason = format!("{attempt}: it did not answer within {} s", PATIENCE.as_secs());
                Err(Explained { reason, hint: Some("is the agent running on that node?".to_owned()) })
            }
        }
    }
}

/// Whether the certificate at the other end is the peer's; the handshake has checked its signature and DNS name.
fn is_shown(stream: &TlsStream<TcpStream>, peer: &Peer) -> bool {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| Shown::read(chain.first()?));
    shown.is_some_and(|shown| {
        let is_enrolled = peer.enrolment.is_none() || peer.enrolment == shown.enrolment;
        is_enrolled && shown.identity == Identity::Node(peer.name.clone())
    })
}

/// Done when the peer is none any more, or another one has its name.
async fn is_gone(mut peers: watch::Receiver<Arc<[Peer]>>, peer: Peer) {
    let is_same = |other: &Peer| other.name == peer.name && other.enrolment == peer.enrolment;
    if peers.wait_for(|peers| !peers.iter().any(is_same)).await.is_err() {
        // Nobody will change them any more.
        std::future::pending::<()>().await;
    }
}
