//! One request over one connection, with or without TLS, and a bound on every wait.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::RegistryError;
use crate::session::{Access, host_of};

/// How long a registry may take to accept a connection, and for the handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to begin an answer, after all of a request was sent, and to go on with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a request carries.
pub(crate) type Payload = UnsyncBoxBody<Bytes, io::Error>;

/// A link with or without TLS.
trait Link: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// Whoever is spoken with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its host, with a port if that is not the usual one.
    pub authority: String,
    pub secure: bool,
}

impl Peer {
    /// Whom a URL leads to.
    pub fn of(uri: &Uri) -> Option<Self> {
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        // Nobody needs a name in it, and it would hide the host.
        let authority = uri.authority()?.as_str();
        (!authority.contains('@')).then(|| Self { authority: authority.to_owned(), secure })
    }

    fn port(&self) -> u16 {
        let port = self.authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        port.and_then(|(_, port)| port.parse().ok()).unwrap_or(if self.secure { 443 } else { 80 })
    }

    async fn link(&self, access: &Access) -> Result<Box<dyn Link>, RegistryError> {
        let unreachable = |error| RegistryError::Connect(self.authority.clone(), error);
        let host = host_of(&self.authority);
        let connecting = tokio::time::timeout(CONNECT, TcpStream::connect((host, self.port())));
        let stream = connecting.await.map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?.map_err(unreachable)?;
        if !self.secure {
            return Ok(Box::new(stream));
        }
        let untrusted = |error| RegistryError::Tls(self.authority.clone(), error);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| untrusted(io::Error::other(error)))?;
        let handshake = TlsConnector::from(access.tls.clone()).connect(name, stream);
        let handshake = tokio::time::timeout(CONNECT, handshake).await;
        let link = handshake.map_err(|_| untrusted(io::ErrorKind::TimedOut.into()))?.map_err(untrusted)?;
        Ok(Box::new(link))
    }

    /// Whether it is there and speaks TLS; false when what it answers is no TLS at all.
    pub async fn speaks_tls(&self, access: &Access) -> Result<bool, RegistryError> {
        match (Self { secure: true, ..self.clone() }).link(access).await {
            Ok(_) => Ok(true),
            Err(RegistryError::Tls(_, error)) if is_no_tls(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a request, whose URI is a path with its query, and gives the beginning of the answer.
    pub async fn send(
        &self,
        access: &Access,
        mut request: Request<Payload>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let broken = |error: hyper::Error| RegistryError::Talk(self.authority.clone(), io::Error::other(error));
        let silent = || RegistryError::Talk(self.authority.clone(), io::ErrorKind::TimedOut.into());
        let host = HeaderValue::from_str(&self.authority).map_err(|_| RegistryError::Answer {
            host: self.authority.clone(),
            what: "it names a host that is none".into(),
        })?;
        request.headers_mut().insert(HOST, host);
        let sends = request.body().size_hint().exact() != Some(0);
        let link = TokioIo::new(self.link(access).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(link).await.map_err(broken)?;
        // It ends with the answer's body.
        tokio::spawn(connection);
        let answer = sender.send_request(request);
        if sends {
            // What is sent takes as long as it takes; a link that takes nothing is cut by TCP.
            return answer.await.map_err(broken);
        }
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| silent())?.map_err(broken)
    }

    /// The next piece of an answer; none at its end.
    pub async fn next(&self, body: &mut Incoming) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let silent = |_| RegistryError::Talk(self.authority.clone(), io::ErrorKind::TimedOut.into());
            match frame.map_err(silent)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(RegistryError::Talk(self.authority.clone(), io::Error::other(error))),
                // Whatever else comes, such as trailers, is of no use.
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// All of an answer, which is at most that long.
    pub async fn collect(&self, mut body: Incoming, longest: usize) -> Result<Vec<u8>, RegistryError> {
        let mut all = Vec::new();
        while let Some(piece) = self.next(&mut body).await? {
            if all.len() + piece.len() > longest {
                let what = format!("its answer is over {} KiB", longest >> 10);
                return Err(RegistryError::Answer { host: self.authority.clone(), what });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

/// Whether a handshake failed for what came is no TLS.
fn is_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    // Whoever does not understand the first words may also just hang up.
    let hung_up = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof);
    matches!(inner, Some(rustls::Error::InvalidMessage(_))) || (inner.is_none() && hung_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_peers() {
        let peer = |text: &str| Peer::of(&text.parse().unwrap());
        let known = peer("https://h.example/x?y").unwrap();
        assert_eq!((known.authority.as_str(), known.port()), ("h.example", 443));
        assert_eq!(peer("http://[::1]:81/").unwrap().port(), 81);
        assert_eq!(peer("http://[::1]/").unwrap().port(), 80);
        for bad in ["/x", "ftp://h.example/", "https://user@h.example/"] {
            assert_eq!(peer(bad), None, "{bad}");
        }
    }
}
