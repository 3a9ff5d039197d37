//! What the links of a node share when they send: the bound, and who goes first (`drover_protocol::Share`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_model::{Bandwidth, Phase, Priority};
use drover_protocol::{Member, Share, Stream, Urgency};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::moment;
use crate::container::lock;

/// What all links of a node share.
#[derive(Debug)]
pub(crate) struct Sharing {
    share: Mutex<Share>,
    /// Somebody has sent something, or has nothing more to send.
    changed: Notify,
}

impl Sharing {
    pub fn new(bandwidth: Option<Bandwidth>) -> Arc<Self> {
        Arc::new(Self { share: Mutex::new(Share::new(bandwidth, moment())), changed: Notify::new() })
    }

    /// The part of a move of this priority.
    pub fn join(self: &Arc<Self>, priority: Priority) -> Arc<Flow> {
        let member = lock(&self.share).join(priority.weight());
        Arc::new(Flow { sharing: Arc::clone(self), member, stands_still: AtomicBool::new(false) })
    }
}

/// The part of one move.
#[derive(Debug)]
pub(crate) struct Flow {
    sharing: Arc<Sharing>,
    member: Member,
    stands_still: AtomicBool,
}

impl Flow {
    /// The move is in this phase.
    pub fn follow(&self, phase: Phase) {
        let frozen = (Phase::Freeze..=Phase::Commit).contains(&phase);
        self.stands_still.store(frozen, Ordering::Relaxed);
    }

    /// Ready when it is worth asking again.
    pub fn changed(&self) -> Notified<'_> {
        self.sharing.changed.notified()
    }

    /// A piece of a stream is to be sent: zero when it may be, otherwise how long it waits at most. `fresh` says that nothing
    /// was waiting before it.
    pub fn ask(&self, stream: Stream, fresh: bool, bytes: usize) -> Duration {
        let urgency = match stream {
            // With nothing before it, it was asked for alone: somebody waits for it.
            Stream::Following if fresh => Urgency::Awaited,
            Stream::Following => Urgency::Waiting,
            _ if self.stands_still.load(Ordering::Relaxed) => Urgency::Waiting,
            _ => Urgency::Running,
        };
        let wait = lock(&self.sharing.share).ask(moment(), self.member, urgency, bytes);
        if wait.is_zero() {
            self.sharing.changed.notify_waiters();
        }
        wait
    }

    /// The piece was sent.
    pub fn sent(&self) {
        lock(&self.sharing.share).sent(self.member);
        self.sharing.changed.notify_waiters();
    }

    /// Something went without being asked for.
    pub fn spent(&self, bytes: usize) {
        lock(&self.sharing.share).spent(moment(), bytes);
    }

    /// Its link has nothing to send, or is gone.
    pub fn idle(&self) {
        lock(&self.sharing.share).idle(self.member);
        self.sharing.changed.notify_waiters();
    }

    /// Whether pieces must be small.
    pub fn is_bounded(&self) -> bool {
        lock(&self.sharing.share).is_bounded()
    }

    /// What it gets of the bound, in bytes per second, if there is one.
    pub fn rate(&self) -> Option<u64> {
        lock(&self.sharing.share).rate(self.member)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        lock(&self.sharing.share).leave(self.member);
        self.sharing.changed.notify_waiters();
    }
}
