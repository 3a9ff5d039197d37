//! What can go wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

use drover_model::Digest;

use super::config;
use crate::layer::LayerError;

/// Something that could not be done to an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no such image.
    #[error("cannot find image {0:?}")]
    Unknown(String),
    /// A container needs the image.
    #[error("cannot remove image {0:?}: it is in use")]
    InUse(String),
    /// The name cannot be one.
    #[error("cannot call an image {0:?}: a name has 1 to 255 printable characters without spaces")]
    BadName(String),
    /// The tar cannot be used.
    #[error("cannot unpack the image's tar: {what}")]
    Tar {
        /// What is wrong, and where.
        what: String,
        /// Why, if something else said so.
        source: Option<io::Error>,
    },
    /// The image's configuration cannot be used.
    #[error("cannot understand the image's {}", config::FILE)]
    Config(#[source] serde_json::Error),
    /// The files are not those that the digest names.
    #[error("cannot use image {expected}: its files have the digest {found}")]
    Different {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The tree could not be read, written or transferred.
    #[error("cannot transfer the image's files")]
    Layer(#[from] LayerError),
    /// The store's own files.
    #[error("cannot {attempt} {}", path.display())]
    Store {
        /// What was attempted, as a verb.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn store(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Store { attempt, path: path.to_owned(), source }
    }
}
