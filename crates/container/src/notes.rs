//! What CRIU's images do not say: Drover's notes, a file beside them.

use std::path::Path;
use std::{fs, io};

use drover_model::Neighbour;
use serde::{Deserialize, Serialize};

use crate::External;

/// The notes of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Mounts to bind from outside.
    pub externals: Vec<External>,
    /// The names of the pipes that were standard input, output and error, as CRIU knows them; absent where the
    /// stream was no pipe.
    pub stdio: [Option<String>; 3],
    /// Whom the container knows on its link.
    pub neighbours: Vec<Neighbour>,
    /// Standard input that the program had not read yet.
    pub unread_stdin: Vec<u8>,
}

impl Notes {
    const FILE: &str = "drover.json";
    /// The longest notes: a few hundred mounts and a full pipe (as a JSON list) fit.
    const LONGEST: u64 = 4 << 20;

    /// Writes them beside the images.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, images: &Path) -> io::Result<()> {
        fs::write(images.join(Self::FILE), serde_json::to_vec(self)?)
    }

    /// Reads them.
    ///
    /// # Errors
    /// When the file is missing, too long or makes no sense.
    pub fn read(images: &Path) -> io::Result<Self> {
        let path = images.join(Self::FILE);
        if fs::symlink_metadata(&path)?.len() > Self::LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }
}
