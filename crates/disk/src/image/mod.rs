//! Images as the OCI image specification has them: a configuration whose SHA-256 is the image's id, and layers that are
//! named by the SHA-256 of their tars. Each layer is here once, as a tree that overlayfs can use, whatever images have it.
//!
//! ```text
//! ROOT/layers/sha256/DIFFID/diff/         the tree: never written, only an overlay's lower layer
//! ROOT/layers/sha256/DIFFID/tar.zst       the recipe by which its tar is written again, byte for byte
//! ROOT/layers/sha256/DIFFID/layer.json    its sizes
//! ROOT/images/sha256/ID/config.json       the configuration
//! ROOT/images/sha256/ID/image.json        when and from where it came
//! ROOT/names.json                         names, each with its image's id
//! ROOT/lock                               locked while names or the sets of images and layers change
//! ROOT/partial/                           what has come of layers whose transfer broke off
//! ROOT/staging/                           what is not finished, or no longer wanted; each part locked by its user
//! ```
//!
//! A layer is visible before the image that it is for. Whoever needs it holds it by a lock on its directory until the
//! image is visible; a layer that no image has and nobody holds is removed.

mod archive;
mod commit;
mod config;
mod decompress;
mod entry;
mod error;
mod fetch;
mod layers;
mod names;
mod pack;
mod prune;
mod rewrite;
mod staging;
mod synthesis;
mod tape;
mod unpack;
mod view;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use drover_model::{Bytes, Digest, ImageConfig, ImageLayer, ImageStep};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use archive::Choice;
pub use commit::Draft;
pub use config::{LARGEST_CONFIG, MOST_LAYERS, architecture};
pub use decompress::decompress;
pub use error::ImageError;
pub use fetch::{Fetch, Lacking, Partial};
use layers::{Held, Layers};
use names::Names;
pub use pack::Packed;
pub use prune::Pruned;
use staging::Staging;
pub use synthesis::{Difference, Share};
pub use view::View;

/// The directory of a layer that holds its files.
const TREE: &str = "diff";
/// The recipe beside it.
const RECIPE: &str = "tar.zst";
/// The configuration of an image.
const CONFIG: &str = "config.json";
/// The file beside it.
const RECORD: &str = "image.json";

/// An image on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The SHA-256 of its configuration.
    pub digest: Digest,
    /// The names that lead to it, ascending; none when they all lead elsewhere by now.
    pub names: Vec<String>,
    /// The size of its files, holes not counted.
    pub size: Bytes,
    /// When it came to this node: RFC 3339, UTC.
    pub imported_at: String,
    /// For which processors, as OCI calls them.
    pub architecture: String,
    /// How its program is started.
    pub config: ImageConfig,
    /// How it was made, the first step first.
    pub history: Vec<ImageStep>,
    /// Its layers, the lowest first.
    pub layers: Vec<ImageLayer>,
    /// Their trees, the topmost first: never to be written, only to be an overlay's lower layers.
    pub trees: Vec<PathBuf>,
    /// Where registries have it, each as `HOST/REPOSITORY@DIGEST`, ascending.
    pub references: Vec<String>,
}

/// What `image.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    imported_at: String,
    #[serde(default)]
    references: BTreeSet<String>,
}

/// The images of a node. Several threads and processes may use one at once.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    layers: Layers,
}

impl ImageStore {
    /// Opens the store in the directory `root`, which is made if it is missing. What earlier users left unfinished is
    /// removed.
    ///
    /// # Errors
    /// When its directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let store = Self { root: root.to_owned(), layers: Layers::at(root.join("layers/sha256")) };
        // Nobody else looks into it: the trees hold set-id programs, of any age, with their owners' right to run.
        let layers = store.layers.root().to_owned();
        for directory in [store.root.clone(), store.images(), store.staging(), store.partial(), layers] {
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

    fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.images().join(digest.hex())
    }

    fn lock(&self) -> Result<Names, ImageError> {
        Names::lock(&self.root)
    }

    fn stage(&self) -> Result<Staging, ImageError> {
        Staging::new(&self.staging()).map_err(ImageError::store("make", &self.staging()))
    }

    /// Unpacks a tar and calls the image `name`; an image that had the name before loses it. The tar is that of a root
    /// file system, in which `drover-image.json` at the top says how its program is started, or an archive of images: a tar
    /// of an OCI image layout, or what `docker save` writes. It may be compressed by gzip or Zstandard.
    ///
    /// # Errors
    /// When the tar is damaged, leads outside, or has what is not known here; the store is as it was.
    pub fn import(&self, name: &str, choice: &Choice, tar: impl Read, now: SystemTime) -> Result<Image, ImageError> {
        names::check(name)?;
        let staging = self.stage()?;
        let unpacked = unpack::unpack(staging.path(), decompress(tar)?)?;
        if unpacked.entries == 0 {
            return Err(ImageError::Tar { what: "it is empty".into(), source: None });
        }
        if let Some(archive) = archive::Archive::find(&staging.path().join(TREE), choice)? {
            return self.import_archive(&archive, &[name.to_owned()], now);
        }
        if choice.tag.is_some() {
            return Err(ImageError::Choice { what: "this is no archive of several images".into(), there: Vec::new() });
        }
        let config = config::make(&staging.path().join(TREE), &unpacked.diff_id)?;
        let held = self.admit(staging, &unpacked)?;
        self.publish(&config, vec![held], &[name.to_owned()], None, now)
    }

    /// Makes an unpacked layer visible, durably.
    fn admit(&self, staging: Staging, unpacked: &unpack::Unpacked) -> Result<Held, ImageError> {
        self.layers.seal(&staging, unpacked)?;
        self.layers.publish(staging, &unpacked.diff_id, &self.lock()?)
    }

    /// Makes an image visible, durably, all of whose layers are held.
    fn publish(
        &self,
        config: &[u8],
        held: Vec<Held>,
        names: &[String],
        reference: Option<&str>,
        now: SystemTime,
    ) -> Result<Image, ImageError> {
        // An image that nobody could use later must not become visible.
        let described = config::parse(config)?;
        let missing = described.diff_ids.iter().find(|diff_id| held.iter().all(|held| held.diff_id != **diff_id));
        if let Some(missing) = missing {
            return Err(ImageError::NoLayer(missing.clone()));
        }
        let digest = digest_of(config);
        let staging = self.stage()?;
        let imported_at = OffsetDateTime::from(now).format(&Rfc3339).unwrap_or_default();
        let references = reference.map(str::to_owned).into_iter().collect();
        write_durably(&staging.path().join(CONFIG), config)?;
        write_record(staging.path(), &Record { imported_at, references })?;

        let mut book = self.lock()?;
        let place = self.place(&digest);
        if place.join(CONFIG).exists() {
            // Where it is already, ours is thrown away.
            self.add_reference(&digest, reference)?;
        } else {
            staging.move_to(&place).map_err(ImageError::store("make", &place))?;
            sync_directory(&self.images())?;
        }
        for name in names {
            book.insert(name, &digest);
        }
        book.save()?;
        let image = self.load(digest, &book)?;
        drop((book, held));
        Ok(image)
    }

    /// Notes where a registry has the image.
    fn add_reference(&self, digest: &Digest, reference: Option<&str>) -> Result<(), ImageError> {
        let Some(reference) = reference else { return Ok(()) };
        let place = self.place(digest);
        let mut record: Record = read_record(&place)?;
        if record.references.insert(reference.to_owned()) {
            write_record(&place, &record)?;
        }
        Ok(())
    }

    /// Notes where a registry has an image that is here.
    ///
    /// # Errors
    /// When there is no such image or its record cannot be written.
    pub fn note_reference(&self, digest: &Digest, reference: &str) -> Result<(), ImageError> {
        let _book = self.lock()?;
        self.add_reference(digest, Some(reference))
    }

    /// All images, ascending by digest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let book = self.lock()?;
        let whole = self.digests()?.into_iter().filter(|digest| self.is_whole(digest));
        whole.map(|digest| self.load(digest, &book)).collect()
    }

    fn digests(&self) -> Result<Vec<Digest>, ImageError> {
        digests(&self.images())
    }

    /// Whether it is an image of this form of the store: those of older ones have no configuration.
    fn is_whole(&self, digest: &Digest) -> bool {
        self.place(digest).join(CONFIG).exists()
    }

    /// The image with this name or digest.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name_or_digest: &str) -> Result<Image, ImageError> {
        let book = self.lock()?;
        let digest = book.resolve(name_or_digest)?;
        if !self.is_whole(&digest) {
            return Err(ImageError::Unknown(name_or_digest.to_owned()));
        }
        self.load(digest, &book)
    }

    /// The configuration of an image, as it is.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn config(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.place(digest).join(CONFIG);
        std::fs::read(&path).map_err(ImageError::store("read", &path))
    }

    fn load(&self, digest: Digest, book: &Names) -> Result<Image, ImageError> {
        let described = config::parse(&self.config(&digest)?)?;
        let record = read_record(&self.place(&digest))?;
        let layers: Vec<_> =
            described.diff_ids.iter().map(|diff_id| self.layers.load(diff_id)).collect::<Result<_, _>>()?;
        Ok(Image {
            names: book.names_of(&digest),
            digest,
            size: Bytes(layers.iter().map(|layer| layer.size.0).sum()),
            imported_at: record.imported_at,
            architecture: described.architecture,
            config: described.config,
            history: described.history,
            trees: described.diff_ids.iter().rev().map(|diff_id| self.layers.tree(diff_id)).collect(),
            layers,
            references: record.references.into_iter().collect(),
        })
    }

    /// Writes the tar of a layer from the byte `offset` on.
    ///
    /// # Errors
    /// When there is no such layer, its files were changed since, or the output cannot be written.
    pub fn write_layer(&self, diff_id: &Digest, offset: u64, out: &mut impl Write) -> Result<u64, ImageError> {
        self.layers.load(diff_id)?;
        rewrite::write_tar(&self.layers.place(diff_id), diff_id, offset, out)
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// The digests that a directory's entries are called by, ascending.
fn digests(directory: &Path) -> Result<Vec<Digest>, ImageError> {
    let entries = std::fs::read_dir(directory).map_err(ImageError::store("read", directory))?;
    let digest = |entry: std::fs::DirEntry| format!("sha256:{}", entry.file_name().to_str()?).parse().ok();
    let digests: BTreeSet<Digest> = entries.flatten().filter_map(digest).collect();
    Ok(digests.into_iter().collect())
}

fn read_record(place: &Path) -> Result<Record, ImageError> {
    let path = place.join(RECORD);
    let json = std::fs::read(&path).map_err(ImageError::store("read", &path))?;
    serde_json::from_slice(&json).map_err(|error| ImageError::store("understand", &path)(io::Error::from(error)))
}

/// Replaces the record: afterwards it is either the old one or the new one, whatever happens.
fn write_record(place: &Path, record: &Record) -> Result<(), ImageError> {
    let (path, next) = (place.join(RECORD), place.join("image.json.next"));
    write_durably(&next, &serde_json::to_vec_pretty(record).unwrap_or_default())?;
    std::fs::rename(&next, &path).map_err(ImageError::store("write", &path))?;
    sync_directory(place)
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(ImageError::store("write", path))
}

fn sync_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(ImageError::store("sync", path))
}
