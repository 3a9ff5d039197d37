//! A request's body within bounds: so long at most, and never silent for too long.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::rules::Bound;
use crate::limits::RequestLimits;
use crate::routes::LONGEST_BODY;

/// The body within the bounds of its route.
pub(super) fn bounded(body: Body, bound: Bound, limits: &RequestLimits) -> Body {
    let longest = match bound {
        Bound::Prompt | Bound::Long => LONGEST_BODY as u64,
        Bound::Archive => limits.archive_bytes,
    };
    let idle = limits.body_idle;
    Body::new(Bounded { body, left: Some(longest), longest, idle, silence: Box::pin(sleep(idle)) })
}

struct Bounded {
    body: Body,
    /// How much may still come; none when it was too much: what comes after that is for whoever reads it over.
    left: Option<u64>,
    longest: u64,
    idle: Duration,
    silence: Pin<Box<Sleep>>,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let idle = self.idle;
                self.silence.as_mut().reset(Instant::now() + idle);
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(left) = self.left {
                    self.left = left.checked_sub(length);
                    if self.left.is_none() {
                        let reason = format!("it is longer than the {} bytes that this node takes", self.longest);
                        return Poll::Ready(Some(Err(axum::Error::new(io::Error::other(reason)))));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => match self.silence.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    let reason = format!("nothing of it came for {} s", self.idle.as_secs_f64());
                    let error = io::Error::new(io::ErrorKind::TimedOut, reason);
                    Poll::Ready(Some(Err(axum::Error::new(error))))
                }
                Poll::Pending => Poll::Pending,
            },
            ended => ended,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use futures_util::{StreamExt, stream};

    fn limits() -> RequestLimits {
        RequestLimits { archive_bytes: 10, body_idle: Duration::from_millis(20), ..RequestLimits::default() }
    }

    async fn read(chunks: Vec<&'static str>, bound: Bound) -> Result<usize, String> {
        let chunks = stream::iter(chunks.into_iter().map(Ok::<_, io::Error>));
        let body = bounded(Body::from_stream(chunks), bound, &limits());
        to_bytes(body, usize::MAX).await.map(|bytes| bytes.len()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_body_is_bounded_by_its_route() {
        assert_eq!(read(vec!["01234", "56789"], Bound::Archive).await, Ok(10));
        assert!(
            read(vec!["01234", "56789", "0"], Bound::Archive).await.unwrap_err().contains("longer than the 10 bytes")
        );
        assert_eq!(read(vec!["0123456789a"], Bound::Prompt).await, Ok(11));
    }

    #[tokio::test]
    async fn a_body_that_falls_silent_is_given_up() {
        let silent = stream::iter([Ok::<_, io::Error>("0")]).chain(stream::pending());
        let body = bounded(Body::from_stream(silent), Bound::Archive, &limits());
        let error = to_bytes(body, usize::MAX).await.unwrap_err();
        assert!(error.to_string().contains("nothing of it came"), "{error}");
    }
}
