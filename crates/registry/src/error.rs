//! What can go wrong with a registry.

use std::io;

use drover_model::Digest;

/// Something that a registry did not do.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached.
    #[error("cannot reach registry {0}")]
    Connect(String, #[source] io::Error),
    /// The two do not agree on TLS.
    #[error("cannot speak TLS with registry {0}")]
    Tls(String, #[source] io::Error),
    /// The link broke, or nothing came for too long.
    #[error("cannot talk to registry {0}")]
    Talk(String, #[source] io::Error),
    /// It answers with something else.
    #[error("cannot understand registry {host}: {what}")]
    Answer {
        /// The registry.
        host: String,
        /// What is wrong.
        what: String,
    },
    /// It wants to know who asks, or knows and refuses.
    #[error("registry {0} lets nobody do that without other credentials")]
    Denied(String),
    /// There is no such thing.
    #[error("registry {host} has no {what}")]
    Unknown {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// It refuses.
    #[error("registry {host} refuses: {why}")]
    Refused {
        /// The registry.
        host: String,
        /// Status and message.
        why: String,
    },
    /// What came is not what its digest names.
    #[error("cannot use {expected}: what came has the digest {found}")]
    Different {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// What is pulled could not be kept, or what is pushed not be read.
    #[error("cannot keep what is transferred")]
    Keep(#[source] io::Error),
}

impl RegistryError {
    /// Whether credentials are missing or wrong.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied(_))
    }

    /// Whether it may go well when it is tried again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Connect(..) | Self::Talk(..))
    }

    /// Whether there is no such image.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}
