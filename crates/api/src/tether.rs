//! A connection that somebody else can end, whoever reads from it or writes to it at the moment.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

/// A stream over a socket that is shut down when a condition comes true.
#[derive(Debug)]
pub struct Tethered<S> {
    stream: S,
    watch: AbortHandle,
}

impl<S> Tethered<S> {
    /// `stream` over `socket`, another descriptor of it, which is shut down once `severed` is done. The kernel wakes whoever
    /// waits on either half.
    pub fn new(stream: S, socket: OwnedFd, severed: impl Future<Output = ()> + Send + 'static) -> Self {
        let watch = tokio::spawn(async move {
            severed.await;
            // One that is shut down already is what was wanted.
            let _ = shutdown(&socket, Shutdown::Both);
        });
        Self { stream, watch: watch.abort_handle() }
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S> Drop for Tethered<S> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tethered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tethered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
