//! The binary against two nodes played by this test: real processes, real TLS, no containers.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Path as Segment, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use drover_agent::{Limits, Server};
use drover_api::tls::TlsFiles;
use drover_api::{ApiError, Context, LogRecord, LogStream, NodeEndpoint, SessionInput, SessionOutput, routes, stream};
use drover_model::NodeName;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The migration that moves the container, and the one that does not.
const MOVES: &str = "0a";
const STAYS: &str = "0b";

fn issue(directory: &Path, issuer: &Issuer<'_, KeyPair>, name: &str) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let path = |end: &str| directory.join(format!("{name}.{end}"));
    std::fs::write(path("pem"), params.signed_by(&key, issuer).unwrap().pem()).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    TlsFiles { ca: directory.join("ca.pem"), cert: path("pem"), key: path("key") }
}

/// Two nodes, n1 and n2, one container, `web`, and a context that names a third node, which is down.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let (moved, _) = watch::channel(false);
        let mut nodes = Vec::new();
        for name in ["n1", "n2", "n3"] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            nodes.push(NodeEndpoint { name: name.parse().unwrap(), address, netns: None });
            if name == "n3" {
                break;
            }
            let tls = issue(directory.path(), &issuer, name).server().unwrap();
            let link = |_: NodeName, _, _| std::future::ready(());
            let ((_, tls), (_, roster)) = (watch::channel(tls), watch::channel(Arc::default()));
            let server = Server {
                tls,
                roster,
                router: node(name, moved.clone()),
                link,
                joining: None,
                limits: Limits::default(),
            };
            tokio::spawn(async move { server.run(listener, std::future::pending(), async {}).await });
        }
        let TlsFiles { ca, cert, key } = issue(directory.path(), &issuer, "user");
        let (ca, cert, key) = (ca.into(), cert.into(), key.into());
        let context = Context { cluster: "test".into(), ca, cert, key, nodes };
        std::fs::write(directory.path().join("context.json"), serde_json::to_vec(&context).unwrap()).unwrap();
        Self { directory }
    }

    fn start(&self, arguments: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_drover"))
            .args(arguments.split_whitespace())
            .env(Context::VARIABLE, self.directory.path().join("context.json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn run(&self, arguments: &str) -> Output {
        finish(self.start(arguments)).await
    }
}

async fn finish(child: Child) -> Output {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it does not end").unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn record(node: &str) -> Value {
    let moved = node == "n2";
    json!({
        "spec": {
            "id": "aa", "name": "web", "image": "busybox", "hostname": "web", "restart": "no",
            "image_digest": format!("sha256:{}", "0".repeat(64)), "created_at": "2026-01-01T00:00:00Z",
            "process": { "args": ["sh"], "env": [], "cwd": "/", "uid": 0, "gid": 0, "terminal": false,
                "stdin_open": true },
            "limits": {}, "interface": null,
        },
        "node": node, "generation": u64::from(moved), "restarts": 0, "started_at": "2026-01-01T00:00:00Z",
        "state": if moved { "exited" } else { "running" }, "status": 0,
    })
}

fn state(id: &str, outcome: Option<&str>) -> Json<Value> {
    let report = outcome.map(|outcome| {
        json!({
            "id": id, "container": "web", "from": "n1", "to": "n2", "outcome": outcome, "downtime_ms": 5.0,
            "total_ms": 14.0, "phases": { "freeze": 1.0 }, "rounds": [], "bytes_sent": 10, "bytes_memory": 8,
            "bytes_disk": 1, "mode": "stop-and-copy", "reason": "n2 has no room", "hint": "make room on n2",
        })
    });
    Json(json!({ "id": id, "container": "web", "from": "n1", "to": "n2", "phase": "settle", "in_doubt": false,
        "bytes_sent": 10, "report": report }))
}

fn missing() -> Response {
    let error = ApiError { error: "there is no such thing here".into(), hint: None, exit_status: None };
    (StatusCode::NOT_FOUND, Json(error)).into_response()
}

fn line(n: u64) -> String {
    let record = LogRecord { time_ns: n, stream: LogStream::Stdout, text: format!("line {n}\n") };
    serde_json::to_string(&record).unwrap() + "\n"
}

/// `web` is on n1 until it is moved to n2, where it says three lines more and ends.
fn node(name: &'static str, moved: watch::Sender<bool>) -> Router {
    let place = moved.subscribe();
    let here = move || *place.borrow() == (name == "n2");
    let also_here = here.clone();
    let list = async move || Json(if here() { vec![record(name)] } else { vec![] });
    let show = async move |Segment(asked): Segment<String>| match asked.as_str() {
        "web" | "aa" if also_here() => Json(record(name)).into_response(),
        _ => missing(),
    };
    let leaving = moved.subscribe();
    let logs = async move || match name {
        "n1" => Body::new(Lines(speak_until_moved(leaving))),
        _ => Body::from((0..6).map(line).collect::<String>()),
    };
    let begin = async |Json(asked): Json<Value>| {
        assert_eq!(asked["container"], "aa");
        (StatusCode::ACCEPTED, state(if asked["settings"]["mode"] == "auto" { MOVES } else { STAYS }, None))
    };
    let end = async move |Segment(id): Segment<String>| match (name, id.as_str()) {
        ("n1", MOVES) => {
            moved.send_replace(true);
            state(&id, Some("moved")).into_response()
        }
        ("n1", STAYS) => state(&id, Some("rolled_back")).into_response(),
        _ => missing(),
    };
    Router::new()
        .route(routes::CONTAINERS, get(list))
        .route(routes::CONTAINER, get(show))
        .route(routes::LOGS, get(logs))
        .route(routes::MIGRATIONS, post(begin))
        .route(routes::MIGRATION, get(end))
        .route(routes::EXEC, post(shout))
}

/// Three lines at once; the end comes when the container has left.
fn speak_until_moved(mut moved: watch::Receiver<bool>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        for n in 0..3 {
            sender.send(line(n)).await.unwrap();
        }
        moved.wait_for(|moved| *moved).await.map(drop)
    });
    receiver
}

/// A body of which each message is a piece.
struct Lines(mpsc::Receiver<String>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(hyper::body::Frame::data(line.into()))))
    }
}

/// A program that repeats its input in capitals and ends with status 7.
async fn shout(mut request: Request) -> impl IntoResponse {
    let upgrade = hyper::upgrade::on(&mut request);
    let asked: Value = serde_json::from_slice(&to_bytes(request.into_body(), 1 << 20).await.unwrap()).unwrap();
    tokio::spawn(async move {
        let mut link = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
        let greeting = SessionOutput::Output(LogStream::Stderr, asked["args"].to_string().into_bytes());
        stream::write(&mut link, &greeting).await.unwrap();
        while let Some(SessionInput::Stdin(data)) = stream::read(&mut link).await.unwrap() {
            let loud = SessionOutput::Output(LogStream::Stdout, data.to_ascii_uppercase());
            stream::write(&mut link, &loud).await.unwrap();
        }
        stream::write(&mut link, &SessionOutput::Exited(7)).await.unwrap();
        link.shutdown().await.unwrap();
    });
    (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", routes::STREAM_PROTOCOL)])
}

#[tokio::test]
async fn a_node_that_is_down_is_a_warning_and_what_is_nowhere_an_error() {
    let stage = Stage::set().await;
    let listed = stage.run("ps").await;
    assert!(listed.status.success());
    assert!(text(&listed.stdout).contains("\naa   web    n1     running"), "{}", text(&listed.stdout));
    assert!(text(&listed.stderr).starts_with("warning: cannot reach node n3 at 127.0.0.1:"));
    let listed = stage.run("ps --json --node n1").await;
    let records: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(records[0]["spec"]["name"], "web");
    assert_eq!(text(&listed.stderr), "");

    let unknown = stage.run("inspect db").await;
    assert_eq!(unknown.status.code(), Some(1));
    let expected = "cannot inspect db: no node that answers has a container db, and n3 could not be asked\n";
    assert_eq!(text(&unknown.stderr), expected);
    let failed = stage.run("run busybox").await;
    assert_eq!(failed.status.code(), Some(125));
    let expected = "cannot run busybox: the context names more than one node: n1, n2 and n3\n\
                    hint: choose one with --node\n";
    assert_eq!(text(&failed.stderr), expected);
}

#[tokio::test]
async fn a_program_gets_input_and_its_status_is_passed_on() {
    let stage = Stage::set().await;
    let mut child = stage.start("exec -i web cat -u");
    child.stdin.take().unwrap().write_all(b"hello\n").await.unwrap();
    let output = finish(child).await;
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "HELLO\n");
    assert!(text(&output.stderr).ends_with(r#"["cat","-u"]"#), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_log_follows_its_container_to_another_node() {
    let stage = Stage::set().await;
    let mut follower = stage.start("logs -f web");
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    for n in 0..3 {
        assert_eq!(lines.next_line().await.unwrap().unwrap(), format!("line {n}"));
    }
    let moved = stage.run("migrate web --to n2 --json").await;
    assert_eq!(moved.status.code(), Some(0), "{}", text(&moved.stderr));
    let report: Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!((&report["outcome"], &report["phases"]["freeze"]), (&json!("moved"), &json!(1.0)));
    for n in 3..6 {
        assert_eq!(lines.next_line().await.unwrap().unwrap(), format!("line {n}"));
    }
    assert_eq!(lines.next_line().await.unwrap(), None);
    assert!(finish(follower).await.status.success());
}

#[tokio::test]
async fn a_move_that_was_rolled_back_fails_with_reason_and_hint() {
    let stage = Stage::set().await;
    let failed = stage.run("migrate web --to n2 --mode stop-and-copy").await;
    assert_eq!(failed.status.code(), Some(1));
    let expected = "cannot move web to n2: n2 has no room\nhint: make room on n2\n";
    assert!(text(&failed.stderr).ends_with(expected), "{}", text(&failed.stderr));
}
