//! Finding out whether two nodes see the same file system in a shared volume.
//!
//! One writes a file of a random name with random content, the other looks for it: nothing else proves it, for sizes and names
//! of two copies are equal, and numbers of devices and inodes are each kernel's own. Where nobody can write, what the top
//! directory shows is compared; that two copies of it are one is not proven then.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use drover_model::{Mark, MigrationId, Sighting, VolumeName};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// How long a file that another node has written may take to be seen: caches of names live for some seconds.
const SEEN: Duration = Duration::from_secs(5);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How many entries of a top directory are compared.
const MOST_ENTRIES: usize = 65_536;
/// The longest content of a file that is looked for, in bytes.
const LONGEST: u64 = 256;

/// Why a volume was not recognised, or could not be marked.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The volume cannot be read or written.
    #[error("cannot {attempt} volume {volume}")]
    File {
        /// What was attempted, as a verb.
        attempt: &'static str,
        /// The volume.
        volume: VolumeName,
        /// What the kernel said.
        source: io::Error,
    },
    /// What one node has written the other does not find.
    #[error("volume {0} is not the same file system on both nodes: what the source wrote there is not here")]
    Other(VolumeName),
    /// What can be read differs.
    #[error("volume {0}, which cannot be written to, does not show the same files on both nodes")]
    Differs(VolumeName),
    /// Nothing could be compared.
    #[error("volume {0} is empty and cannot be written to: nothing tells whether both nodes have the same")]
    Empty(VolumeName),
}

impl ProofError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Other(volume) | Self::Differs(volume) => Some(format!(
                "compare the sources that `drover volume inspect {volume}` shows for both nodes, and what is mounted there"
            )),
            Self::Empty(_) => Some("put a file into it where it can be written to".into()),
            Self::File { .. } => Some("see whether that node may write to it".into()),
        }
    }
}

/// The file by which a volume is recognised in a move.
fn file_name(migration: &MigrationId, volume: &VolumeName) -> String {
    format!(".drover-{migration}-{volume}")
}

/// A volume that was marked; the mark goes when this is dropped.
#[derive(Debug)]
pub struct Token {
    /// What the other node is told.
    pub sighting: Sighting,
    /// The volume's top, held open: it may have been unmounted here by then.
    written: Option<(File, String)>,
}

impl Token {
    /// Marks the volume that is mounted at `place` with `content`, which nobody else would choose; or, where it cannot be
    /// written to, looks at it.
    ///
    /// # Errors
    /// When it can be neither written nor read, or has nothing that could be recognised.
    pub fn leave(
        place: &Path,
        volume: &VolumeName,
        migration: &MigrationId,
        content: String,
    ) -> Result<Self, ProofError> {
        let failed = |attempt| move |source: io::Error| ProofError::File { attempt, volume: volume.clone(), source };
        let top = File::open(place).map_err(failed("open"))?;
        let name = file_name(migration, volume);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = match rustix::fs::openat(&top, name.as_str(), flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => {
                let written = Some((top, name));
                let sighting = Sighting { volume: volume.clone(), mark: Mark::Written { content: content.clone() } };
                // It goes even if it cannot be written to its end.
                let token = Self { sighting, written };
                let mut file = File::from(file);
                file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write to"))?;
                return Ok(token);
            }
            // Root may be nobody to a server.
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => None,
            Err(error) => return Err(failed("write to")(error.into())),
        };
        let (digest, entries) = listing(place).map_err(failed("read"))?;
        if entries == 0 {
            return Err(ProofError::Empty(volume.clone()));
        }
        Ok(Self { sighting: Sighting { volume: volume.clone(), mark: Mark::Listed { digest, entries } }, written })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let Some((top, name)) = self.written.take() else { return };
        // A server that does not answer keeps nobody else waiting.
        let _ = std::thread::Builder::new().name("token".into()).spawn(move || {
            let _ = rustix::fs::unlinkat(&top, name.as_str(), AtFlags::empty());
        });
    }
}

/// Looks whether the volume that is mounted at `place` is the one that another node has seen; and, where that node could
/// write and a container that `writes` is to come here, whether this one can.
///
/// # Errors
/// When it is another one, or this node cannot write to it.
pub fn recognise(place: &Path, sighting: &Sighting, migration: &MigrationId, writes: bool) -> Result<(), ProofError> {
    let volume = &sighting.volume;
    let failed = |attempt| move |source: io::Error| ProofError::File { attempt, volume: volume.clone(), source };
    match &sighting.mark {
        Mark::Written { content } => {
            let top = File::open(place).map_err(failed("open"))?;
            let name = file_name(migration, volume);
            let until = Instant::now() + SEEN;
            while !found(&top, &name, content).map_err(failed("read"))? {
                if Instant::now() > until {
                    return Err(ProofError::Other(volume.clone()));
                }
                std::thread::sleep(PAUSE);
            }
            if !writes {
                return Ok(());
            }
            let own = format!("{name}-seen");
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let written = rustix::fs::openat(&top, own.as_str(), flags, Mode::from_raw_mode(0o600));
            written.map(drop).map_err(|error| failed("write to")(error.into()))?;
            rustix::fs::unlinkat(&top, own.as_str(), AtFlags::empty()).map_err(|error| failed("write to")(error.into()))
        }
        Mark::Listed { digest, entries } => {
            let (own, count) = listing(place).map_err(failed("read"))?;
            if *entries == 0 {
                return Err(ProofError::Empty(volume.clone()));
            }
            if (&own, count) == (digest, *entries) { Ok(()) } else { Err(ProofError::Differs(volume.clone())) }
        }
    }
}

/// Whether the file is there with this content.
fn found(top: &File, name: &str, content: &str) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(top, name, flags, Mode::empty()) {
        Ok(file) => {
            let mut text = Vec::new();
            File::from(file).take(LONGEST).read_to_end(&mut text)?;
            Ok(text == content.as_bytes())
        }
        // A link in its place is nobody's answer.
        Err(Errno::NOENT | Errno::LOOP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A digest of what the top directory shows, as no kernel has it of its own, and how many entries it has.
fn listing(place: &Path) -> io::Result<(String, u64)> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(place)?.take(MOST_ENTRIES) {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let kind = if metadata.is_dir() { 'd' } else { 'f' };
        // Directories have sizes and times as their file system likes.
        let (size, time) = if metadata.is_dir() { (0, 0) } else { (metadata.len(), metadata.mtime()) };
        lines.push(format!("{kind} {size} {time} {:?}", entry.file_name()));
    }
    lines.sort_unstable();
    let digest = Sha256::digest(lines.join("\n"));
    Ok((digest.iter().map(|byte| format!("{byte:02x}")).collect(), lines.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (VolumeName, MigrationId) {
        ("data".parse().unwrap(), "a1".parse().unwrap())
    }

    #[test]
    fn a_mark_is_found_in_the_same_directory_alone_and_goes_afterwards() {
        let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (volume, migration) = ids();
        let token = Token::leave(here.path(), &volume, &migration, "chance".into()).unwrap();
        recognise(here.path(), &token.sighting, &migration, true).unwrap();
        fs::write(elsewhere.path().join(".drover-a1-data"), "other").unwrap();
        let error = recognise(elsewhere.path(), &token.sighting, &migration, true).unwrap_err();
        assert!(matches!(error, ProofError::Other(_)), "{error}");
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1);
        drop(token);
        let end = Instant::now() + SEEN;
        while fs::read_dir(here.path()).unwrap().count() > 0 {
            assert!(Instant::now() < end, "the mark stays");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_cannot_be_written_to_is_compared_by_what_it_shows() {
        let (here, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (volume, migration) = ids();
        let sighting = |place: &Path| {
            let (digest, entries) = listing(place).unwrap();
            Sighting { volume: volume.clone(), mark: Mark::Listed { digest, entries } }
        };
        let empty = recognise(here.path(), &sighting(here.path()), &migration, true).unwrap_err();
        assert!(matches!(empty, ProofError::Empty(_)), "{empty}");
        fs::write(here.path().join("file"), "x").unwrap();
        recognise(here.path(), &sighting(here.path()), &migration, true).unwrap();
        fs::write(other.path().join("file"), "longer").unwrap();
        let differs = recognise(other.path(), &sighting(here.path()), &migration, true).unwrap_err();
        assert!(matches!(differs, ProofError::Differs(_)), "{differs}");
    }
}
