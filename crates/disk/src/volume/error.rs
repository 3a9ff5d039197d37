//! What can go wrong with a volume.

use std::io;
use std::path::{Path, PathBuf};

use drover_model::VolumeName;

use crate::MountError;
use crate::layer::LayerError;

/// Something that could not be done to a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is no such volume.
    #[error("there is no volume {0} on this node")]
    Unknown(VolumeName),
    /// There is one of this name already.
    #[error("there is a volume {0} on this node already")]
    Exists(VolumeName),
    /// A container has it.
    #[error("volume {0} belongs to another container")]
    Taken(VolumeName),
    /// Another user has it.
    #[error("volume {0} on this node is not yours")]
    Foreign(VolumeName),
    /// It is no local volume.
    #[error("volume {0} is not a local volume on this node")]
    Kind(VolumeName),
    /// The image's files could not be copied into it.
    #[error("cannot copy the image's files into volume {name}")]
    Fill {
        /// The volume.
        name: VolumeName,
        /// Why.
        source: LayerError,
    },
    /// It could not be mounted.
    #[error("cannot mount volume {name}")]
    Mount {
        /// The volume.
        name: VolumeName,
        /// Why.
        source: MountError,
    },
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

impl VolumeError {
    pub(super) fn store(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Store { attempt, path: path.to_owned(), source }
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => Some("`drover volume ls` lists the volumes".into()),
            Self::Exists(name) => Some(format!(
                "`drover volume inspect {name}` shows it; choose another name, or remove it with `drover volume rm {name}`"
            )),
            Self::Taken(_) => Some(
                "a local volume is one container's at a time, so that it can travel: remove that container first, or choose another \
                 name"
                    .into(),
            ),
            Self::Foreign(_) => Some("choose another name, or ask an administrator to give it to you".into()),
            Self::Kind(_) => Some("volumes of one name must have one kind on all nodes".into()),
            _ => None,
        }
    }
}
