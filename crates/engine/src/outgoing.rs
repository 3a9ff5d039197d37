//! The sending half of a link: messages first, then the frames of streams, within a bound if there is one.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};

use drover_model::{Bandwidth, Moment};
use drover_packing::LinkRate;
use drover_protocol::{CAPPED_PIECE, Cap, FrameHeader, Meter};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::link::Traffic;

/// A frame with its payload.
pub(crate) type Frame = (FrameHeader, Bytes);

/// What is known of a link's rate, for whoever sends over it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    rate: AtomicU64,
    waits: AtomicBool,
}

impl Pace {
    pub fn rate(&self) -> LinkRate {
        LinkRate { rate: self.rate.load(Ordering::Relaxed), waits: self.waits.load(Ordering::Relaxed) }
    }
}

/// What sends.
pub(crate) struct Outgoing<W> {
    link: W,
    cap: Option<Cap>,
    meter: Meter,
    traffic: Arc<Traffic>,
    pace: Arc<Pace>,
    /// The zero of its clock.
    begun: Instant,
}

/// What is to be done next.
enum Next {
    Message(Bytes),
    Frame(Frame),
    /// The rest of a frame may go on.
    Rest,
    End,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    pub fn new(link: W, bandwidth: Option<Bandwidth>, traffic: Arc<Traffic>, pace: Arc<Pace>) -> Self {
        let cap = bandwidth.map(|bandwidth| Cap::new(bandwidth, Moment::default()));
        let outgoing = Self { link, cap, meter: Meter::default(), traffic, pace, begun: Instant::now() };
        // A bound is known before anything was sent.
        outgoing.publish();
        outgoing
    }

    fn now(&self) -> Moment {
        Moment(self.begun.elapsed())
    }

    /// Sends what comes until nothing more can come, or the link is broken.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Bytes>, mut frames: mpsc::Receiver<Frame>) {
        let mut rest: Option<Frame> = None;
        loop {
            let now = self.now();
            let wait = match &mut self.cap {
                // Only what can wait does.
                Some(cap) if rest.is_some() => cap.wait(now),
                _ => Duration::ZERO,
            };
            if !wait.is_zero() {
                if self.link.flush().await.is_err() {
                    return;
                }
                self.meter.idle(now);
            }
            let next = tokio::select! {
                biased;
                Some(message) = messages.recv() => Next::Message(message),
                () = tokio::time::sleep(wait), if !wait.is_zero() => continue,
                () = std::future::ready(()), if rest.is_some() && wait.is_zero() => Next::Rest,
                Some(frame) = frames.recv(), if rest.is_none() => Next::Frame(frame),
                else => Next::End,
            };
            let sent = match next {
                Next::Message(message) => {
                    let length = u32::try_from(message.len()).expect("encoded messages are bounded");
                    self.write(FrameHeader::Control(length), message).await
                }
                // It waits for its turn like what is left of another one.
                Next::Frame(frame) if self.cap.is_some() => {
                    rest = Some(frame);
                    continue;
                }
                Next::Frame((header, payload)) => self.write(header, payload).await,
                Next::Rest => match rest.take() {
                    Some(frame) => self.write_piece(frame, &mut rest).await,
                    None => Ok(()),
                },
                Next::End => break,
            };
            // Flushed only when nothing more is waiting: the link is given full records.
            let idle = rest.is_none() && frames.is_empty() && messages.is_empty();
            if sent.is_err() || (idle && self.link.flush().await.is_err()) {
                return;
            }
            if idle {
                let now = self.now();
                self.meter.idle(now);
            }
            self.publish();
        }
        // The peer has read what it wanted, or is gone.
        let _ = self.link.shutdown().await;
    }

    /// The first bytes of a frame of a stream, as a frame of their own.
    async fn write_piece(&mut self, (header, mut payload): Frame, rest: &mut Option<Frame>) -> io::Result<()> {
        let FrameHeader::Data(stream, length) = header else { return self.write(header, payload).await };
        if payload.len() <= CAPPED_PIECE {
            return self.write(header, payload).await;
        }
        let piece = payload.split_to(CAPPED_PIECE);
        *rest = Some((FrameHeader::Data(stream, length - CAPPED_PIECE as u32), payload));
        self.write(FrameHeader::Data(stream, CAPPED_PIECE as u32), piece).await
    }

    async fn write(&mut self, header: FrameHeader, mut payload: Bytes) -> io::Result<()> {
        let encoded = header.encode();
        let mut head = &encoded[..];
        let length = head.len() + payload.len();
        let now = self.now();
        if let Some(cap) = &mut self.cap {
            cap.spend(now, length);
        }
        let mut waited = Duration::ZERO;
        while !head.is_empty() || !payload.is_empty() {
            let link = &mut self.link;
            let mut since: Option<Instant> = None;
            let taken = poll_fn(|context| {
                // Both at once, or the header would become a record and a packet of its own.
                let parts = [IoSlice::new(head), IoSlice::new(&payload)];
                match Pin::new(&mut *link).poll_write_vectored(context, &parts) {
                    Poll::Pending => {
                        since.get_or_insert_with(Instant::now);
                        Poll::Pending
                    }
                    Poll::Ready(taken) => Poll::Ready(taken),
                }
            });
            let taken = taken.await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            waited += since.map_or(Duration::ZERO, |since| since.elapsed());
            let of_head = taken.min(head.len());
            head = &head[of_head..];
            payload.advance(taken - of_head);
        }
        let now = self.now();
        self.meter.took(now, length, waited);
        self.traffic.count(header);
        Ok(())
    }

    fn publish(&self) {
        let (measured, waits) = self.meter.rate();
        let (rate, waits) = match &self.cap {
            Some(cap) if measured == 0 || measured >= cap.rate() => (cap.rate(), true),
            _ => (measured, waits),
        };
        self.pace.rate.store(rate, Ordering::Relaxed);
        self.pace.waits.store(waits, Ordering::Relaxed);
    }
}
