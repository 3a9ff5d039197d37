//! What registries get: layers packed by gzip, which every reader of images understands.

use std::fs::File;
use std::io::{self, Write};

use drover_model::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::{ImageError, ImageStore};

/// How hard layers are packed: twice as fast as usual, and hardly larger.
const LEVEL: u32 = 4;

/// A file without a name, as a registry gets it.
#[derive(Debug)]
pub struct Packed {
    /// Its contents.
    pub file: File,
    /// Their SHA-256.
    pub digest: Digest,
    /// Their length in bytes.
    pub length: u64,
}

/// Hashes what is written.
struct Hashing {
    file: File,
    hash: Sha256,
    length: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Hashing {
    fn new(file: File) -> Self {
        Self { file, hash: Sha256::new(), length: 0 }
    }

    fn end(self) -> Packed {
        Packed { file: self.file, digest: Digest::from_sha256(self.hash.finalize().into()), length: self.length }
    }
}

impl ImageStore {
    /// Packs a layer. The same layer gives the same bytes.
    ///
    /// # Errors
    /// When there is no such layer, its files were changed since, or the disk refuses.
    pub fn pack_layer(&self, diff_id: &Digest) -> Result<Packed, ImageError> {
        let mut encoder = GzEncoder::new(Hashing::new(self.unnamed()?), Compression::new(LEVEL));
        self.write_layer(diff_id, 0, &mut encoder)?;
        encoder.finish().map(Hashing::end).map_err(ImageError::Write)
    }

    /// An image's configuration, as it is.
    ///
    /// # Errors
    /// When there is no such image, or the disk refuses.
    pub fn pack_config(&self, digest: &Digest) -> Result<Packed, ImageError> {
        let mut out = Hashing::new(self.unnamed()?);
        out.write_all(&self.config(digest)?).map_err(ImageError::Write)?;
        Ok(out.end())
    }

    /// A file without a name, which goes with its last user.
    pub(super) fn unnamed(&self) -> Result<File, ImageError> {
        let staging = self.stage()?;
        let path = staging.path().join("packed");
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        // Its name goes with the directory.
        file.map_err(ImageError::store("make", &path))
    }
}
