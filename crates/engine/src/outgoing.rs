//! The sending half of a link: messages first, then the frames of streams, within bounds if there are any, and beside other
//! links of the node.

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
use crate::sharing::Flow;

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
    /// Its part of what the node sends, if it shares that with others.
    flow: Option<Arc<Flow>>,
    /// Whether the frame that waits may go, as far as others are concerned.
    granted: bool,
    /// Whether nothing was waiting before the next frame.
    fresh: bool,
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
    pub fn new(
        link: W,
        bandwidth: Option<Bandwidth>,
        flow: Option<Arc<Flow>>,
        traffic: Arc<Traffic>,
        pace: Arc<Pace>,
    ) -> Self {
        let cap = bandwidth.map(|bandwidth| Cap::new(bandwidth, Moment::default()));
        let (meter, begun) = (Meter::default(), Instant::now());
        let outgoing = Self { link, cap, flow, granted: false, fresh: true, meter, traffic, pace, begun };
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
            let flow = self.flow.clone();
            let others = async {
                match &flow {
                    Some(flow) => flow.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(others);
            // Listened to before it is asked: what changes in between must be heard. The first poll only does that.
            let _ = poll_fn(|context| Poll::Ready(others.as_mut().poll(context))).await;
            let wait = self.wait(now, rest.as_ref());
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
                () = &mut others, if !wait.is_zero() => continue,
                () = std::future::ready(()), if rest.is_some() && wait.is_zero() => Next::Rest,
                Some(frame) = frames.recv(), if rest.is_none() => Next::Frame(frame),
                else => Next::End,
            };
            let sent = match next {
                Next::Message(message) => {
                    let length = u32::try_from(message.len()).expect("encoded messages are bounded");
                    if let Some(flow) = &self.flow {
                        flow.spent(message.len());
                    }
                    self.write(FrameHeader::Control(length), message).await
                }
                // It waits for its turn like what is left of another one.
                Next::Frame(frame) if self.cap.is_some() || self.flow.is_some() => {
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
            self.fresh = idle;
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

    /// How long what waits must wait on: only what can wait does.
    fn wait(&mut self, now: Moment, rest: Option<&Frame>) -> Duration {
        let Some((header, payload)) = rest else { return Duration::ZERO };
        let wait = self.cap.as_mut().map_or(Duration::ZERO, |cap| cap.wait(now));
        if !wait.is_zero() || self.granted {
            return wait;
        }
        let (Some(flow), FrameHeader::Data(stream, _)) = (&self.flow, header) else { return wait };
        let wait = flow.ask(*stream, self.fresh, payload.len().min(self.longest()));
        self.granted = wait.is_zero();
        wait
    }

    /// The longest piece that is sent at once.
    fn longest(&self) -> usize {
        let bounded = self.cap.is_some() || self.flow.as_ref().is_some_and(|flow| flow.is_bounded());
        if bounded { CAPPED_PIECE } else { usize::MAX }
    }

    /// The first bytes of a frame of a stream, as a frame of their own.
    async fn write_piece(&mut self, frame: Frame, rest: &mut Option<Frame>) -> io::Result<()> {
        let written = self.write_first(frame, rest).await;
        self.granted = false;
        if let Some(flow) = &self.flow {
            flow.sent();
        }
        written
    }

    async fn write_first(&mut self, (header, mut payload): Frame, rest: &mut Option<Frame>) -> io::Result<()> {
        let FrameHeader::Data(stream, length) = header else { return self.write(header, payload).await };
        if payload.len() <= self.longest() {
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
        let bounds = [self.cap.as_ref().map(Cap::rate), self.flow.as_ref().and_then(|flow| flow.rate())];
        let (rate, waits) = match bounds.into_iter().flatten().min() {
            Some(bound) if measured == 0 || measured >= bound => (bound, true),
            _ => (measured, waits),
        };
        self.pace.rate.store(rate, Ordering::Relaxed);
        self.pace.waits.store(waits, Ordering::Relaxed);
    }
}

/// Nobody waits for a link that is gone, however it went.
impl<W> Drop for Outgoing<W> {
    fn drop(&mut self) {
        if let Some(flow) = &self.flow {
            flow.idle();
        }
    }
}
