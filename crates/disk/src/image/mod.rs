//! Images: root file systems, each in a directory of its own that is called by its digest.
//!
//! ```text
//! ROOT/images/sha256/HEX/rootfs/       the tree
//! ROOT/images/sha256/HEX/image.json    what is known about it
//! ROOT/names.json                      names, each with its digest
//! ROOT/lock                            locked while names or the set of images change
//! ROOT/staging/                        what is not finished, or no longer wanted; each part locked by its user
//! ```

mod config;
mod error;
mod import;
mod names;
mod staging;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use drover_model::{Bytes, Digest};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::layer::{self, Summary};
pub use config::ImageConfig;
pub use error::ImageError;
use names::Names;
use staging::Staging;

/// The directory of an image that holds its files.
const ROOTFS: &str = "rootfs";
/// The file beside it.
const RECORD: &str = "image.json";

/// An image on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The content.
    pub digest: Digest,
    /// The names that lead to it, ascending; none when they all lead elsewhere by now.
    pub names: Vec<String>,
    /// The size of its files, holes not counted.
    pub size: Bytes,
    /// When it came to this node: RFC 3339, UTC.
    pub imported_at: String,
    /// How its program is started.
    pub config: ImageConfig,
    /// Its files: never to be written, only to be an overlay's lower layer.
    pub rootfs: PathBuf,
}

/// What `image.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    size: Bytes,
    imported_at: String,
}

/// The images of a node. Several threads and processes may use one at once.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
}

impl ImageStore {
    /// Opens the store in the directory `root`, which is made if it is missing. What earlier users left unfinished is
    /// removed.
    ///
    /// # Errors
    /// When its directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let store = Self { root: root.to_owned() };
        // Nobody else looks into it: the trees hold set-id programs, of any age, with their owners' right to run.
        for directory in [store.root.clone(), store.images(), store.staging()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(ImageError::store("make", &directory))?;
        }
        staging::sweep(&store.staging()).map_err(ImageError::store("clear", &store.staging()))?;
        Ok(store)
    }

    fn images(&self) -> PathBuf {
        self.root.join("images/sha256")
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.images().join(digest.hex())
    }

    fn lock(&self) -> Result<Names, ImageError> {
        Names::lock(&self.root)
    }

    /// Unpacks a tar (not compressed) of a root file system and calls it `name`; an image that had the name before
    /// loses it. `drover-image.json` at the tar's top says how its program is started.
    ///
    /// # Errors
    /// When the tar is damaged, leads outside, or has what is not known here; the store is as it was.
    pub fn import(&self, name: &str, tar: impl Read, now: SystemTime) -> Result<Image, ImageError> {
        names::check(name)?;
        let staging = self.stage()?;
        import::unpack(&staging.path().join(ROOTFS), tar)?;
        let summary = layer::pack(&staging.path().join(ROOTFS), &mut io::sink())?;
        self.publish(staging, &summary, &[name.to_owned()], now)
    }

    /// Writes an image as a layer stream.
    ///
    /// # Errors
    /// When there is no such image, its files were changed since, or the output cannot be written.
    pub fn send(&self, digest: &Digest, out: &mut impl Write) -> Result<Summary, ImageError> {
        let image = self.find(digest.as_str())?;
        let summary = layer::pack(&image.rootfs, out)?;
        same(digest, &summary)?;
        Ok(summary)
    }

    /// Reads an image as a layer stream, and gives it names if it is the expected one. Give a buffered reader.
    ///
    /// # Errors
    /// When the stream is damaged or holds another image; the store is as it was.
    pub fn receive(
        &self,
        expected: &Digest,
        names: &[String],
        input: &mut impl Read,
        now: SystemTime,
    ) -> Result<Image, ImageError> {
        names.iter().try_for_each(|name| names::check(name))?;
        let staging = self.stage()?;
        let summary = layer::apply(&staging.path().join(ROOTFS), input)?;
        same(expected, &summary)?;
        self.publish(staging, &summary, names, now)
    }

    fn stage(&self) -> Result<Staging, ImageError> {
        let staging = Staging::new(&self.staging()).map_err(ImageError::store("make", &self.staging()))?;
        let rootfs = staging.path().join(ROOTFS);
        std::fs::create_dir(&rootfs).map_err(ImageError::store("make", &rootfs))?;
        Ok(staging)
    }

    /// Makes a finished tree visible, durably.
    fn publish(
        &self,
        staging: Staging,
        summary: &Summary,
        names: &[String],
        now: SystemTime,
    ) -> Result<Image, ImageError> {
        // An image that nobody could use later must not become visible.
        config::read(&staging.path().join(ROOTFS))?;
        let imported_at = OffsetDateTime::from(now).format(&Rfc3339).unwrap_or_default();
        let record = Record { size: Bytes(summary.bytes), imported_at };
        let json = serde_json::to_vec_pretty(&record).unwrap_or_default();
        let path = staging.path().join(RECORD);
        std::fs::write(&path, json).map_err(ImageError::store("write", &path))?;
        // All of the tree, in one call.
        let synced = File::open(staging.path()).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
        synced.map_err(ImageError::store("sync", staging.path()))?;

        let mut book = self.lock()?;
        let place = self.place(&summary.digest);
        // Where it is already, ours is thrown away.
        if !place.exists() {
            staging.move_to(&place).map_err(ImageError::store("make", &place))?;
            sync_directory(&self.images())?;
        }
        for name in names {
            book.insert(name, &summary.digest);
        }
        book.save()?;
        drop(book);
        self.find(summary.digest.as_str())
    }

    /// All images, ascending by digest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let images = self.images();
        let entries = std::fs::read_dir(&images).map_err(ImageError::store("read", &images))?;
        let digests: BTreeSet<Digest> = entries
            .flatten()
            .filter_map(|entry| format!("sha256:{}", entry.file_name().to_str()?).parse().ok())
            .collect();
        let book = self.lock()?;
        digests.into_iter().map(|digest| self.load(digest, &book)).collect()
    }

    /// The image with this name or digest.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name_or_digest: &str) -> Result<Image, ImageError> {
        let book = self.lock()?;
        let digest = book.resolve(name_or_digest)?;
        if !self.place(&digest).exists() {
            return Err(ImageError::Unknown(name_or_digest.to_owned()));
        }
        self.load(digest, &book)
    }

    fn load(&self, digest: Digest, book: &Names) -> Result<Image, ImageError> {
        let place = self.place(&digest);
        let path = place.join(RECORD);
        let json = std::fs::read(&path).map_err(ImageError::store("read", &path))?;
        let record: Record = serde_json::from_slice(&json)
            .map_err(|error| ImageError::store("understand", &path)(io::Error::from(error)))?;
        let rootfs = place.join(ROOTFS);
        Ok(Image {
            names: book.names_of(&digest),
            digest,
            size: record.size,
            imported_at: record.imported_at,
            config: config::read(&rootfs)?,
            rootfs,
        })
    }

    /// Removes a name, and with its last name, or when named by its digest, the image. `in_use` says whether a container
    /// needs it.
    ///
    /// # Errors
    /// When there is no such image or it is in use; nothing is removed then.
    pub fn remove(&self, name_or_digest: &str, in_use: impl Fn(&Digest) -> bool) -> Result<(), ImageError> {
        let mut book = self.lock()?;
        let digest = book.resolve(name_or_digest)?;
        let place = self.place(&digest);
        if !place.exists() && book.names_of(&digest).is_empty() {
            return Err(ImageError::Unknown(name_or_digest.to_owned()));
        }
        let by_digest = name_or_digest == digest.as_str();
        if !by_digest && book.names_of(&digest).len() > 1 {
            book.remove(name_or_digest);
            return book.save();
        }
        if in_use(&digest) {
            return Err(ImageError::InUse(name_or_digest.to_owned()));
        }
        book.names_of(&digest).iter().for_each(|name| book.remove(name));
        book.save()?;
        if !place.exists() {
            return Ok(());
        }
        // It vanishes at once; its files go when nobody waits for the lock.
        let staging = Staging::new(&self.staging()).map_err(ImageError::store("make", &self.staging()))?;
        let old = staging.path().join("old");
        std::fs::rename(&place, &old).map_err(ImageError::store("remove", &place))?;
        drop(book);
        staging.remove().map_err(ImageError::store("remove", &old))
    }
}

fn same(expected: &Digest, summary: &Summary) -> Result<(), ImageError> {
    if *expected == summary.digest {
        return Ok(());
    }
    Err(ImageError::Different { expected: expected.clone(), found: summary.digest.clone() })
}

fn sync_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(ImageError::store("sync", path))
}
