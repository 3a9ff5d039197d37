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
    /// The most neighbours that travel.
    const MOST_NEIGHBOURS: usize = 1024;
    /// The most that a pipe holds (`pipe(7)`, `pipe-max-size`).
    const LONGEST_PIPE: usize = 1 << 20;

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
        Self::parse(&fs::read(path)?)
    }

    /// What the notes say, which came from a peer: nothing in them leads out of the container's own places.
    ///
    /// # Errors
    /// When they are no notes, or lead elsewhere.
    pub fn parse(json: &[u8]) -> io::Result<Self> {
        let notes: Self = serde_json::from_slice(json)?;
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if !notes.externals.iter().all(External::stays_inside) {
            return wrong("a mount in its notes leads outside");
        }
        if notes.neighbours.len() > Self::MOST_NEIGHBOURS {
            return wrong("its notes know too many neighbours");
        }
        if notes.unread_stdin.len() > Self::LONGEST_PIPE {
            return wrong("its standard input holds more than a pipe");
        }
        Ok(notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExternalSource;

    #[test]
    fn notes_of_a_peer_lead_nowhere_and_have_an_end() {
        let notes = |source, neighbours, unread| Notes {
            externals: vec![External { mountpoint: "/proc/kcore".into(), source }],
            stdio: [const { None }; 3],
            neighbours: vec![neighbour(); neighbours],
            unread_stdin: vec![7; unread],
        };
        fn neighbour() -> Neighbour {
            Neighbour { address: [10, 0, 0, 1].into(), mac: drover_model::Mac([2; 6]) }
        }
        let dev = |file: &str| ExternalSource::Dev(file.to_owned());
        let parse = |notes: &Notes| Notes::parse(&serde_json::to_vec(notes).unwrap());
        let good = notes(dev("null"), Notes::MOST_NEIGHBOURS, Notes::LONGEST_PIPE);
        assert_eq!(parse(&good).unwrap(), good);
        for wrong in
            [notes(dev("/etc/shadow"), 0, 0), notes(dev("null"), 1025, 0), notes(dev("null"), 0, (1 << 20) + 1)]
        {
            assert!(parse(&wrong).is_err());
        }
    }
}
