//! The book of names: which digest each one leads to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use drover_model::Digest;
use rustix::fs::FlockOperation;

use super::{ImageError, sync_directory};

const FILE: &str = "names.json";
const LONGEST_NAME: usize = 255;

/// Whether a string may be an image's name.
pub(super) fn check(name: &str) -> Result<(), ImageError> {
    let printable = name.chars().all(|c| !c.is_control() && !c.is_whitespace());
    let is_digest = name.parse::<Digest>().is_ok();
    if !name.is_empty() && name.len() <= LONGEST_NAME && printable && !is_digest {
        Ok(())
    } else {
        Err(ImageError::BadName(name.chars().take(80).collect()))
    }
}

/// The book, locked against every other thread and process until it is dropped.
pub(super) struct Names {
    root: PathBuf,
    entries: BTreeMap<String, Digest>,
    _lock: File,
}

impl Names {
    pub fn lock(root: &Path) -> Result<Self, ImageError> {
        let path = root.join("lock");
        let locked = File::options().create(true).truncate(false).write(true).open(&path).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        });
        let lock = locked.map_err(ImageError::store("lock", &path))?;
        let path = root.join(FILE);
        let entries = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(ImageError::store("read", &path)(error)),
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|error| ImageError::store("understand", &path)(io::Error::from(error)))?,
        };
        Ok(Self { root: root.to_owned(), entries, _lock: lock })
    }

    /// The digest that a name leads to, or that the text is.
    pub fn resolve(&self, name_or_digest: &str) -> Result<Digest, ImageError> {
        match self.entries.get(name_or_digest) {
            Some(digest) => Ok(digest.clone()),
            None => name_or_digest.parse().map_err(|_| ImageError::Unknown(name_or_digest.to_owned())),
        }
    }

    pub fn names_of(&self, digest: &Digest) -> Vec<String> {
        self.entries.iter().filter(|(_, led_to)| *led_to == digest).map(|(name, _)| name.clone()).collect()
    }

    pub fn insert(&mut self, name: &str, digest: &Digest) {
        self.entries.insert(name.to_owned(), digest.clone());
    }

    pub fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Replaces the file by what is in memory: afterwards it is either the old one or the new one, whatever happens.
    pub fn save(&self) -> Result<(), ImageError> {
        let path = self.root.join(FILE);
        // One name is enough: only who holds the lock writes it.
        let next = self.root.join("names.json.next");
        let json = serde_json::to_vec_pretty(&self.entries).unwrap_or_default();
        let written = File::create(&next).and_then(|mut file| {
            file.write_all(&json)?;
            file.sync_all()?;
            std::fs::rename(&next, &path)
        });
        written.map_err(ImageError::store("write", &path))?;
        sync_directory(&self.root)
    }
}
