//! Manifests: which configuration and which layers an image has, and the images of an index.

use drover_model::Digest;
use serde::Deserialize;
use serde_json::json;

/// What is asked for: manifests and indexes, of OCI and of Docker.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// What is sent.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The most layers of an image, and images of an index.
const MOST_LAYERS: usize = 127;
const MOST_IMAGES: usize = 1024;

/// Content of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Blob {
    /// What it is called.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Blob,
    /// Its layers, packed, the lowest first.
    pub layers: Vec<Blob>,
}

/// A manifest, or an index of them.
#[derive(Debug, PartialEq, Eq)]
pub enum Document {
    /// A manifest.
    Manifest(Manifest),
    /// The one for the platform that was asked for.
    Index(Blob),
}

#[derive(Debug, Deserialize)]
struct Parts {
    config: Option<Blob>,
    #[serde(default)]
    layers: Vec<Blob>,
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(flatten)]
    blob: Blob,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Document {
    /// Reads one; of an index, the entry for `OS/ARCHITECTURE`.
    ///
    /// # Errors
    /// What it lacks, in words for people.
    pub fn parse(json: &[u8], platform: &str) -> Result<Self, String> {
        let Parts { config, layers, manifests } =
            serde_json::from_slice(json).map_err(|error| format!("its manifest makes no sense: {error}"))?;
        if let Some(config) = config {
            let fits = (1..=MOST_LAYERS).contains(&layers.len());
            let manifest = fits.then_some(Self::Manifest(Manifest { config, layers }));
            return manifest.ok_or_else(|| "the image has no layers, or more than 127".into());
        }
        if manifests.len() > MOST_IMAGES {
            return Err("its index has more than 1024 images".into());
        }
        let (os, architecture) = platform.split_once('/').unwrap_or(("linux", platform));
        // A variant, such as the `v8` of arm64, is left open.
        let architecture = architecture.split('/').next().unwrap_or(architecture);
        let fits = |wanted: &Platform| wanted.os == os && wanted.architecture == architecture;
        let found = manifests.into_iter().find(|entry| entry.platform.as_ref().is_none_or(fits));
        found.map(|entry| Self::Index(entry.blob)).ok_or_else(|| format!("it has no such image for {platform}"))
    }
}

impl Manifest {
    /// As it is sent, its layers packed by gzip.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let blob = |kind: &str, blob: &Blob| json!({ "mediaType": kind, "digest": blob.digest, "size": blob.size });
        let layers: Vec<_> = self.layers.iter().map(|layer| blob(LAYER, layer)).collect();
        let config = blob(CONFIG, &self.config);
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers })
            .to_string()
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(byte: u8) -> Blob {
        Blob { digest: Digest::from_sha256([byte; 32]), size: byte.into() }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = Manifest { config: blob(1), layers: vec![blob(2), blob(3)] };
        assert_eq!(Document::parse(&manifest.to_json(), "linux/amd64"), Ok(Document::Manifest(manifest.clone())));
        for count in [0, 128] {
            let odd = Manifest { layers: vec![blob(2); count], ..manifest.clone() };
            assert!(Document::parse(&odd.to_json(), "linux/amd64").is_err());
        }
    }

    #[test]
    fn of_an_index_the_platform_counts() {
        let entry = |byte, architecture: &str| {
            let Blob { digest, size } = blob(byte);
            json!({ "digest": digest, "size": size, "platform": { "os": "linux", "architecture": architecture } })
        };
        let index = json!({ "manifests": [entry(1, "amd64"), entry(2, "arm64")] }).to_string();
        assert_eq!(Document::parse(index.as_bytes(), "linux/arm64/v8"), Ok(Document::Index(blob(2))));
        assert!(Document::parse(index.as_bytes(), "linux/s390x").unwrap_err().contains("linux/s390x"));
        assert!(Document::parse(b"[]", "linux/amd64").is_err());
    }
}
