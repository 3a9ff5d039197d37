//! The messages of the two machines. JSON on the wire: they are few and small, and a capture can be read.

use drover_model::{ContainerSpec, Digest, Explained, MigrationId, NodeName, Processor, Settings, Sighting};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frame::MAX_CONTROL;

/// What the source offers: everything the target must know to get ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The migration.
    pub migration: MigrationId,
    /// The container.
    pub spec: ContainerSpec,
    /// Its image.
    pub image: OfferedImage,
    /// How often it will have moved once it has arrived.
    pub generation: u64,
    /// How often its restart policy has started it again.
    pub restarts: u32,
    /// When its program was last started.
    pub started_at: Option<String>,
    /// How it shall go.
    pub settings: Settings,
    /// CRIU's version on the source, `major.minor`: images of a newer CRIU may not be readable.
    pub criu: String,
    /// The kernel's release on the source, for reports.
    pub kernel: String,
    /// The processor architecture on the source.
    pub architecture: String,
    /// Memory in use, in bytes: the room that the target must have.
    pub memory: u64,
    /// What the processes hold together, in bytes: what some of them share since a fork counts for each, as it crosses.
    #[serde(default)]
    pub resident: u64,
    /// The size of the upper layer and of local volumes in bytes: the disk room that the target must have.
    pub upper: u64,
    /// The processor on the source; unknown of an older source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
    /// By what the target can tell whether it has the same shared volumes.
    #[serde(default)]
    pub shared: Vec<Sighting>,
}

/// The container's image, for a target that may lack it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedImage {
    /// Its configuration, whose SHA-256 the specification names. It names the layers.
    pub config: String,
    /// The sizes of the layers' tars in bytes, the lowest first.
    pub layers: Vec<u64>,
    /// Where registries have it, each as `HOST/REPOSITORY@DIGEST`.
    pub references: Vec<String>,
}

/// A layer that the target lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedLayer {
    /// The SHA-256 of its tar.
    pub diff_id: Digest,
    /// How much of the tar the target has already, in bytes.
    pub offset: u64,
}

/// What crosses in rounds, each in a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Pages.
    Memory,
    /// Trees of files.
    Files,
}

/// What the source decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The target owns the container.
    Commit,
    /// The source keeps it.
    Abort,
}

/// From the source to the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToTarget {
    /// The first message of a migration.
    Hello {
        /// Oldest and newest version of the protocol that the source speaks.
        versions: (u16, u16),
        /// The source.
        node: NodeName,
    },
    /// The first message of a link that continues a migration whose link broke.
    Resume {
        /// The migration.
        migration: MigrationId,
        /// What the source decided.
        verdict: Verdict,
    },
    /// Get ready for this container.
    Offer(Box<Offer>),
    /// All streams have been sent: restore, but leave it frozen and the gate closed.
    Restore,
    /// The decision is durable on the source: the container is yours.
    Commit,
    /// It stays with the source: discard everything.
    Abort {
        /// Why.
        why: Explained,
    },
    /// Memory that was to follow the container is lost, and it cannot go on: end it.
    Lost {
        /// Why.
        why: Explained,
    },
    /// The source has destroyed its copy; the last message.
    Settled,
}

/// From the target to the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum ToSource {
    /// The answer to `Hello`.
    Welcome {
        /// The version that both will speak.
        version: u16,
        /// The target.
        node: NodeName,
    },
    /// The target will not take the container.
    Refused(Explained),
    /// The target lacks these layers of the image: send them, in this order.
    NeedImage {
        /// Which.
        layers: Vec<WantedLayer>,
    },
    /// The target is ready for the rounds.
    Ready,
    /// All of this part of the round that was sent last has arrived; of files the last one, too, while the container is
    /// frozen.
    Stored {
        /// Of what.
        part: Part,
    },
    /// The container is restored, frozen, and promised: the target keeps it until it hears the decision.
    Restored,
    /// The target failed and has discarded everything.
    Failed(Explained),
    /// The container runs on the target: downtime has ended.
    Resumed,
    /// The container is the target's, but something there keeps it from running, or from being certain to run after a
    /// restart; the target tries again.
    Delayed(Explained),
    /// The container runs on the target, and that is durable there.
    Committed,
    /// The target has discarded everything.
    Aborted,
    /// The target knows nothing of this migration: it holds nothing of the container.
    Unknown,
}

/// A control payload that is no message.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode a message of the peer")]
pub struct DecodeError(#[source] serde_json::Error);

/// A message as a control payload.
///
/// # Panics
/// When the message is over the bound of a control frame, which only a container spec of a megabyte could be;
/// such specs are refused when the container is made.
#[must_use]
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    let payload = serde_json::to_vec(message).expect("messages have string keys only");
    assert!(payload.len() <= MAX_CONTROL as usize, "a message of {} bytes", payload.len());
    payload
}

/// A control payload as a message.
///
/// # Errors
/// When it is none.
pub fn decode<M: DeserializeOwned>(payload: &[u8]) -> Result<M, DecodeError> {
    serde_json::from_slice(payload).map_err(DecodeError)
}
