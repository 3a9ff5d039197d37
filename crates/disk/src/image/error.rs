//! What can go wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

use drover_model::Digest;

use super::config;
use crate::MountError;

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
    /// What the image says about itself cannot be used.
    #[error("cannot use the image: {what}")]
    Unfit {
        /// What is wrong.
        what: String,
    },
    /// An archive or a layout has several images, or not the one that was asked for.
    #[error("cannot choose an image: {what}")]
    Choice {
        /// What was looked for.
        what: String,
        /// The images that are there.
        there: Vec<String>,
    },
    /// The image's configuration cannot be understood.
    #[error("cannot understand the image's configuration")]
    Config(#[source] serde_json::Error),
    /// The file that stands for a configuration cannot be understood.
    #[error("cannot understand the image's {}", config::FILE)]
    File(#[source] serde_json::Error),
    /// The content is not that which the digest names.
    #[error("cannot use {expected}: what is there has the digest {found}")]
    Different {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// An overlay cannot be used.
    #[error("cannot use the overlay: {what}")]
    Overlay {
        /// What is wrong.
        what: &'static str,
        /// Why, if something else said so.
        source: Option<io::Error>,
    },
    /// An overlay was made for another base.
    #[error("cannot use the overlay: it is for base {expected}, and this is {found}")]
    OtherBase {
        /// What it was made for.
        expected: Digest,
        /// What was given.
        found: Digest,
    },
    /// A layer of the image is missing.
    #[error("cannot find layer {0}")]
    NoLayer(Digest),
    /// A layer could not be read from where it comes from.
    #[error("cannot read the image's layer")]
    Read(#[source] io::Error),
    /// A layer could not be written to where it goes.
    #[error("cannot write the image's layer")]
    Write(#[source] io::Error),
    /// Several layers could not be looked at as one.
    #[error("cannot look into the image")]
    Mount(#[from] MountError),
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

    /// Whether it is the image's own fault, and no other node would have it.
    #[must_use]
    pub fn is_the_images(&self) -> bool {
        matches!(
            self,
            Self::BadName(_)
                | Self::Tar { .. }
                | Self::Unfit { .. }
                | Self::Choice { .. }
                | Self::Config(_)
                | Self::File(_)
                | Self::Different { .. }
                | Self::Overlay { .. }
                | Self::OtherBase { .. }
        )
    }
}
