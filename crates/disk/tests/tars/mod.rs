//! Tars as anybody might have written them, and stores to put them into.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use drover_disk::{Choice, Image, ImageError, ImageStore};
use drover_model::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A tar under construction.
pub struct Tar(pub Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// An entry with its path and link written as they are, checked by nobody.
    pub fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", data)
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn store() -> (TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

pub fn import(store: &ImageStore, name: &str, tar: &[u8]) -> Result<Image, ImageError> {
    store.import(name, &Choice::default(), tar, now())
}

/// How many entries a directory of the store has.
pub fn count(directory: &Path, name: &str) -> usize {
    std::fs::read_dir(directory.join("store").join(name)).unwrap().count()
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The configuration of an image of these layers.
pub fn config(layers: &[Vec<u8>], cmd: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let json = json!({
        "architecture": drover_disk::architecture(), "os": "linux", "config": { "Cmd": [cmd] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    serde_json::to_vec(&json).unwrap()
}

/// An OCI image layout under construction.
pub struct Layout {
    pub tar: Tar,
    pub manifests: Vec<Value>,
}

impl Layout {
    pub fn new() -> Self {
        Self { tar: Tar::new(), manifests: Vec::new() }
    }

    pub fn blob(&mut self, bytes: &[u8]) -> Value {
        let tar = std::mem::replace(&mut self.tar, Tar::new());
        let path = format!("blobs/sha256/{}", digest(bytes).hex());
        self.tar = tar.file(&path, bytes);
        json!({ "digest": digest(bytes), "size": bytes.len() })
    }

    /// Adds an image; its layers are packed as they are in registries.
    pub fn image(mut self, tag: &str, architecture: &str, cmd: &str, layers: &[Vec<u8>]) -> Self {
        let config = self.blob(&config(layers, cmd));
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(&gzip(layer))).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let mut manifest = self.blob(&serde_json::to_vec(&manifest).unwrap());
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        manifest["platform"] = json!({ "os": "linux", "architecture": architecture });
        self.manifests.push(manifest);
        self
    }

    pub fn end(self) -> Vec<u8> {
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        self.tar
            .file("index.json", &serde_json::to_vec(&index).unwrap())
            .file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)
            .end()
    }
}
