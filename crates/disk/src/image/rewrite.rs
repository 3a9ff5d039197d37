//! A layer's tar, written again byte for byte from its tree and its recipe.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use drover_model::Digest;
use rustix::fs::{OFlags, ResolveFlags};
use sha2::{Digest as _, Sha256};

use super::tape::{RecipeReader, RecipeWriter, Record};
use super::{ImageError, RECIPE, TREE};
use crate::layer::{CHUNK, TreePath};
use crate::place::{open_top, open_within};

/// Writes the tar of the layer in the directory `layer` from the byte `offset` on. It is hashed from its beginning all the
/// same: an error says that it is not `diff_id`, with all of it written.
pub(super) fn write_tar(layer: &Path, diff_id: &Digest, offset: u64, out: &mut impl Write) -> Result<u64, ImageError> {
    let (tree, recipe) = (layer.join(TREE), layer.join(RECIPE));
    let top = open_top(&tree).map_err(|errno| ImageError::store("open", &tree)(errno.into()))?;
    let mut records = RecipeReader::open(&recipe).map_err(ImageError::store("read", &recipe))?;
    let mut written = Written { out, hash: Sha256::new(), length: 0, offset };
    let mut buffer = vec![0; CHUNK];
    loop {
        match records.record().map_err(ImageError::store("read", &recipe))? {
            Record::Bytes(bytes) => written.write(&bytes)?,
            Record::File { path, size, .. } => copy(&top, &tree, &path, size, &mut buffer, &mut written)?,
            Record::End => break,
        }
    }
    let found = Digest::from_sha256(written.hash.finalize().into());
    if found == *diff_id { Ok(written.length) } else { Err(ImageError::Different { expected: diff_id.clone(), found }) }
}

/// What was written, and what of it counts.
struct Written<'a, W> {
    out: &'a mut W,
    hash: Sha256,
    length: u64,
    offset: u64,
}

impl<W: Write> Written<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.hash.update(bytes);
        let before = self.offset.saturating_sub(self.length).min(bytes.len() as u64);
        self.length += bytes.len() as u64;
        self.out.write_all(&bytes[before as usize..]).map_err(ImageError::Write)
    }
}

/// Opens a file of a tree, through no link.
pub(super) fn open_file(top: &OwnedFd, path: &TreePath) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(open_within(top, path.as_bytes(), flags, resolve)?.into())
}

fn copy(
    top: &OwnedFd,
    tree: &Path,
    path: &TreePath,
    size: u64,
    buffer: &mut [u8],
    written: &mut Written<'_, impl Write>,
) -> Result<(), ImageError> {
    let failed = |error: io::Error| ImageError::store("read", &tree.join(as_path(path)))(error);
    let mut file = open_file(top, path).map_err(failed)?;
    let mut left = size;
    while left > 0 {
        let length = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..length]).map_err(failed)?;
        written.write(&buffer[..length])?;
        left -= length as u64;
    }
    Ok(())
}

fn as_path(path: &TreePath) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path.as_bytes()).into()
}

/// Writes a recipe anew in which the contents of files are literal that later entries took the place of: `spared` has
/// them by the inode number under which the recipe knows them.
pub(super) fn inline(recipe: &Path, spared: &BTreeMap<u64, PathBuf>) -> io::Result<()> {
    let next = recipe.with_extension("next");
    let mut records = RecipeReader::open(recipe)?;
    let mut out = RecipeWriter::create(&next)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match records.record()? {
            Record::Bytes(bytes) => out.bytes(&bytes)?,
            Record::File { path, size, inode } => match spared.get(&inode) {
                None => out.file(&path, size, inode)?,
                Some(file) => {
                    let mut file = std::fs::File::open(file)?;
                    let mut left = size;
                    while left > 0 {
                        let length = left.min(buffer.len() as u64) as usize;
                        file.read_exact(&mut buffer[..length])?;
                        out.bytes(&buffer[..length])?;
                        left -= length as u64;
                    }
                }
            },
            Record::End => break,
        }
    }
    out.finish()?;
    std::fs::rename(next, recipe)
}
