//! The link between two nodes: messages and byte streams over one TLS connection.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use drover_memory::Buffers;
use drover_model::Bandwidth;
use drover_packing::{LinkRate, Outlet};
use drover_protocol::{FRAME_HEADER, FrameHeader, MAX_DATA, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::container::lock;
use crate::outgoing::{Frame, Outgoing, Pace};
use crate::sharing::Flow;

/// How many frames may wait to be sent, or to be taken in by the consumer of one stream: at most 1 MiB each.
const WAITING: usize = 8;
/// Payloads of this length at most come in buffers that are used again: a block of pages with its header.
const BUFFER: usize = 260 << 10;
/// Payloads that are shorter get memory of their own: it would be a waste to hold a buffer for them.
const SMALL: usize = 16 << 10;
/// How many buffers are kept while nobody uses them.
const BUFFERS: usize = 2 * WAITING;

/// How long a link may take nothing before it counts as broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that crossed, by kind.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    total: AtomicU64,
    memory: AtomicU64,
    files: AtomicU64,
    image: AtomicU64,
}

impl Traffic {
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Of the files.
    pub fn image(&self) -> u64 {
        self.image.load(Ordering::Relaxed)
    }

    pub fn count(&self, header: FrameHeader) {
        let payload = u64::from(header.length());
        self.total.fetch_add(payload + FRAME_HEADER as u64, Ordering::Relaxed);
        match header {
            FrameHeader::Control(_) | FrameHeader::Data(Stream::Checkpoint | Stream::Having, _) => {}
            FrameHeader::Data(Stream::Memory | Stream::Pages | Stream::Following, _) => {
                self.memory.fetch_add(payload, Ordering::Relaxed);
            }
            FrameHeader::Data(stream, _) => {
                self.files.fetch_add(payload, Ordering::Relaxed);
                if stream == Stream::Image {
                    self.image.fetch_add(payload, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Where what comes is given to whoever takes it.
type Inlets = Arc<Mutex<HashMap<Stream, mpsc::Sender<Bytes>>>>;

/// One link. Dropping it ends both directions.
#[derive(Debug)]
pub(crate) struct Link {
    control: mpsc::Sender<Bytes>,
    outgoing: mpsc::Sender<Frame>,
    pace: Arc<Pace>,
    messages: mpsc::Receiver<Bytes>,
    streams: Arc<Mutex<HashMap<Stream, mpsc::Receiver<Bytes>>>>,
    inlets: Inlets,
    tasks: [JoinHandle<()>; 2],
}

impl Link {
    /// Speaks over `connection`.
    pub fn new(connection: impl AsyncRead + AsyncWrite + Send + 'static, traffic: Arc<Traffic>) -> Self {
        Self::capped(connection, traffic, None)
    }

    /// Speaks over `connection`, and sends no more than `bandwidth` over it.
    pub fn capped(
        connection: impl AsyncRead + AsyncWrite + Send + 'static,
        traffic: Arc<Traffic>,
        bandwidth: Option<Bandwidth>,
    ) -> Self {
        Self::shared(connection, traffic, bandwidth, None)
    }

    /// The same beside other links, of which it has this part.
    pub fn shared(
        connection: impl AsyncRead + AsyncWrite + Send + 'static,
        traffic: Arc<Traffic>,
        bandwidth: Option<Bandwidth>,
        flow: Option<Arc<Flow>>,
    ) -> Self {
        let (reading, writing) = tokio::io::split(connection);
        let (outgoing, frames) = mpsc::channel(WAITING);
        let (control, orders) = mpsc::channel(1);
        let (heard, messages) = mpsc::channel(WAITING);
        let mut inlets = HashMap::new();
        let mut streams = HashMap::new();
        for stream in Stream::ALL {
            let (inlet, outlet) = mpsc::channel(WAITING);
            inlets.insert(stream, inlet);
            streams.insert(stream, outlet);
        }
        let pace = Arc::new(Pace::default());
        let sending = Outgoing::new(writing, bandwidth, flow, Arc::clone(&traffic), Arc::clone(&pace));
        let send = tokio::spawn(sending.run(orders, frames));
        let inlets: Inlets = Arc::new(Mutex::new(inlets));
        let receive = tokio::spawn(receive(reading, heard, Arc::clone(&inlets), Arc::clone(&traffic)));
        let streams = Arc::new(Mutex::new(streams));
        Self { control, outgoing, pace, messages, streams, inlets, tasks: [send, receive] }
    }

    /// Sends a message's payload before whatever else is waiting; `false` when the link is broken or takes nothing for as
    /// long as `patience`. Without any patience it is not sent behind what the link has taken and not carried yet: that
    /// may be a lot where streams have to wait.
    pub async fn send(&self, payload: Vec<u8>, patience: Duration) -> bool {
        if patience.is_zero() && self.outgoing.capacity() == 0 {
            return false;
        }
        let sending = self.control.send(payload.into());
        matches!(tokio::time::timeout(patience, sending).await, Ok(Ok(())))
    }

    /// The next message's payload; `None` when the link is broken.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.messages.recv().await
    }

    /// Whether it is known that nothing more comes, or can be sent.
    pub fn is_broken(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Where bytes of a stream are written, from a thread that may block.
    pub fn sender(&self, stream: Stream) -> StreamSender {
        StreamSender { stream, outgoing: self.outgoing.clone(), pace: Arc::clone(&self.pace) }
    }

    /// Where bytes of a stream are read, on a thread that may block; each stream once.
    pub fn take_stream(&self, stream: Stream) -> Option<ChannelReader> {
        lock(&self.streams).remove(&stream).map(ChannelReader::new)
    }

    /// Ends all streams that come: whoever reads one hears its end behind what has come already. What comes later is read
    /// over.
    pub fn cut_streams(&self) {
        lock(&self.inlets).clear();
        lock(&self.streams).clear();
    }

    /// Sends what is waiting, then ends.
    pub async fn close(mut self) {
        let ((control, _), (outgoing, _)) = (mpsc::channel(1), mpsc::channel(1));
        (self.control, self.outgoing) = (control, outgoing);
        let _ = tokio::time::timeout(PATIENCE, &mut self.tasks[0]).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Distributes what comes until the link breaks or the peer sends nonsense, which is the same to us.
async fn receive(link: impl AsyncRead + Unpin, heard: mpsc::Sender<Bytes>, inlets: Inlets, traffic: Arc<Traffic>) {
    let mut link = link;
    let buffers = Buffers::new(BUFFER, BUFFERS);
    loop {
        let mut header = [0; FRAME_HEADER];
        if link.read_exact(&mut header).await.is_err() {
            return;
        }
        let header = match FrameHeader::decode(header) {
            Ok(header) => header,
            Err(error) => return tracing::warn!(%error, "peer sent a frame that makes no sense"),
        };
        let Ok(payload) = read_payload(&mut link, header.length() as usize, &buffers).await else { return };
        traffic.count(header);
        match header {
            FrameHeader::Control(_) => {
                if heard.send(payload).await.is_err() {
                    return;
                }
            }
            FrameHeader::Data(stream, 0) => drop(lock(&inlets).remove(&stream)),
            FrameHeader::Data(stream, _) => {
                // A stream that nobody wants any more is read over, so that messages behind it are still heard.
                let inlet = lock(&inlets).get(&stream).cloned();
                if let Some(inlet) = inlet
                    && inlet.send(payload).await.is_err()
                {
                    lock(&inlets).remove(&stream);
                }
            }
        }
    }
}

async fn read_payload(link: &mut (impl AsyncRead + Unpin), length: usize, buffers: &Buffers) -> io::Result<Bytes> {
    if (SMALL..=BUFFER).contains(&length) {
        let mut buffer = buffers.take();
        link.read_exact(&mut buffer[..length]).await?;
        return Ok(buffer.share(0..length));
    }
    let mut payload = vec![0; length];
    link.read_exact(&mut payload).await?;
    Ok(payload.into())
}

/// The sending end of a stream. `finish` must be called at its end; dropped without, the peer hears no end.
#[derive(Debug)]
pub(crate) struct StreamSender {
    stream: Stream,
    outgoing: mpsc::Sender<Frame>,
    pace: Arc<Pace>,
}

impl StreamSender {
    /// Tells the peer that the stream has ended.
    ///
    /// # Errors
    /// When the link is broken.
    pub fn finish(self) -> io::Result<()> {
        self.end()
    }

    /// As `finish`, for whoever cannot give it away.
    ///
    /// # Errors
    /// When the link is broken.
    pub fn end(&self) -> io::Result<()> {
        self.send_frame(Bytes::new())
    }

    fn send_frame(&self, payload: Bytes) -> io::Result<()> {
        let length = u32::try_from(payload.len()).expect("cut to the bound");
        let frame = (FrameHeader::Data(self.stream, length), payload);
        self.outgoing.blocking_send(frame).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for StreamSender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_DATA as usize)];
        if !piece.is_empty() {
            self.send_frame(Bytes::copy_from_slice(piece))?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outlet for StreamSender {
    fn send(&mut self, mut piece: Bytes) -> io::Result<()> {
        while !piece.is_empty() {
            self.send_frame(piece.split_to(piece.len().min(MAX_DATA as usize)))?;
        }
        Ok(())
    }

    fn rate(&self) -> LinkRate {
        self.pace.rate()
    }
}

/// Reads pieces that come over a channel, blocking. Its end is the channel's end.
#[derive(Debug)]
pub(crate) struct ChannelReader {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl ChannelReader {
    pub fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { pieces, piece: Bytes::new() }
    }
}

impl Iterator for ChannelReader {
    type Item = Bytes;

    /// What is left of the piece that is being read, or the next one.
    fn next(&mut self) -> Option<Bytes> {
        if self.piece.is_empty() { self.pieces.blocking_recv() } else { Some(std::mem::take(&mut self.piece)) }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use drover_model::{Phase, Priority};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::sharing::Sharing;

    fn pair() -> (Link, Link) {
        let (a, b) = tokio::io::duplex(1 << 16);
        (Link::new(a, Arc::default()), Link::new(b, Arc::default()))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_and_streams_share_a_link() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let traffic = Arc::new(Traffic::default());
        let (source, mut target) = (Link::new(a, Arc::clone(&traffic)), Link::new(b, Arc::default()));
        let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let (mut out, expected) = (source.sender(Stream::Files), content.clone());
        let writing = tokio::task::spawn_blocking(move || {
            out.write_all(&content).unwrap();
            out.finish().unwrap();
        });
        let mut input = target.take_stream(Stream::Files).unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            input.read_to_end(&mut read).unwrap();
            read
        });
        assert!(source.send(b"word".to_vec(), PATIENCE).await);
        assert_eq!(target.receive().await.unwrap(), "word");
        writing.await.unwrap();
        assert!(reading.await.unwrap() == expected);
        assert!(traffic.files() == 3_000_000);
    }

    #[tokio::test]
    async fn a_message_to_a_peer_that_reads_nothing_does_not_wait_for_ever() {
        let (a, _unread) = tokio::io::duplex(64);
        let link = Link::new(a, Arc::default());
        let mut sent = 0;
        while sent < 1000 && link.send(vec![0; 1024], Duration::from_millis(1)).await {
            sent += 1;
        }
        assert!(sent < 1000, "a thousand messages went to nobody");
    }

    #[tokio::test]
    async fn a_bound_holds_and_messages_overtake_what_it_holds_up() {
        const LENGTH: usize = 1 << 20;
        let (a, b) = tokio::io::duplex(1 << 16);
        let begun = std::time::Instant::now();
        let source = Link::capped(a, Arc::default(), Some(Bandwidth(50_000_000)));
        let mut target = Link::new(b, Arc::default());
        let out = source.sender(Stream::Files);
        let frame = (FrameHeader::Data(Stream::Files, LENGTH as u32), Bytes::from(vec![7; LENGTH]));
        out.outgoing.send(frame).await.unwrap();
        let mut input = target.take_stream(Stream::Files).unwrap();
        let mut received = input.pieces.recv().await.unwrap().len();
        assert!(source.send(b"word".to_vec(), PATIENCE).await);
        assert_eq!(target.receive().await.unwrap(), "word");
        while let Ok(piece) = input.pieces.try_recv() {
            received += piece.len();
        }
        assert!(received < LENGTH / 2, "{received} came before the message");
        while received < LENGTH {
            received += input.pieces.recv().await.unwrap().len();
        }
        // It may take longer on a busy machine, and never less: 50 Mbit/s but for the last piece.
        assert!(begun.elapsed().as_secs_f64() > (LENGTH - (64 << 10)) as f64 / 6_250_000.0);
    }

    /// Sends over two links that share 80 Mbit/s for a while, as much as they take; the bytes that came over each.
    async fn both(flows: [Arc<Flow>; 2]) -> [u64; 2] {
        const LENGTH: usize = 256 << 10;
        let mut received = [0; 2];
        let mut links = Vec::new();
        for flow in flows {
            let (a, b) = tokio::io::duplex(1 << 16);
            let source = Link::shared(a, Arc::default(), None, Some(flow));
            let target = Link::new(b, Arc::default());
            let input = target.take_stream(Stream::Files).unwrap();
            let out = source.outgoing.clone();
            let sending = tokio::spawn(async move {
                let frame = (FrameHeader::Data(Stream::Files, LENGTH as u32), Bytes::from(vec![7; LENGTH]));
                while out.send(frame.clone()).await.is_ok() {}
            });
            links.push((source, target, input, sending));
        }
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(800) {
            for ((.., input, _), received) in links.iter_mut().zip(&mut received) {
                while let Ok(piece) = input.pieces.try_recv() {
                    *received += piece.len() as u64;
                }
            }
            tokio::task::yield_now().await;
        }
        let most = begun.elapsed().as_secs_f64() * 1e7 + 300_000.0;
        assert!(received.iter().sum::<u64>() as f64 <= most, "{received:?} of {most}");
        links.iter().for_each(|(.., sending)| sending.abort());
        received
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn links_share_the_bound_of_their_node_and_who_stands_still_goes_first() {
        let sharing = Sharing::new(Some(Bandwidth(80_000_000)));
        let [low, high] = [Priority::Low, Priority::High].map(|priority| sharing.join(priority));
        let [little, much] = both([Arc::clone(&low), Arc::clone(&high)]).await;
        assert!(much > 8 * little && little > 0, "{little} {much}");
        low.follow(Phase::Checkpoint);
        let [frozen, running] = both([low, high]).await;
        assert!(frozen > 8 * running, "{frozen} {running}");
    }

    #[tokio::test]
    async fn a_broken_link_is_heard_as_the_end() {
        let (source, mut target) = pair();
        assert!(!target.is_broken());
        drop(source);
        assert!(target.receive().await.is_none());
        assert!(target.is_broken());
    }

    #[tokio::test]
    async fn a_peer_that_sends_nonsense_is_cut_off() {
        let (mut peer, ours) = tokio::io::duplex(1 << 16);
        let mut link = Link::new(ours, Arc::default());
        peer.write_all(&[9; 64]).await.unwrap();
        assert!(link.receive().await.is_none());
    }
}
