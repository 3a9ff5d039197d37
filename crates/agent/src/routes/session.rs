//! What streams: logs as JSON records, `attach` and `exec` as framed streams over an upgraded connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use drover_api::{ApiError, ExecRequest, LogQuery, LogRecord, routes, stream};
use drover_engine::{Node, Session};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tracing::debug;

use super::body::{Chosen, JsonBody, Parameters};
use super::refusal::Refusal;

/// How many log records are put into one piece of an answer at most.
const LOG_BATCH: usize = 256;
/// How long the last word of a session may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A container's output, one JSON record a line.
#[utoipa::path(get, path = "/v1/containers/{name}/logs", tag = "containers", params(("name" = String, Path), LogQuery),
    responses((status = 200, body = LogRecord, content_type = "application/x-ndjson"),
        (status = "default", body = ApiError)))]
pub(super) async fn logs(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
    Parameters(query): Parameters<LogQuery>,
) -> Result<Response, Refusal> {
    let records = node.logs(&name, query).await?;
    Ok(([(CONTENT_TYPE, routes::NDJSON)], log_body(records)).into_response())
}

fn log_body(records: mpsc::Receiver<LogRecord>) -> Body {
    Body::from_stream(futures_util::stream::unfold(records, async |mut records| {
        let mut batch = Vec::new();
        if records.recv_many(&mut batch, LOG_BATCH).await == 0 {
            return None;
        }
        let mut lines = Vec::new();
        for record in &batch {
            // Numbers and text always are JSON, and a vector takes every write.
            if serde_json::to_writer(&mut lines, record).is_ok() {
                lines.push(b'\n');
            }
        }
        Some((Ok::<_, Infallible>(Bytes::from(lines)), records))
    }))
}

/// Connect to the standard input and output of a container's program. Closing the connection detaches.
#[utoipa::path(post, path = "/v1/containers/{name}/attach", tag = "containers", params(("name" = String, Path)),
    responses((status = 101, description = "a framed stream follows"), (status = "default", body = ApiError)))]
pub(super) async fn attach(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
    mut request: Request,
) -> Result<Response, Refusal> {
    let upgrade = upgrade(&mut request)?;
    let session = node.attach(&name).await?;
    Ok(switch(upgrade, session))
}

/// Run another program inside a container. Closing the connection takes its input away.
#[utoipa::path(post, path = "/v1/containers/{name}/exec", tag = "containers", params(("name" = String, Path)),
    request_body = ExecRequest,
    responses((status = 101, description = "a framed stream follows"), (status = "default", body = ApiError)))]
pub(super) async fn exec(
    State(node): State<Arc<Node>>,
    Chosen(name): Chosen,
    mut request: Request,
) -> Result<Response, Refusal> {
    let upgrade = upgrade(&mut request)?;
    let JsonBody(request) = JsonBody::<ExecRequest>::from_request(request, &()).await?;
    let session = node.exec(&name, request).await?;
    Ok(switch(upgrade, session))
}

fn upgrade(request: &mut Request) -> Result<OnUpgrade, Refusal> {
    let asked = |headers: &HeaderMap| {
        let protocol = headers.get(UPGRADE).is_some_and(|value| value == routes::STREAM_PROTOCOL);
        let connection = headers.get(CONNECTION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        protocol && connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
    };
    if asked(request.headers()) { Ok(hyper::upgrade::on(request)) } else { Err(Refusal::no_upgrade()) }
}

/// The answer that turns the connection into a stream, and the session on it.
fn switch(upgrade: OnUpgrade, session: Session) -> Response {
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => carry(TokioIo::new(upgraded), session).await,
            Err(error) => debug!(%error, "connection was not upgraded"),
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, routes::STREAM_PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Carries messages both ways until the program's last one, or until the client goes.
async fn carry(link: impl AsyncRead + AsyncWrite, session: Session) {
    let (mut reader, mut writer) = tokio::io::split(link);
    let Session { input, mut output, mut closing } = session;
    let inwards = async {
        loop {
            match stream::read(&mut reader).await {
                Ok(Some(message)) => match input.send(message).await {
                    Ok(()) => {}
                    // The program reads no more; what it still says shall go out.
                    Err(_) => std::future::pending().await,
                },
                Ok(None) => return debug!("client detached"),
                Err(error) => return debug!(%error, "session's input broke"),
            }
        }
    };
    let outwards = async {
        while let Some(message) = output.recv().await {
            if let Err(error) = stream::write(&mut writer, &message).await {
                return debug!(%error, "session's output broke");
            }
        }
    };
    tokio::select! {
        () = inwards => {}
        () = outwards => {}
        // The client is told in order: a connection that only breaks may mean anything.
        _ = closing.changed() => {}
    }
    // The program hears of it first: a client that is gone without a word takes no farewell.
    drop((input, output));
    match tokio::time::timeout(FAREWELL, writer.shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "session's output broke"),
        Err(_) => debug!("session's client does not listen"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_api::{LogStream, SessionInput, SessionOutput};
    use http_body_util::BodyExt;
    use tokio::sync::watch;

    #[tokio::test]
    async fn a_session_carries_both_ways_and_ends_with_the_last_message() {
        let (client, server) = tokio::io::duplex(64);
        let (input, mut typed) = mpsc::channel(1);
        let (said, output) = mpsc::channel(1);
        let (_open, closing) = watch::channel(());
        let carried = tokio::spawn(carry(server, Session { input, output, closing }));
        let (mut reader, mut writer) = tokio::io::split(client);
        stream::write(&mut writer, &SessionInput::StdinClosed).await.unwrap();
        assert_eq!(typed.recv().await, Some(SessionInput::StdinClosed));
        drop(typed);
        stream::write(&mut writer, &SessionInput::Stdin(vec![1])).await.unwrap();
        for message in [SessionOutput::Output(LogStream::Stdout, vec![7]), SessionOutput::Exited(3)] {
            said.send(message.clone()).await.unwrap();
            assert_eq!(stream::read(&mut reader).await.unwrap(), Some(message));
        }
        drop(said);
        assert_eq!(stream::read::<SessionOutput>(&mut reader).await.unwrap(), None);
        carried.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_goes_detaches() {
        let (client, server) = tokio::io::duplex(64);
        let (input, mut typed) = mpsc::channel(1);
        let (said, output) = mpsc::channel(1);
        let (_open, closing) = watch::channel(());
        let carried = tokio::spawn(carry(server, Session { input, output, closing }));
        drop(client);
        carried.await.unwrap();
        assert_eq!(typed.recv().await, None);
        assert!(said.is_closed());
    }

    #[tokio::test]
    async fn a_session_ends_in_order_when_the_agent_stops() {
        let (mut client, server) = tokio::io::duplex(64);
        let ((input, _typed), (_said, output)) = (mpsc::channel(1), mpsc::channel(1));
        let (open, closing) = watch::channel(());
        let carried = tokio::spawn(carry(server, Session { input, output, closing }));
        open.send_replace(());
        carried.await.unwrap();
        // Whoever closes waits for this.
        open.closed().await;
        assert_eq!(stream::read::<SessionOutput>(&mut client).await.unwrap(), None);
    }

    #[tokio::test]
    async fn log_records_become_lines() {
        let (sender, receiver) = mpsc::channel(4);
        for text in ["a\n", "b"] {
            let record = LogRecord { time_ns: 7, stream: LogStream::Stderr, text: text.into() };
            sender.send(record).await.unwrap();
        }
        drop(sender);
        let body = log_body(receiver).collect().await.unwrap().to_bytes();
        let expected = "{\"time_ns\":7,\"stream\":\"stderr\",\"text\":\"a\\n\"}\n\
                        {\"time_ns\":7,\"stream\":\"stderr\",\"text\":\"b\"}\n";
        assert_eq!(body, expected);
    }
}
