//! An overlay is made: what the base has is referred to, what is much like something of the base is patched.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::OwnedFd;

use drover_model::Bytes;
use zstd::Encoder;

use super::base::{Base, Index, SMALLEST_PATCHED, contents, open_tree};
use super::{Difference, END, LARGEST_PATCHED, MAGIC, Share, VERSION, WINDOW, write_bytes, write_file, write_patch};
use crate::image::rewrite::open_file;
use crate::image::tape::{RecipeReader, Record};
use crate::image::{Image, ImageError, ImageStore, RECIPE, config};
use crate::layer::{CHUNK, TreePath};

/// How hard the file is packed that a patch is compared with: hardly.
const QUICK: i32 = 1;

impl ImageStore {
    /// Makes the overlay that makes `image` of `base`, packed at `level` of Zstandard (1 to 19), in a file without a name
    /// that is at its beginning. `name` is what the image is called where it is made again.
    ///
    /// # Errors
    /// When a layer is missing or its files were changed since, or the disk refuses.
    pub fn overlay(
        &self,
        base: &Image,
        image: &Image,
        name: &str,
        level: i32,
    ) -> Result<(File, Difference), ImageError> {
        let config = self.config(&image.digest)?;
        let mut file = self.unnamed()?;
        let below = Base::open(self, &base.digest)?;
        let mut difference = Difference {
            base: base.digest.clone(),
            image: image.digest.clone(),
            length: Bytes(0),
            tars: Bytes(image.layers.iter().map(|layer| layer.tar_size.0).sum()),
            layers: 0,
            reused: 0,
            referenced: Share::default(),
            patched: Share::default(),
            added: Share::default(),
        };
        let head = [&MAGIC[..], &VERSION.to_le_bytes(), base.digest.hex().as_bytes()].concat();
        file.write_all(&head).map_err(ImageError::Write)?;
        let out = encoder(&file, level, &below.prefix).map_err(ImageError::Write)?;
        let mut out = BufWriter::with_capacity(CHUNK, out);
        write_names(&mut out, name, &config).map_err(ImageError::Write)?;

        let mut index = Index::of(&below);
        let mut held = Vec::new();
        for diff_id in config::parse(&config)?.distinct_layers() {
            if below.has(&diff_id) {
                difference.reused += 1;
                continue;
            }
            difference.layers += 1;
            held.push(self.layers.hold(&diff_id, &self.lock()?)?.ok_or_else(|| ImageError::NoLayer(diff_id.clone()))?);
            let tree = open_tree(self, &diff_id)?;
            let mut building = Building { base: &below, index: &mut index, tree, level, difference: &mut difference };
            building.layer(&self.layers.place(&diff_id).join(RECIPE), &mut out)?;
        }
        let finished = out.into_inner().map_err(io::IntoInnerError::into_error).and_then(Encoder::finish);
        finished.map_err(ImageError::Write)?;
        difference.length = Bytes(file.stream_position().map_err(ImageError::Write)?);
        file.rewind().map_err(ImageError::Write)?;
        Ok((file, difference))
    }
}

fn encoder<'a, W: Write>(out: W, level: i32, prefix: &'a [u8]) -> io::Result<Encoder<'a, W>> {
    let mut encoder = Encoder::with_ref_prefix(out, level, prefix)?;
    encoder.window_log(WINDOW)?;
    encoder.long_distance_matching(true)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

fn write_names(out: &mut impl Write, name: &str, config: &[u8]) -> io::Result<()> {
    out.write_all(&(name.len() as u16).to_le_bytes())?;
    out.write_all(name.as_bytes())?;
    out.write_all(&(config.len() as u32).to_le_bytes())?;
    out.write_all(config)
}

/// A layer on its way into an overlay.
struct Building<'a, 'b> {
    base: &'b Base,
    index: &'a mut Index<'b>,
    tree: OwnedFd,
    level: i32,
    difference: &'a mut Difference,
}

impl Building<'_, '_> {
    fn layer(&mut self, recipe: &std::path::Path, out: &mut impl Write) -> Result<(), ImageError> {
        let mut records = RecipeReader::open(recipe).map_err(ImageError::store("read", recipe))?;
        loop {
            match records.record().map_err(ImageError::store("read", recipe))? {
                Record::Bytes(bytes) => write_bytes(out, &bytes).map_err(ImageError::Write)?,
                Record::File { path, size, .. } => self.file(&path, size, out)?,
                Record::End => return out.write_all(&[END]).map_err(ImageError::Write),
            }
        }
    }

    fn file(&mut self, path: &TreePath, size: u64, out: &mut impl Write) -> Result<(), ImageError> {
        let file = open_file(&self.tree, path).map_err(ImageError::Read)?;
        if let Some(number) = self.index.same(path, size, &file).map_err(ImageError::Read)? {
            self.difference.referenced.add(size);
            return write_file(out, number).map_err(ImageError::Write);
        }
        if !(SMALLEST_PATCHED..=LARGEST_PATCHED).contains(&size) {
            self.difference.added.add(size);
            return copy(file, size, out);
        }
        let new = contents(file, size).map_err(ImageError::Read)?;
        match self.patch(path, &new).map_err(ImageError::Read)? {
            Some((number, patch)) => {
                self.difference.patched.add(size);
                write_patch(out, number, new.len(), &patch).map_err(ImageError::Write)
            }
            None => {
                self.difference.added.add(size);
                write_bytes(out, &new).map_err(ImageError::Write)
            }
        }
    }

    /// A patch, if there is something similar to make the file of, and that is worth it.
    fn patch(&self, path: &TreePath, new: &[u8]) -> io::Result<Option<(u32, Vec<u8>)>> {
        let Some(number) = self.index.similar(path, new.len() as u64) else { return Ok(None) };
        let Some(old) = self.base.contents(number)? else { return Ok(None) };
        let mut encoder = Encoder::with_ref_prefix(Vec::new(), self.level, &old)?;
        let reach = (old.len() + new.len()).next_power_of_two().trailing_zeros();
        encoder.window_log(reach.clamp(10, WINDOW))?;
        encoder.set_pledged_src_size(Some(new.len() as u64))?;
        encoder.write_all(new)?;
        let patch = encoder.finish()?;
        // Among its like a file is packed better than alone.
        let alone = zstd::bulk::compress(new, QUICK)?.len();
        Ok((patch.len() < alone / 2).then_some((number, patch)))
    }
}

/// Files of any size, a piece at a time.
fn copy(mut file: File, size: u64, out: &mut impl Write) -> Result<(), ImageError> {
    let mut buffer = vec![0; size.min(CHUNK as u64) as usize];
    let mut left = size;
    while left > 0 {
        let length = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..length]).map_err(ImageError::Read)?;
        write_bytes(out, &buffer[..length]).map_err(ImageError::Write)?;
        left -= length as u64;
    }
    Ok(())
}
