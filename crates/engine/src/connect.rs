//! Connecting to a peer.

use std::sync::Arc;
use std::time::Duration;

use drover_model::Explained;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::failure;
use crate::node::{Inner, Peer};

/// How long a peer may take to accept a connection and to show who it is.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Opens a link to a peer, who must show a certificate of its name.
    pub(crate) async fn connect(&self, peer: &Peer) -> Result<TlsStream<TcpStream>, Explained> {
        let attempt = format!("cannot reach {} at {}", peer.name, peer.address);
        let connect = async {
            let stream = TcpStream::connect(peer.address).await?;
            stream.set_nodelay(true)?;
            // A peer that vanishes while nothing is being sent must be missed.
            drover_api::keep_alive(&stream)?;
            let name = ServerName::try_from(peer.name.to_string()).map_err(std::io::Error::other)?;
            TlsConnector::from(Arc::clone(&self.config.tls)).connect(name, stream).await
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
