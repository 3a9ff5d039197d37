//! The client and the server over real TLS on loopback: certificates, ALPN, bodies, streams, errors.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Path as Segment;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use drover_agent::{Limits, Server};
use drover_api::tls::{API_PROTOCOL, LINK_PROTOCOL, TlsFiles};
use drover_api::{
    ApiError, Client, ClientError, ExecRequest, ImportQuery, LogQuery, LogRecord, LogStream, NodeEndpoint,
    SessionInput, SessionOutput, routes, stream,
};
use drover_model::NodeName;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;

/// A certificate authority in a directory of its own.
struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> TlsFiles {
        self.issue_for(name, &[])
    }

    fn issue_for(&self, name: &str, usages: &[ExtendedKeyUsagePurpose]) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = usages.to_vec();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        std::fs::write(path("pem"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        TlsFiles { ca: self.directory.path().join("ca.pem"), cert: path("pem"), key: path("key") }
    }
}

struct Running {
    address: SocketAddr,
    /// The name of each peer that opened a link.
    linked: mpsc::Receiver<NodeName>,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<()>,
}

async fn serve(files: &TlsFiles, router: Router, limits: Limits) -> Running {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, linked) = mpsc::channel(4);
    let link = move |peer: NodeName, mut stream: tokio_rustls::server::TlsStream<TcpStream>| {
        let sender = sender.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            sender.send(peer).await.unwrap();
        }
    };
    let server = Server { tls: files.server().unwrap(), router, link, limits };
    let (stop, stopped) = oneshot::channel::<()>();
    let ordered = async { drop(stopped.await) };
    let server = tokio::spawn(async move { server.run(listener, ordered, async {}).await });
    Running { address, linked, stop: Some(stop), server }
}

fn client(name: &str, address: SocketAddr, files: &TlsFiles) -> Client {
    let endpoint = NodeEndpoint { name: name.parse().unwrap(), address, netns: None };
    Client::new(endpoint, files.client(API_PROTOCOL).unwrap())
}

fn record(n: u64) -> LogRecord {
    LogRecord { time_ns: n, stream: LogStream::Stdout, text: format!("line {n}\n") }
}

/// Echoes what it is sent, in capitals, until standard input is closed; then it exits with status 7.
async fn shout(mut request: axum::extract::Request) -> impl IntoResponse {
    let upgrade = hyper::upgrade::on(&mut request);
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let asked: ExecRequest = serde_json::from_slice(&body).unwrap();
    tokio::spawn(async move {
        let mut link = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
        let greeting = asked.args.join(" ").into_bytes();
        stream::write(&mut link, &SessionOutput::Output(LogStream::Stderr, greeting)).await.unwrap();
        while let Some(SessionInput::Stdin(data)) = stream::read(&mut link).await.unwrap() {
            let loud = data.to_ascii_uppercase();
            stream::write(&mut link, &SessionOutput::Output(LogStream::Stdout, loud)).await.unwrap();
        }
        stream::write(&mut link, &SessionOutput::Exited(7)).await.unwrap();
        link.shutdown().await.unwrap();
    });
    (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", routes::STREAM_PROTOCOL)])
}

fn router() -> Router {
    Router::new()
        .route(routes::CONTAINERS, get(async || Json(Vec::<()>::new())))
        .route(
            routes::LOGS,
            get(async || {
                let lines: String = (0..1000).map(|n| serde_json::to_string(&record(n)).unwrap() + "\n").collect();
                Body::from(lines)
            }),
        )
        .route(routes::EXEC, post(shout))
        .route(
            routes::IMAGE,
            post(async |Segment(name): Segment<String>, body: Body| {
                let length = to_bytes(body, usize::MAX).await.map_or(0, |bytes| bytes.len());
                let error = ApiError {
                    error: format!("cannot keep {length} bytes as {name}"),
                    hint: Some("no".into()),
                    exit_status: None,
                };
                (StatusCode::CONFLICT, Json(error))
            }),
        )
        .route(routes::NODE, get(async || "no JSON"))
}

#[tokio::test]
async fn calls_streams_and_uploads_cross_a_real_connection() {
    let authority = Authority::new();
    let user = authority.issue("user");
    let running = serve(&authority.issue("n1"), router(), Limits::default()).await;
    let client = client("n1", running.address, &user);

    assert_eq!(client.containers().await.unwrap(), []);
    assert!(matches!(client.node().await, Err(ClientError::Answer { .. })));
    assert!(client.images().await.unwrap_err().is_not_found());

    let mut lines = client.logs("web", &LogQuery { follow: true, tail: Some(3) }).await.unwrap();
    for n in 0..1000 {
        assert_eq!(lines.next().await.unwrap(), Some(record(n)));
    }
    assert_eq!(lines.next().await.unwrap(), None);

    let (sender, chunks) = mpsc::channel(1);
    let sending = tokio::spawn(async move {
        for _ in 0..100 {
            sender.send(Ok(vec![1; 100_000].into())).await.unwrap();
        }
    });
    let ClientError::Refused { status, error, .. } =
        client.import_image("a:5/b", &ImportQuery::default(), chunks).await.unwrap_err()
    else {
        panic!("import was not refused");
    };
    sending.await.unwrap();
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(error.error, "cannot keep 10000000 bytes as a:5/b");
    assert_eq!(error.hint.as_deref(), Some("no"));

    let request = ExecRequest {
        args: vec!["sh".into(), "-c".into()],
        env: vec![],
        cwd: None,
        user: None,
        terminal: false,
        stdin: true,
    };
    let mut link = client.exec("web", &request).await.unwrap();
    let said = SessionOutput::Output(LogStream::Stderr, b"sh -c".to_vec());
    assert_eq!(stream::read(&mut link).await.unwrap(), Some(said));
    stream::write(&mut link, &SessionInput::Stdin(vec![b'x'; stream::LONGEST_PAYLOAD])).await.unwrap();
    let said = SessionOutput::Output(LogStream::Stdout, vec![b'X'; stream::LONGEST_PAYLOAD]);
    assert_eq!(stream::read(&mut link).await.unwrap(), Some(said));
    stream::write(&mut link, &SessionInput::StdinClosed).await.unwrap();
    assert_eq!(stream::read(&mut link).await.unwrap(), Some(SessionOutput::Exited(7)));
    assert_eq!(stream::read::<SessionOutput>(&mut link).await.unwrap(), None);
}

#[tokio::test]
async fn only_certificates_of_the_cluster_and_of_the_right_name_are_accepted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let node = authority.issue("n1");
    let running = serve(&node, router(), Limits::default()).await;

    // A node that is not the one that was meant.
    let user = authority.issue("user");
    let error = client("n2", running.address, &user).containers().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("DNS name n2"));

    // A node of another cluster.
    let error = client("n1", running.address, &stranger.issue("user")).containers().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");

    // A user of another cluster, who trusts this one. TLS 1.3 tells the client late, or just hangs up.
    let foreign = TlsFiles { ca: node.ca.clone(), ..stranger.issue("user") };
    let error = client("n1", running.address, &foreign).containers().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Tls { .. } | ClientError::Broken { .. } | ClientError::Ended { .. }),
        "{error:?}"
    );

    // A user without certificate.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca(&node.ca)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut anonymous = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    anonymous.alpn_protocols = vec![API_PROTOCOL.to_vec()];
    let endpoint = NodeEndpoint { name: "n1".parse().unwrap(), address: running.address, netns: None };
    let error = Client::new(endpoint, Arc::new(anonymous)).containers().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Tls { .. } | ClientError::Broken { .. } | ClientError::Ended { .. }),
        "{error:?}"
    );
}

fn ca(path: &Path) -> rustls_pki_types::CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_file(path).unwrap()
}

#[tokio::test]
async fn the_protocol_decides_between_api_and_link() {
    let authority = Authority::new();
    let mut running = serve(&authority.issue("n1"), router(), Limits::default()).await;
    let peer = authority.issue("n2");
    let connect = async |protocol: &[u8]| {
        let tcp = TcpStream::connect(running.address).await.unwrap();
        let name = ServerName::try_from("n1").unwrap();
        TlsConnector::from(peer.client(protocol).unwrap()).connect(name, tcp).await
    };
    let mut text = String::new();
    connect(LINK_PROTOCOL).await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    assert_eq!(running.linked.recv().await.unwrap().as_str(), "n2");
    assert!(connect(b"h2").await.is_err());
}

/// Whoever has taken over a node has its key.
#[tokio::test]
async fn a_node_s_certificate_opens_links_and_not_the_api() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let authority = Authority::new();
    let mut running = serve(&authority.issue("n1"), router(), Limits::default()).await;
    let node = authority.issue_for("n2", &[ServerAuth, ClientAuth]);
    let error = client("n1", running.address, &node).containers().await.unwrap_err();
    assert!(error.to_string().contains("a node's certificate"), "{error}");
    assert!(error.hint().unwrap().contains("a user"), "{error:?}");
    let tcp = TcpStream::connect(running.address).await.unwrap();
    let connector = TlsConnector::from(node.client(LINK_PROTOCOL).unwrap());
    let mut link = connector.connect(ServerName::try_from("n1").unwrap(), tcp).await.unwrap();
    link.read_to_string(&mut String::new()).await.unwrap();
    assert_eq!(running.linked.recv().await.unwrap().as_str(), "n2");
    let user = authority.issue_for("user", &[ClientAuth]);
    assert_eq!(client("n1", running.address, &user).containers().await.unwrap(), []);
}

#[tokio::test]
async fn a_silent_client_is_dropped_and_an_idle_one_does_not_delay_the_end() {
    let authority = Authority::new();
    let limits = Limits { handshake: Duration::from_millis(50), connections: 1, ..Limits::default() };
    let mut running = serve(&authority.issue("n1"), router(), limits).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    // It holds the only permit until the handshake takes too long.
    assert_eq!(client("n1", running.address, &authority.issue("user")).containers().await.unwrap(), []);
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    drop(running.stop.take());
    tokio::time::timeout(Duration::from_secs(2), running.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_that_is_killed_in_the_middle_is_told_of_in_plain_words() {
    let authority = Authority::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = authority.issue("n1").server().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    });
    let error = client("n1", address, &authority.issue("user")).containers().await.unwrap_err();
    assert_eq!(error.to_string(), "node n1 ended the connection before it had answered");
    assert!(error.is_lost() && std::error::Error::source(&error).is_none());
}

#[tokio::test]
async fn a_node_that_is_down_is_unreachable() {
    let authority = Authority::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client("n1", address, &authority.issue("user")).containers().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }) && error.is_lost(), "{error:?}");
}
