//! Extractors that refuse with an `ApiError`, and a request's body as a byte stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::{Json, extract};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};

use drover_model::Caller;

use super::refusal::Refusal;
use crate::gate::Found;

/// A JSON body.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(Refusal::unread(rejection.status(), rejection.body_text())),
        }
    }
}

/// The parameters behind the question mark.
#[derive(Debug)]
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Refusal::unread(rejection.status(), rejection.body_text())),
        }
    }
}

/// The one placeholder of the path, percent-decoded.
#[derive(Debug)]
pub(super) struct Segment<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segment<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(segment)) => Ok(Self(segment)),
            Err(rejection) => Err(Refusal::unread(rejection.status(), rejection.body_text())),
        }
    }
}

/// Whoever asks, as the gate knows it.
#[derive(Debug)]
pub(super) struct By(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get::<Caller>().cloned().map(Self).ok_or_else(Refusal::nobody)
    }
}

/// The id of the container that the path names. The gate has looked it up and decided about it: the name may have become
/// another container's by the time the request's body is here.
#[derive(Debug)]
pub(super) struct Chosen(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Chosen {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let found = parts.extensions.get::<Found>().and_then(|found| found.container.as_ref());
        found.map(|(id, _)| Self(id.to_string())).ok_or_else(Refusal::nobody)
    }
}

/// A body as a byte stream. A body that breaks off is an error, never an end: half an archive must not pass for one.
#[derive(Debug)]
pub(super) struct BodyReader {
    body: Body,
    chunk: Bytes,
}

impl BodyReader {
    pub(super) fn new(body: Body) -> Self {
        Self { body, chunk: Bytes::new() }
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
            }
        }
        let length = self.chunk.len().min(buffer.remaining());
        buffer.put_slice(&self.chunk.split_to(length));
        Poll::Ready(Ok(()))
    }
}

/// How long the rest of a body that was refused is read over.
const REST: Duration = Duration::from_secs(30);

/// A client that still sends hears of a refusal when it has sent all; otherwise it would hear that the connection broke.
impl Drop for BodyReader {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            return;
        }
        let mut body = std::mem::take(&mut self.body);
        let rest = async move {
            let read_over =
                async { while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {} };
            let _ = tokio::time::timeout(REST, read_over).await;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn chunks_of_any_size_become_one_stream() {
        let chunks = ["ab", "", "c", "defgh"].map(|chunk| Ok::<_, io::Error>(Bytes::from(chunk)));
        let mut reader = BodyReader::new(Body::from_stream(stream::iter(chunks)));
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "abcdefgh");
    }

    #[tokio::test]
    async fn the_rest_of_a_body_that_was_refused_is_read_over() {
        let (all, mut read) = tokio::sync::mpsc::unbounded_channel();
        let chunks = stream::iter(0..10).map(move |number| {
            let _ = all.send(number);
            Ok::<_, io::Error>(Bytes::from("chunk"))
        });
        let mut reader = BodyReader::new(Body::from_stream(chunks));
        reader.read_exact(&mut [0; 3]).await.unwrap();
        drop(reader);
        for expected in 0..10 {
            assert_eq!(read.recv().await, Some(expected));
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error() {
        let chunks = [Ok(Bytes::from("ab")), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
        let mut reader = BodyReader::new(Body::from_stream(stream::iter(chunks)));
        assert!(reader.read_to_end(&mut Vec::new()).await.is_err());
    }
}
