//! The layers of a store: each once, whatever images have it, and held by whoever needs it before an image has it.

use std::fs::File;
use std::path::{Path, PathBuf};

use drover_model::{Bytes, Digest, ImageLayer};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::names::Names;
use super::staging::Staging;
use super::unpack::Unpacked;
use super::{ImageError, TREE, sync_directory};

/// Beside a layer's tree: what is known about it.
const RECORD: &str = "layer.json";

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    size: Bytes,
    tar_size: Bytes,
}

/// A layer that nobody removes until this is dropped. The kernel lets go of it however the process ends.
#[derive(Debug)]
pub(super) struct Held {
    pub diff_id: Digest,
    _lock: File,
}

/// The directory of all layers. What changes it takes the store's lock.
#[derive(Debug)]
pub(super) struct Layers {
    root: PathBuf,
}

impl Layers {
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn place(&self, diff_id: &Digest) -> PathBuf {
        self.root.join(diff_id.hex())
    }

    pub fn tree(&self, diff_id: &Digest) -> PathBuf {
        self.place(diff_id).join(TREE)
    }

    pub fn load(&self, diff_id: &Digest) -> Result<ImageLayer, ImageError> {
        let path = self.place(diff_id).join(RECORD);
        let json = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::NoLayer(diff_id.clone()));
            }
            result => result.map_err(ImageError::store("read", &path))?,
        };
        let record: Record =
            serde_json::from_slice(&json).map_err(|error| ImageError::store("understand", &path)(error.into()))?;
        Ok(ImageLayer { diff_id: diff_id.clone(), size: record.size, tar_size: record.tar_size })
    }

    /// Holds a layer if it is there.
    pub fn hold(&self, diff_id: &Digest, _book: &Names) -> Result<Option<Held>, ImageError> {
        let place = self.place(diff_id);
        let lock = match File::open(&place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(ImageError::store("open", &place))?,
        };
        // Whoever removes one has it alone for as long as the store's lock, which we have.
        let locked = rustix::fs::flock(&lock, FlockOperation::LockShared);
        locked.map_err(|errno| ImageError::store("hold", &place)(errno.into()))?;
        Ok(Some(Held { diff_id: diff_id.clone(), _lock: lock }))
    }

    /// Writes what is known about a layer that was unpacked, and has the disk have all of it.
    pub fn seal(&self, staging: &Staging, unpacked: &Unpacked) -> Result<(), ImageError> {
        let record = Record { size: Bytes(unpacked.bytes), tar_size: Bytes(unpacked.tar_bytes) };
        let path = staging.path().join(RECORD);
        std::fs::write(&path, serde_json::to_vec_pretty(&record).unwrap_or_default())
            .map_err(ImageError::store("write", &path))?;
        // All of the tree, in one call.
        let synced = File::open(staging.path()).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
        synced.map_err(ImageError::store("sync", staging.path()))
    }

    /// Makes a sealed layer visible. Where it is already, ours is thrown away.
    pub fn publish(&self, staging: Staging, diff_id: &Digest, book: &Names) -> Result<Held, ImageError> {
        if let Some(held) = self.hold(diff_id, book)? {
            return Ok(held);
        }
        let place = self.place(diff_id);
        let lock = staging.move_to(&place).map_err(ImageError::store("make", &place))?;
        sync_directory(&self.root)?;
        let shared = rustix::fs::flock(&lock, FlockOperation::LockShared);
        shared.map_err(|errno| ImageError::store("hold", &place)(errno.into()))?;
        Ok(Held { diff_id: diff_id.clone(), _lock: lock })
    }

    /// Takes a layer that nobody holds out of the store, into a directory for what is no longer wanted.
    pub fn retire(&self, diff_id: &Digest, waste: &Path, _book: &Names) -> Result<bool, ImageError> {
        let place = self.place(diff_id);
        let Ok(lock) = File::open(&place) else { return Ok(false) };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        std::fs::rename(&place, waste.join(diff_id.hex())).map_err(ImageError::store("remove", &place))?;
        Ok(true)
    }

    /// All layers, whoever needs them.
    pub fn list(&self) -> Result<Vec<Digest>, ImageError> {
        super::digests(&self.root)
    }
}
