//! Removing images, and layers that no image has.

use std::collections::BTreeSet;
use std::path::Path;

use drover_model::Digest;

use super::names::Names;
use super::staging::Staging;
use super::{ImageError, ImageStore, config};

/// What was removed of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images.
    pub images: Vec<Digest>,
    /// Layers.
    pub layers: Vec<Digest>,
    /// Pieces of layers whose transfer broke off.
    pub partial: usize,
}

impl ImageStore {
    /// Removes a name, and with its last name, or when named by its digest, the image, with those of its layers that no
    /// other image has. `in_use` says whether a container needs it.
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
        let waste = self.stage()?;
        self.retire(&digest, waste.path())?;
        self.retire_layers(waste.path(), &book)?;
        // They have vanished; their files go when nobody waits for the lock.
        drop(book);
        remove(waste)
    }

    /// Removes the images that no name leads to and no container needs, and with `all` those with names as well; layers
    /// that no image has; and what has come of layers that nobody fetches now.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn prune(&self, all: bool, in_use: impl Fn(&Digest) -> bool) -> Result<Pruned, ImageError> {
        let mut book = self.lock()?;
        let unwanted =
            |digest: &Digest| !in_use(digest) && (all || book.names_of(digest).is_empty() || !self.is_whole(digest));
        let images: Vec<Digest> = self.digests()?.into_iter().filter(unwanted).collect();
        let names: Vec<String> = images.iter().flat_map(|digest| book.names_of(digest)).collect();
        names.iter().for_each(|name| book.remove(name));
        book.save()?;
        let waste = self.stage()?;
        for digest in &images {
            self.retire(digest, waste.path())?;
        }
        let layers = self.retire_layers(waste.path(), &book)?;
        let partial = self.remove_partial()?;
        drop(book);
        remove(waste)?;
        Ok(Pruned { images, layers, partial })
    }

    fn retire(&self, digest: &Digest, waste: &Path) -> Result<(), ImageError> {
        let place = self.place(digest);
        match std::fs::rename(&place, waste.join(format!("image-{}", digest.hex()))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(ImageError::store("remove", &place)),
        }
    }

    /// Takes the layers out of the store that no image has and nobody holds.
    fn retire_layers(&self, waste: &Path, book: &Names) -> Result<Vec<Digest>, ImageError> {
        let mut needed = BTreeSet::new();
        for digest in self.digests()?.into_iter().filter(|digest| self.is_whole(digest)) {
            needed.extend(config::parse(&self.config(&digest)?)?.diff_ids);
        }
        let mut retired = Vec::new();
        for diff_id in self.layers.list()?.into_iter().filter(|diff_id| !needed.contains(diff_id)) {
            if self.layers.retire(&diff_id, waste, book)? {
                retired.push(diff_id);
            }
        }
        Ok(retired)
    }
}

fn remove(waste: Staging) -> Result<(), ImageError> {
    let path = waste.path().to_owned();
    waste.remove().map_err(ImageError::store("remove", &path))
}
