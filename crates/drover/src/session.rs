//! An attached or executed program on the user's terminal.

use std::future::pending;
use std::io;
use std::time::Duration;

use drover_api::stream::{self, StreamError};
use drover_api::{Client, LogQuery, LogRecord, SessionInput, SessionLink, SessionOutput};
use drover_model::{ContainerRecord, ContainerState};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::backlog;
use crate::cluster::{Cluster, Located};
use crate::failure::{Cause, Failure};
use crate::print;
use crate::terminal::{DetachKeys, RawMode, keyboard, size};

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The program ended with this status.
    Exited(i32),
    /// The user left it running.
    Detached,
    /// The node ended the stream for this reason.
    Lost(String),
    /// The stream ended without a word: the agent stopped, or cannot be reached any more.
    AgentGone,
}

/// The user's side of a session; lives on when the stream has to be opened again.
#[derive(Debug)]
pub struct Seat {
    keys: Option<mpsc::Receiver<Vec<u8>>>,
    /// Whether the program takes what is typed.
    input: bool,
    detach: Option<DetachKeys>,
    resized: Option<Signal>,
    ordered: [Signal; 2],
    _raw: Option<RawMode>,
}

/// How many messages wait to be printed at most.
const OUTPUT_QUEUED: usize = 16;
/// How long the log of a container that was just made may take, and the stream to catch up with it.
const BACKLOG_LIMIT: Duration = Duration::from_secs(5);

impl Seat {
    /// Takes standard input when `input` is set, and the terminal when `terminal` is set: to pass on what is typed, or,
    /// without `input`, only to find out that the user detaches.
    pub fn take(input: bool, terminal: bool) -> io::Result<Self> {
        let raw = if terminal { RawMode::enter()? } else { None };
        let keys = if input { DetachKeys::default } else { DetachKeys::of_a_listener };
        Ok(Self {
            detach: raw.is_some().then(keys),
            keys: (input || raw.is_some()).then(keyboard),
            input,
            _raw: raw,
            resized: if terminal { Some(signal(SignalKind::window_change())?) } else { None },
            ordered: [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?],
        })
    }

    /// Carries a session until it ends. `backlog`: what the program said before, as far as the log knows.
    pub async fn carry(&mut self, link: SessionLink, backlog: Option<Vec<LogRecord>>) -> io::Result<Ended> {
        let (reader, mut writer) = tokio::io::split(link);
        let mut said = read_messages(reader);
        if let Some(backlog) = backlog {
            let mut streamed = Vec::new();
            let mut last = None;
            let end = tokio::time::Instant::now() + BACKLOG_LIMIT;
            while last.is_none() {
                let message = match said.try_recv() {
                    Ok(message) => Some(message),
                    Err(_) if !backlog::is_late(&backlog, &streamed) => None,
                    Err(_) => tokio::time::timeout_at(end, said.recv()).await.ok().flatten(),
                };
                match message {
                    Some(SessionOutput::Output(from, bytes)) => streamed.push((from, bytes)),
                    Some(end) => last = Some(end),
                    None => break,
                }
            }
            for (to, bytes) in backlog::join(backlog, streamed) {
                print::output(to, &bytes)?;
            }
            if let Some(ended) = last.and_then(ended) {
                return Ok(ended);
            }
        }
        let mut to_send = if self.resized.is_some() { size() } else { None };
        loop {
            if let Some(message) = to_send.take()
                && stream::write(&mut writer, &message).await.is_err()
            {
                // The program may have ended: what it said last is still to come.
                self.keys = None;
                self.resized = None;
            }
            tokio::select! {
                message = said.recv() => match message {
                    Some(SessionOutput::Output(to, bytes)) => print::output(to, &bytes)?,
                    Some(end) => return Ok(ended(end).unwrap_or(Ended::Detached)),
                    None => return Ok(Ended::AgentGone),
                },
                typed = next(&mut self.keys) => match typed {
                    None => {
                        self.keys = None;
                        to_send = self.input.then_some(SessionInput::StdinClosed);
                    }
                    Some(typed) => match &mut self.detach {
                        None => to_send = Some(SessionInput::Stdin(typed)),
                        Some(keys) => {
                            let (passed, detached) = keys.filter(&typed);
                            if detached {
                                let _ = writer.shutdown().await;
                                return Ok(Ended::Detached);
                            }
                            to_send = (!passed.is_empty()).then_some(SessionInput::Stdin(passed));
                        }
                    },
                },
                () = changed(&mut self.resized) => to_send = size(),
                () = either(&mut self.ordered) => return Ok(Ended::Detached),
            }
        }
    }

    /// Attaches to a container and to the same container on other nodes, as it moves. `fresh`: it was just made, and
    /// what it has said so far is wanted, too.
    pub async fn attend(&mut self, cluster: &Cluster, mut located: Located, fresh: bool) -> Result<Ended, Failure> {
        let failed = |cause: Cause, located: &Located| {
            Failure::new(format!("stay attached to {}", located.record.spec.name), cause)
        };
        let mut backlog = fresh;
        loop {
            let id = located.record.spec.id.as_str();
            let link = located.client.attach(id).await.map_err(|error| failed(error.into(), &located))?;
            let log = if std::mem::take(&mut backlog) { Some(log_so_far(&located.client, id).await) } else { None };
            let ended = self.carry(link, log).await.map_err(|error| failed(error.into(), &located))?;
            let reason = match ended {
                Ended::Lost(reason) => reason,
                Ended::AgentGone => return Err(failed(agent_gone(&located), &located)),
                ended => return Ok(ended),
            };
            let again = cluster.locate_again(&located.record.spec.id).await.map_err(|cause| failed(cause, &located))?;
            match again {
                // It ended before we were back: its log has what we missed.
                Some(Located { record: ContainerRecord { state: ContainerState::Exited { status }, .. }, .. }) => {
                    return Ok(Ended::Exited(status));
                }
                Some(again) if again.record.generation != located.record.generation => located = again,
                _ => return Err(failed(Cause::Session(reason), &located)),
            }
        }
    }
}

/// Containers do not live in the agent.
fn agent_gone(located: &Located) -> Cause {
    let name = &located.record.spec.name;
    let hint = format!("{name} goes on; when the agent runs again: drover attach {name}");
    Cause::AgentGone { node: located.client.node_name().clone(), hint }
}

/// The log, or what of it comes in time: it is only there to miss nothing.
async fn log_so_far(client: &Client, id: &str) -> Vec<LogRecord> {
    let mut records = Vec::new();
    let reading = async {
        let Ok(mut lines) = client.logs(id, &LogQuery::default()).await else { return };
        while let Ok(Some(record)) = lines.next().await {
            records.push(record);
        }
    };
    let _ = tokio::time::timeout(BACKLOG_LIMIT, reading).await;
    records
}

fn ended(message: SessionOutput) -> Option<Ended> {
    match message {
        SessionOutput::Output(..) => None,
        SessionOutput::Exited(status) => Some(Ended::Exited(status)),
        SessionOutput::Failed(reason) => Some(Ended::Lost(reason)),
    }
}

/// Messages are read on a task of their own: half a frame must not be lost to another event.
fn read_messages(mut reader: impl AsyncRead + Send + Unpin + 'static) -> mpsc::Receiver<SessionOutput> {
    let (sender, receiver) = mpsc::channel(OUTPUT_QUEUED);
    tokio::spawn(async move {
        loop {
            let message = match stream::read(&mut reader).await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                // A peer that does not speak our language is a fault; a connection that broke is an agent that is gone.
                Err(error @ StreamError::Frame(_)) => {
                    SessionOutput::Failed(drover_model::Explained::from_chain(&error).reason)
                }
                Err(StreamError::Read(_)) => return,
            };
            let last = !matches!(message, SessionOutput::Output(..));
            if sender.send(message).await.is_err() || last {
                return;
            }
        }
    });
    receiver
}

async fn next(keys: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match keys {
        Some(keys) => keys.recv().await,
        None => pending().await,
    }
}

async fn changed(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

async fn either([one, other]: &mut [Signal; 2]) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
