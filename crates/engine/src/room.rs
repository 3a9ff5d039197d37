//! What a node says of itself, and what others say of their room.

use std::sync::Arc;
use std::time::Duration;

use drover_memory::MachineMemory;
use drover_model::{Bytes, Explained, NodeInfo};
use drover_protocol::{Answer, NodeRoom, Question, decode, encode};

use crate::link::{Link, PATIENCE};
use crate::node::{Inner, Peer};

/// How long a node may take to answer a question.
const ANSWER: Duration = Duration::from_secs(10);

impl Inner {
    /// What is said to others about the room that there is.
    pub(crate) fn room(&self, closed: Option<Explained>) -> NodeRoom {
        let running = self.registry.all().iter().filter(|container| container.runs()).count();
        let memory = Bytes(MachineMemory::look().map_or(0, |memory| memory.available));
        NodeRoom { running: u32::try_from(running).unwrap_or(u32::MAX), memory, closed }
    }

    /// What the node says about itself.
    pub(crate) fn info(&self) -> NodeInfo {
        let criu = drover_container::criu::version().ok();
        let criu = criu.map(|(major, minor, sublevel)| format!("{major}.{minor}.{sublevel}"));
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let NodeRoom { running, memory, .. } = self.room(None);
        let (leaving, queued) = self.turns.count();
        NodeInfo {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel,
            criu,
            architecture: std::env::consts::ARCH.to_owned(),
            containers: u32::try_from(self.registry.all().len()).unwrap_or(u32::MAX),
            running,
            memory_available: memory,
            drained_since: self.drain.since(),
            limits: self.config.limits,
            leaving,
            arriving: self.places.count(),
            queued,
        }
    }
}

/// Asks over a link that has just been made; nothing when the node does not know the question.
pub(crate) async fn ask(link: &mut Link, question: &Question) -> Option<Answer> {
    if !link.send(encode(question), PATIENCE).await {
        return None;
    }
    let answer = tokio::time::timeout(ANSWER, link.receive()).await.ok().flatten()?;
    decode(&answer).ok()
}

/// What a node answered about its room: nothing when it is of an older version.
pub(crate) async fn ask_room(inner: &Inner, peer: &Peer) -> Result<Option<NodeRoom>, Explained> {
    let connection = inner.connect(peer).await?;
    let mut link = Link::new(connection, Arc::default());
    match ask(&mut link, &Question::Room).await {
        Some(Answer::Room(room)) => room.closed.map_or(Ok(Some(NodeRoom { closed: None, ..room })), Err),
        _ => Ok(None),
    }
}
