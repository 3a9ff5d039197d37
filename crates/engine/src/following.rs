//! Pages that follow a container which runs here already, seen from the agent: it carries them between link and shim.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drover_memory::FollowError;
use drover_model::{Explained, Follows, NodeName};
use drover_protocol::{Stream, TargetInput};
use tokio::sync::{mpsc, watch};

use crate::container::Container;
use crate::link::{ChannelReader, Link, StreamSender};
use crate::node::now;

/// How long a shim may take to listen after it was ordered to restore.
const LISTENS: Duration = Duration::from_secs(10);
/// How often it is looked at whether a container that waits for pages is still there.
const STILL_THERE: Duration = Duration::from_millis(500);

/// What is known of them.
#[derive(Debug)]
pub(crate) struct Following {
    container: Option<Arc<Container>>,
    arrived: watch::Sender<bool>,
}

impl Default for Following {
    fn default() -> Self {
        Self { container: None, arrived: watch::Sender::new(false) }
    }
}

impl Following {
    /// It is about this container.
    pub fn of(&mut self, container: &Arc<Container>) {
        self.container = Some(Arc::clone(container));
    }

    /// What carries pages over this link once it is called, if any follow, until all have come or the link breaks.
    pub fn relay(&self, link: Option<&Link>) -> Option<Relay> {
        let (container, link) = (self.container.clone()?, link?);
        let following = link.take_stream(Stream::Following)?;
        Some(Relay { container, wishes: link.sender(Stream::Wishes), following, arrived: self.arrived.clone() })
    }

    /// Tells when no page is on the source alone any more, or nobody is left who could need one.
    pub fn await_arrival(&self, source: &NodeName, events: mpsc::Sender<TargetInput>) {
        let (container, mut arrived) = (self.container.clone(), self.arrived.subscribe());
        let source = source.clone();
        tokio::spawn(async move {
            let needed = || container.as_ref().filter(|container| is_needed(container));
            while let Some(container) = needed()
                && !*arrived.borrow_and_update()
            {
                let follows = || Follows { from: source.clone(), since: now(), reachable: true };
                container.follows().get_or_insert_with(follows);
                let _ = tokio::time::timeout(STILL_THERE, arrived.changed()).await;
            }
            if let Some(container) = &container {
                *container.follows() = None;
            }
            let _ = events.send(TargetInput::Arrived).await;
        });
    }

    /// Shows whether the source can be reached, as long as that matters.
    pub fn show(&self, reachable: bool) {
        let Some(container) = &self.container else { return };
        if let Some(follows) = &mut *container.follows()
            && follows.reachable != reachable
        {
            follows.reachable = reachable;
            let (name, source) = (container.spec().name, &follows.from);
            if reachable {
                tracing::info!(container = %name, %source, "memory follows again");
            } else {
                tracing::warn!(container = %name, %source, "memory is on a node that cannot be reached: who needs it waits");
            }
        }
    }
}

/// Carries pages over one link.
#[derive(Debug)]
pub(crate) struct Relay {
    container: Arc<Container>,
    wishes: StreamSender,
    following: ChannelReader,
    arrived: watch::Sender<bool>,
}

impl Relay {
    /// Begins to, on a thread of its own. Not before all has arrived that comes before the container: then it is known
    /// whether any pages follow.
    pub fn begin(self) {
        if !is_there(&self.container.layout.store()) {
            return;
        }
        let relaying = std::thread::Builder::new().name("relay".into()).spawn(move || {
            let Self { container, wishes, following, arrived } = self;
            match carry(&container, wishes, following) {
                Ok(true) => drop(arrived.send_replace(true)),
                // The source connects again.
                Ok(false) => {}
                Err(error) => {
                    let error = Explained::from_chain(&error).reason;
                    tracing::warn!(container = %container.spec().name, %error, "pages do not follow over this link");
                }
            }
        });
        if let Err(error) = relaying {
            tracing::warn!(%error, "cannot carry pages that follow");
        }
    }
}

/// Whether pages may follow at all: some came in rounds or were named, and somebody is there who needs them.
fn is_needed(container: &Container) -> bool {
    container.layout.store().exists() && container.lives()
}

fn carry(container: &Container, wishes: StreamSender, following: ChannelReader) -> Result<bool, FollowError> {
    drover_memory::relay(&container.layout.relays(), Instant::now() + LISTENS, wishes, following)
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
