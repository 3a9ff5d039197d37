//! The image that an overlay builds on: its files, held for as long as this is there, and which of them are like others.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use drover_model::Digest;

use super::{END, LARGEST_PATCHED, LARGEST_PREFIX, write_bytes, write_file};
use crate::image::layers::Held;
use crate::image::rewrite::open_file;
use crate::image::tape::{RecipeReader, Record};
use crate::image::{ImageError, ImageStore, RECIPE, config};
use crate::layer::TreePath;
use crate::place::open_top;

/// Smaller files are not patched: a patch says where it is from, too.
pub(super) const SMALLEST_PATCHED: u64 = 2 << 10;

/// A base. Its layers stay while this is there.
pub(super) struct Base {
    pub held: Vec<Held>,
    trees: Vec<OwnedFd>,
    files: Vec<BaseFile>,
    /// What an overlay of the base's own layers would be.
    pub prefix: Vec<u8>,
}

struct BaseFile {
    layer: usize,
    path: TreePath,
    size: u64,
}

impl Base {
    pub fn open(store: &ImageStore, digest: &Digest) -> Result<Self, ImageError> {
        let mut base = Self { held: Vec::new(), trees: Vec::new(), files: Vec::new(), prefix: Vec::new() };
        for diff_id in config::parse(&store.config(digest)?)?.diff_ids {
            if base.has(&diff_id) {
                continue;
            }
            let held = store.layers.hold(&diff_id, &store.lock()?)?;
            base.held.push(held.ok_or_else(|| ImageError::NoLayer(diff_id.clone()))?);
            base.trees.push(open_tree(store, &diff_id)?);
            let recipe = store.layers.place(&diff_id).join(RECIPE);
            base.note_files(&mut RecipeReader::open(&recipe).map_err(ImageError::store("read", &recipe))?)
                .map_err(ImageError::store("read", &recipe))?;
        }
        Ok(base)
    }

    fn note_files(&mut self, records: &mut RecipeReader) -> io::Result<()> {
        let layer = self.trees.len() - 1;
        loop {
            match records.record()? {
                Record::Bytes(bytes) if self.prefix.len() + bytes.len() < LARGEST_PREFIX => {
                    write_bytes(&mut self.prefix, &bytes)?;
                }
                Record::Bytes(_) => {}
                Record::File { path, size, .. } => {
                    let number = u32::try_from(self.files.len()).map_err(io::Error::other)?;
                    self.files.push(BaseFile { layer, path, size });
                    if self.prefix.len() < LARGEST_PREFIX {
                        write_file(&mut self.prefix, number)?;
                    }
                }
                Record::End => {
                    self.prefix.push(END);
                    return Ok(());
                }
            }
        }
    }

    pub fn has(&self, diff_id: &Digest) -> bool {
        self.held.iter().any(|held| held.diff_id == *diff_id)
    }

    /// A file by its number, with its size; none when there is no such number.
    pub fn file(&self, number: u32) -> io::Result<Option<(File, u64)>> {
        let Some(file) = self.files.get(number as usize) else { return Ok(None) };
        Ok(Some((open_file(&self.trees[file.layer], &file.path)?, file.size)))
    }

    /// The contents of a file that may be patched.
    pub fn contents(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        match self.file(number)? {
            Some((file, size)) if size <= LARGEST_PATCHED => contents(file, size).map(Some),
            _ => Ok(None),
        }
    }
}

/// All of a file whose size is bounded.
pub(super) fn contents(file: File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

pub(super) fn open_tree(store: &ImageStore, diff_id: &Digest) -> Result<OwnedFd, ImageError> {
    let tree = store.layers.tree(diff_id);
    open_top(&tree).map_err(|errno| ImageError::store("open", &tree)(errno.into()))
}

/// Finds files of a base by what they hold, and by what they are called.
pub(super) struct Index<'a> {
    base: &'a Base,
    by_size: HashMap<u64, Vec<u32>>,
    by_path: HashMap<&'a TreePath, u32>,
    by_stem: HashMap<Vec<u8>, Vec<u32>>,
    hashes: HashMap<u32, blake3::Hash>,
}

impl<'a> Index<'a> {
    pub fn of(base: &'a Base) -> Self {
        let (by_size, by_path, by_stem) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut index = Self { base, by_size, by_path, by_stem, hashes: HashMap::new() };
        for (number, file) in (0..).zip(&base.files) {
            index.by_size.entry(file.size).or_default().push(number);
            // The topmost layer's is what the image shows.
            index.by_path.insert(&file.path, number);
            if (SMALLEST_PATCHED..=LARGEST_PATCHED).contains(&file.size) {
                index.by_stem.entry(stem(file.path.name())).or_default().push(number);
            }
        }
        index
    }

    /// A file of the same contents, of the same path if there is one. Only files of the same size are read, and once.
    pub fn same(&mut self, path: &TreePath, size: u64, file: &File) -> io::Result<Option<u32>> {
        let Some(candidates) = self.by_size.get(&size) else { return Ok(None) };
        let wanted = hash(file, size)?;
        let first = self.by_path.get(path).filter(|number| candidates.contains(number));
        for &number in first.into_iter().chain(candidates) {
            let found = match self.hashes.get(&number) {
                Some(found) => *found,
                None => {
                    let Some((file, size)) = self.base.file(number)? else { continue };
                    *self.hashes.entry(number).or_insert(hash(&file, size)?)
                }
            };
            if found == wanted {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The file that is most likely much the same: of the same path, or of the same name but for its version.
    pub fn similar(&self, path: &TreePath, size: u64) -> Option<u32> {
        let of = |number: u32| &self.base.files[number as usize];
        let same_path = self.by_path.get(path).copied();
        let may = |number: &u32| (SMALLEST_PATCHED..=LARGEST_PATCHED).contains(&of(*number).size);
        same_path.filter(may).or_else(|| {
            let named = self.by_stem.get(&stem(path.name()))?;
            let parent = path.parent();
            let distance = |number: &u32| (of(*number).path.parent() != parent, of(*number).size.abs_diff(size));
            named.iter().copied().min_by_key(distance)
        })
    }
}

/// A name without its version: `libz.so.1.3.1` and `libz.so.1.2` have the same.
fn stem(name: &[u8]) -> Vec<u8> {
    name.iter().copied().filter(|byte| !byte.is_ascii_digit() && *byte != b'.').collect()
}

fn hash(file: &File, size: u64) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; crate::layer::CHUNK];
    let mut offset = 0;
    while offset < size {
        let length = (size - offset).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..length], offset)?;
        hasher.update(&buffer[..length]);
        offset += length as u64;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_no_part_of_a_name() {
        assert_eq!(stem(b"libz.so.1.3.1"), stem(b"libz.so.1.2"));
        assert_eq!(stem(b"libpython3.13.so.1.0"), stem(b"libpython3.11.so.1"));
        assert_ne!(stem(b"libz.so"), stem(b"libm.so"));
    }
}
