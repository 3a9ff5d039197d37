//! Archives of images, unpacked: an OCI image layout, or what `docker save` writes.
//!
//! Both were written by anybody: nothing is read through a link or outside of them, and every length is bounded.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use drover_model::Digest;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config::{self, LARGEST_CONFIG};
use super::{Image, ImageError, ImageStore, decompress, digest_of, unpack};
use crate::place::open_within;

/// The largest index or manifest in bytes: what registries take.
const LARGEST_MANIFEST: usize = 4 << 20;
/// The most indexes inside indexes.
const DEEPEST: usize = 3;
/// The annotation that names an image of a layout, in its two forms.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// Which image of an archive is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// What the archive calls it: a tag, or a name with one.
    pub tag: Option<String>,
    /// `OS/ARCHITECTURE`; absent: this machine's.
    pub platform: Option<String>,
}

/// An image of an archive: files inside of it, by their paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Archive {
    top: std::path::PathBuf,
    config: Vec<u8>,
    /// The layers, the lowest first, each with the digest of what is there if the archive tells.
    layers: Vec<(String, Option<Digest>)>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index or a manifest: one has `manifests`, the other `config` and `layers`.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// An entry of Docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Descriptor {
    fn is_called(&self, tag: &str) -> bool {
        let names = NAMES.iter().filter_map(|key| self.annotations.get(*key));
        names.into_iter().any(|name| matches_tag(name, tag))
    }

    fn label(&self) -> String {
        let name = NAMES.iter().find_map(|key| self.annotations.get(*key)).cloned();
        let platform = self.platform.as_ref().map(|platform| format!("{}/{}", platform.os, platform.architecture));
        name.or(platform).unwrap_or_else(|| self.digest.to_string())
    }
}

/// Whether a name with a tag is meant by a name, or by a tag alone.
fn matches_tag(name: &str, wanted: &str) -> bool {
    name == wanted || name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)
}

impl Archive {
    /// Finds the image that is meant in a tree; none when the tree is no archive of images.
    pub fn find(top: &Path, choice: &Choice) -> Result<Option<Self>, ImageError> {
        let has = |name: &str| open(top, name).is_ok();
        if has("oci-layout") && has("index.json") {
            return Self::of_layout(top, choice).map(Some);
        }
        if !has("manifest.json") {
            return Ok(None);
        }
        match read_json::<Vec<Saved>>(top, "manifest.json", LARGEST_MANIFEST) {
            Ok(saved) if !saved.is_empty() => Self::of_saved(top, &saved, choice).map(Some),
            // A root file system may have a file of that name, too.
            _ => Ok(None),
        }
    }

    fn of_layout(top: &Path, choice: &Choice) -> Result<Self, ImageError> {
        let mut document: Document = read_json(top, "index.json", LARGEST_MANIFEST)?;
        let mut tag = choice.tag.as_deref();
        for _ in 0..=DEEPEST {
            if let Some(config) = &document.config {
                let path = blob(&config.digest);
                let json = read(top, &path, LARGEST_CONFIG)?;
                check(&config.digest, &json)?;
                let layers = document.layers.into_iter().map(|layer| (blob(&layer.digest), Some(layer.digest)));
                return Ok(Self { top: top.to_owned(), config: json, layers: layers.collect() });
            }
            let chosen = choose(&document.manifests, tag.take(), choice.platform.as_deref())?;
            let json = read(top, &blob(&chosen.digest), LARGEST_MANIFEST)?;
            check(&chosen.digest, &json)?;
            document = serde_json::from_slice(&json).map_err(ImageError::Config)?;
        }
        Err(ImageError::Unfit { what: "it has indexes inside indexes without end".into() })
    }

    fn of_saved(top: &Path, saved: &[Saved], choice: &Choice) -> Result<Self, ImageError> {
        let tags = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
        let there = || saved.iter().flat_map(tags).collect();
        let chosen = match &choice.tag {
            Some(tag) => saved.iter().find(|saved| tags(saved).iter().any(|name| matches_tag(name, tag))),
            None => Some(&saved[0]).filter(|_| saved.len() == 1),
        };
        let Some(chosen) = chosen else {
            let what = match &choice.tag {
                Some(tag) => format!("none in the archive is called {tag:?}"),
                None => "there are several in the archive".into(),
            };
            return Err(ImageError::Choice { what, there: there() });
        };
        let config = read(top, &chosen.config, LARGEST_CONFIG)?;
        // Their names say what they are in most forms of the archive; what counts is checked against the configuration.
        let layers = chosen.layers.iter().map(|path| (path.clone(), None)).collect();
        Ok(Self { top: top.to_owned(), config, layers })
    }
}

/// The one of an index that is meant.
fn choose<'a>(all: &'a [Descriptor], tag: Option<&str>, platform: Option<&str>) -> Result<&'a Descriptor, ImageError> {
    let named: Vec<_> = all.iter().filter(|descriptor| tag.is_none_or(|tag| descriptor.is_called(tag))).collect();
    let own = format!("linux/{}", config::architecture());
    let wanted = platform.unwrap_or(&own);
    let fits = |platform: &Platform| {
        let (os, architecture) = wanted.split_once('/').unwrap_or(("linux", wanted));
        // A variant, such as the `v8` of arm64, is left open.
        let architecture = architecture.split('/').next().unwrap_or(architecture);
        platform.os == os && platform.architecture == architecture
    };
    // One that does not say for which platform it is may be for any.
    let chosen: Vec<_> =
        named.iter().filter(|descriptor| descriptor.platform.as_ref().is_none_or(fits)).copied().collect();
    match chosen.as_slice() {
        [one] => Ok(one),
        found => {
            let what = match (tag, found.is_empty()) {
                (Some(tag), true) => format!("none is called {tag:?} and is for {wanted}"),
                (None, true) => format!("none is for {wanted}"),
                (_, false) => "there are several".into(),
            };
            Err(ImageError::Choice { what, there: all.iter().map(Descriptor::label).collect() })
        }
    }
}

fn check(expected: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    let found = digest_of(bytes);
    if found == *expected { Ok(()) } else { Err(ImageError::Different { expected: expected.clone(), found }) }
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Opens a file of an archive. Links are followed inside of it: older forms of `docker save` have them for layers that
/// are there twice.
fn open(top: &Path, path: &str) -> Result<File, ImageError> {
    let failed = |errno: Errno| ImageError::store("read", &top.join(path))(errno.into());
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(top, flags, Mode::empty()).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(open_within(top, path.as_bytes(), flags, resolve).map_err(failed)?);
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) { Ok(file) } else { Err(failed(Errno::INVAL)) }
}

fn read(top: &Path, path: &str, longest: usize) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let file = open(top, path)?;
    file.take(longest as u64 + 1).read_to_end(&mut bytes).map_err(ImageError::store("read", &top.join(path)))?;
    if bytes.len() > longest {
        return Err(ImageError::Unfit { what: format!("its {path} is over {} KiB", longest >> 10) });
    }
    Ok(bytes)
}

fn read_json<T: DeserializeOwned>(top: &Path, path: &str, longest: usize) -> Result<T, ImageError> {
    serde_json::from_slice(&read(top, path, longest)?).map_err(ImageError::Config)
}

impl ImageStore {
    /// Takes the image out of its archive: only the layers that are missing.
    pub(super) fn import_archive(
        &self,
        archive: &Archive,
        names: &[String],
        now: SystemTime,
    ) -> Result<Image, ImageError> {
        let described = config::parse(&archive.config)?;
        if described.diff_ids.len() != archive.layers.len() {
            return Err(ImageError::Unfit {
                what: "its manifest and its configuration tell of different layers".into(),
            });
        }
        let mut held = Vec::new();
        for (diff_id, (path, digest)) in described.diff_ids.iter().zip(&archive.layers) {
            if let Some(here) = self.layers.hold(diff_id, &self.lock()?)? {
                held.push(here);
                continue;
            }
            let mut file = open(&archive.top, path)?;
            if let Some(digest) = digest {
                check_file(digest, &file)?;
                std::io::Seek::rewind(&mut file).map_err(ImageError::Read)?;
            }
            let staging = self.stage()?;
            let unpacked = unpack::unpack(staging.path(), decompress(file)?)?;
            if unpacked.diff_id != *diff_id {
                return Err(ImageError::Different { expected: diff_id.clone(), found: unpacked.diff_id });
            }
            held.push(self.admit(staging, &unpacked)?);
        }
        self.publish(&archive.config, held, names, None, now)
    }
}

fn check_file(expected: &Digest, file: &File) -> Result<(), ImageError> {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    std::io::copy(&mut &*file, &mut hash).map_err(ImageError::Read)?;
    let found = Digest::from_sha256(hash.finalize().into());
    if found == *expected { Ok(()) } else { Err(ImageError::Different { expected: expected.clone(), found }) }
}
