//! Emptying a node: it takes nothing new, durably, and what runs on it moves to others.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use drover_api::DrainRequest;
use drover_model::{DrainState, Explained, NodeName};
use drover_sys::durable;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::container::lock;
use crate::emptying::Emptying;
use crate::error::NodeError;
use crate::node::{Inner, Node, Peer, blocking, now};

/// What a node that was drained has on its disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    since: String,
}

/// Whether a node is drained, and the drain that was ordered last.
#[derive(Debug)]
pub(crate) struct Drain {
    path: PathBuf,
    since: Mutex<Option<String>>,
    last: Mutex<Option<watch::Sender<DrainState>>>,
}

impl Drain {
    /// Reads what was left by the agent before.
    pub fn open(state: &Path) -> io::Result<Self> {
        let path = state.join("drained.json");
        let since = match fs::read(&path) {
            Ok(text) => Some(serde_json::from_slice::<Mark>(&text).map_or_else(|_| now(), |mark| mark.since)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path, since: Mutex::new(since), last: Mutex::default() })
    }

    /// Since when the node takes nothing new, if it does not.
    pub fn since(&self) -> Option<String> {
        lock(&self.since).clone()
    }

    /// Why the node takes nothing new, if it does not.
    pub fn refusal(&self, node: &NodeName) -> Option<Explained> {
        self.since()?;
        let hint = format!("choose another node, or end that with `drover node undrain {node}`");
        Some(Explained { reason: format!("{node} is drained and takes nothing new"), hint: Some(hint) })
    }

    /// From now on the node takes nothing new, also when its agent is started again.
    fn begin(&self) -> io::Result<String> {
        let mut since = lock(&self.since);
        if let Some(since) = &*since {
            return Ok(since.clone());
        }
        let mark = Mark { since: now() };
        durable::replace(&self.path, &serde_json::to_vec(&mark)?)?;
        *since = Some(mark.since.clone());
        Ok(mark.since)
    }

    /// It takes what comes again.
    fn end(&self) -> io::Result<()> {
        let mut since = lock(&self.since);
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => durable::sync_directory(&self.path)?,
        }
        *since = None;
        Ok(())
    }
}

impl Node {
    /// Has the node take nothing new, and moves what runs on it to others. Gives the drain as it begins.
    ///
    /// # Errors
    /// When a drain is under way, there is no such node, or the mark cannot be written.
    pub async fn drain(&self, request: DrainRequest) -> Result<DrainState, NodeError> {
        let inner = Arc::clone(&self.inner);
        let name = inner.config.name.clone();
        let attempt = format!("cannot drain {name}");
        let peers = inner.destinations(&request, &attempt)?;
        request.settings.check().map_err(|error| NodeError::invalid(format!("{attempt}: {error}"), ""))?;
        let (owner, failed) = (Arc::clone(&inner), attempt.clone());
        let since = blocking(move || owner.drain.begin()).await;
        let since = since.map_err(|error| NodeError::failed(&failed, &error))?;
        let state = DrainState { node: name, since, ended: false, cancelled: false, moves: Vec::new() };
        let (sender, _) = watch::channel(state.clone());
        {
            let mut last = lock(&inner.drain.last);
            if last.as_ref().is_some_and(|last| !last.borrow().ended) {
                let reason = format!("{attempt}: a drain of it is under way");
                return Err(NodeError::conflict(reason, "wait for its end, or end it with `drover node undrain`"));
            }
            *last = Some(sender.clone());
        }
        tokio::spawn(Emptying { inner, request, peers, state: sender }.run());
        Ok(state)
    }

    /// Follows the drain that was ordered last.
    ///
    /// # Errors
    /// When none was since the agent was started.
    pub fn drain_state(&self) -> Result<watch::Receiver<DrainState>, NodeError> {
        let last = lock(&self.inner.drain.last).as_ref().map(watch::Sender::subscribe);
        let name = &self.inner.config.name;
        last.ok_or_else(|| {
            let reason = format!("{name} was not drained since its agent was started");
            NodeError::not_found(reason, "`drover node ls` shows which nodes are drained; a drain may be ordered again")
        })
    }

    /// No further move of the drain begins; those under way go on, and the node still takes nothing new.
    pub async fn cancel_drain(&self) {
        let last = lock(&self.inner.drain.last).clone();
        let Some(last) = last else { return };
        last.send_modify(|state| state.cancelled |= !state.ended);
        let ordered: Vec<_> = last.borrow().moves.iter().filter_map(|one| one.migration.clone()).collect();
        for id in ordered {
            let waits = self.inner.migration(&id).is_ok_and(|state| state.borrow().queued.is_some());
            if waits {
                // It may have begun just now: then it goes on.
                let _ = self.inner.cancel(&id).await;
            }
        }
    }

    /// The node takes what comes again; a drain that is under way begins no further move.
    ///
    /// # Errors
    /// When the mark cannot be removed.
    pub async fn undrain(&self) -> Result<(), NodeError> {
        self.cancel_drain().await;
        let inner = Arc::clone(&self.inner);
        let attempt = format!("cannot end the drain of {}", inner.config.name);
        blocking(move || inner.drain.end()).await.map_err(|error| NodeError::failed(&attempt, &error))
    }
}

impl Inner {
    /// Where containers may go, of those that the request names.
    fn destinations(&self, request: &DrainRequest, attempt: &str) -> Result<Vec<Peer>, NodeError> {
        if request.parallel == Some(0) {
            return Err(NodeError::invalid(format!("{attempt}: no move at a time is none at all"), "use 1 or more"));
        }
        if request.to.is_empty() {
            let peers = self.config.peers();
            if peers.is_empty() {
                return Err(NodeError::conflict(
                    format!("{attempt}: it knows no other node"),
                    "name peers in agent.toml, or let other nodes join the cluster",
                ));
            }
            return Ok(peers.to_vec());
        }
        request.to.iter().map(|name| self.known_peer(name, attempt)).collect()
    }
}
