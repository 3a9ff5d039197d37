//! Attached programs and logs: between a shim's blocking channel and the API's.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use drover_api::{LogQuery, LogRecord, LogStream, SessionInput, SessionOutput};
use drover_container::LogReader;
use drover_container::shim::{Channel, Control, Packet, Reply, Request};
use drover_model::{ContainerState, Explained};
use tokio::sync::{mpsc, watch};

use crate::container::Container;
use crate::error::NodeError;
use crate::node::{Inner, blocking};

/// An attached or executed program: send input, receive output until `Exited` or `Failed`.
#[derive(Debug)]
pub struct Session {
    /// To the program; dropping it detaches.
    pub input: mpsc::Sender<SessionInput>,
    /// From the program.
    pub output: mpsc::Receiver<SessionOutput>,
    /// Changes when the node closes, which waits a moment for this to be dropped.
    pub closing: watch::Receiver<()>,
}

/// How many messages may wait in either direction.
pub(crate) const WAITING: usize = 64;
/// How long the node may take to know of an end that a shim has told.
const SETTLING: Duration = Duration::from_secs(5);

impl Inner {
    pub(crate) fn running(&self, wanted: &str, attempt: &str) -> Result<Arc<Container>, NodeError> {
        let container = self.registry.find(wanted)?;
        match container.state() {
            ContainerState::Running => Ok(container),
            state => {
                let reason = format!("cannot {attempt} container {}: it is {state}", container.spec().name);
                Err(NodeError::conflict(reason, "only running containers can be reached"))
            }
        }
    }

    pub(crate) async fn attach(&self, wanted: &str) -> Result<Session, NodeError> {
        let container = self.running(wanted, "attach to")?;
        let shim = container.shim();
        let channel = match blocking(move || shim.order(&Request::Attach)).await {
            Ok(channel) => Arc::new(channel),
            Err(error) => {
                // Its shim has gone, with the program: the node is about to find that out.
                settle(&container).await;
                self.running(wanted, "attach to")?;
                return Err(NodeError::failed("cannot attach", &error));
            }
        };
        let (input, mut inputs) = mpsc::channel::<SessionInput>(WAITING);
        let (output, outputs) = mpsc::channel(WAITING);
        let writing = Arc::clone(&channel);
        std::thread::spawn(move || {
            while let Some(input) = inputs.blocking_recv() {
                if pass_input(&writing, &input).is_err() {
                    break;
                }
            }
            // The user detached: the reading side is woken, and the shim forgets this listener.
            writing.close();
        });
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            let last = pass_output(&channel, &output);
            channel.close();
            if let Some(status) = last {
                // Whoever hears of the end and asks the node next must not be told that it runs.
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = output.closed() => {}
                        () = settle(&container) => {}
                    }
                });
                let end = match status.or_else(|| container.exit()) {
                    Some(status) => SessionOutput::Exited(status),
                    None => SessionOutput::Failed("the container left this node".to_owned()),
                };
                let _ = output.blocking_send(end);
            }
        });
        Ok(Session { input, output: outputs, closing: self.closing.subscribe() })
    }

    /// What `work` gives, or a refusal as soon as the node closes.
    pub(crate) async fn unless_closing<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            done = work => done,
            _ = closing.changed() => {
                let reason = format!("cannot wait for container {name}: the agent of {} stops", self.config.name);
                Err(NodeError::Failed(Explained { reason, hint: Some("the container goes on".to_owned()) }))
            }
        }
    }

    pub(crate) async fn logs(&self, wanted: &str, query: LogQuery) -> Result<mpsc::Receiver<LogRecord>, NodeError> {
        let container = self.registry.find(wanted)?;
        let lives = matches!(container.state(), ContainerState::Running | ContainerState::Frozen);
        let (sender, receiver) = mpsc::channel(WAITING);
        if query.follow && lives {
            let shim = container.shim();
            match blocking(move || shim.order(&Request::Follow)).await {
                Ok(channel) => {
                    let skip = self.skip(&container, &query)?;
                    follow(channel, skip, sender, self.closing.subscribe());
                    return Ok(receiver);
                }
                Err(error) => {
                    // Its shim has gone, with the program: the node is about to find that out, and the log is whole.
                    settle(&container).await;
                    if matches!(container.state(), ContainerState::Running | ContainerState::Frozen) {
                        return Err(NodeError::failed("cannot follow the log", &error));
                    }
                }
            }
        }
        let attempt = "cannot read the log";
        let skip = self.skip(&container, &query)?;
        let reader = LogReader::open(&container.layout.log()).map_err(|error| NodeError::failed(attempt, &error))?;
        std::thread::spawn(move || {
            for record in reader.skip(skip) {
                if sender.blocking_send(record).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// How many of the oldest records are left out.
    fn skip(&self, container: &Container, query: &LogQuery) -> Result<usize, NodeError> {
        let Some(tail) = query.tail else { return Ok(0) };
        let reader = LogReader::open(&container.layout.log());
        let reader = reader.map_err(|error| NodeError::failed("cannot read the log", &error))?;
        Ok(reader.count().saturating_sub(tail))
    }
}

/// Passes records on until either side ends, or the node closes.
fn follow(channel: Channel, skip: usize, records: mpsc::Sender<LogRecord>, mut closing: watch::Receiver<()>) {
    let channel = Arc::new(channel);
    let (reading, watched) = (Arc::clone(&channel), records.clone());
    let (over, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut left_out = 0;
        while let Ok(Some(Packet::Word(reply))) = reading.receive::<Reply>() {
            match reply {
                Reply::Record(_) if left_out < skip => left_out += 1,
                Reply::Record(record) => {
                    if records.blocking_send(record).is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        reading.close();
        drop(over);
    });
    // A reader that waits for the next record must hear that the user has gone; and the user that it has ended, which
    // nobody hears as long as a sender is kept here.
    tokio::spawn(async move {
        tokio::select! {
            () = watched.closed() => channel.close(),
            _ = closing.changed() => channel.close(),
            _ = ended => {}
        }
    });
}

fn pass_input(channel: &Channel, input: &SessionInput) -> std::io::Result<()> {
    match input {
        SessionInput::Stdin(bytes) => bytes.chunks(Channel::PIECE).try_for_each(|piece| channel.send_bytes(0, piece)),
        SessionInput::StdinClosed => channel.send(&Control::StdinClosed),
        SessionInput::Resize { rows, columns } => channel.send(&Control::Resize { rows: *rows, columns: *columns }),
    }
}

/// Passes on what is printed; at the end the program's status, if the shim has told it. None: nobody listens any more.
fn pass_output(channel: &Channel, output: &mpsc::Sender<SessionOutput>) -> Option<Option<i32>> {
    loop {
        let (from, bytes) = match channel.receive::<Reply>() {
            Ok(Some(Packet::Bytes(1, bytes))) => (LogStream::Stdout, bytes),
            Ok(Some(Packet::Bytes(_, bytes))) => (LogStream::Stderr, bytes),
            Ok(Some(Packet::Word(Reply::Exited(status)))) => return Some(Some(status)),
            Ok(Some(Packet::Word(_)) | None) | Err(_) => return Some(None),
        };
        if output.blocking_send(SessionOutput::Output(from, bytes)).is_err() {
            return None;
        }
    }
}

/// Waits, bounded, until the node knows that a container no longer runs, as its shim has told.
async fn settle(container: &Container) {
    let mut changes = container.changes();
    let settled = async {
        while matches!(container.state(), ContainerState::Running | ContainerState::Frozen) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(SETTLING, settled).await;
}
