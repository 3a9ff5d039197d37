//! A layer's tar on its way into a tree: every byte is hashed, and what the tree will not have goes into a recipe.
//!
//! The recipe is a file, compressed by Zstandard as one stream of records; all numbers little-endian:
//! ```text
//! literal = 0x01 u32:length bytes          bytes of the tar as they are
//! file    = 0x02 u16:length path u64:size u64:inode    the contents of that file of the tree
//! end     = 0x00
//! ```
//! The inode number is that of the tree's file when it was made. It is of use until the tree is finished alone: by it
//! the contents of a file are found that a later entry of the tar took the place of.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::rc::Rc;

use drover_model::Digest;
use sha2::{Digest as _, Sha256};

use crate::layer::TreePath;

/// The longest tar of a layer in bytes.
pub(super) const LONGEST_TAR: u64 = 1 << 40;
/// The most bytes between two payloads: headers with their extensions, and padding.
const MOST_HEADER_BYTES: u64 = 4 << 20;
/// The most bytes behind the end of an archive: writers fill up the last of their blocks.
const MOST_TRAILING_BYTES: u64 = 64 << 20;
/// The longest literal.
const LITERAL: usize = 64 << 10;
/// How hard a recipe is compressed: headers are much alike.
const LEVEL: i32 = 3;

const END: u8 = 0;
const BYTES: u8 = 1;
const FILE: u8 = 2;

/// One record of a recipe.
#[derive(Debug)]
pub(super) enum Record {
    Bytes(Vec<u8>),
    File { path: TreePath, size: u64, inode: u64 },
    End,
}

/// Writes a recipe.
pub(super) struct RecipeWriter {
    out: zstd::Encoder<'static, File>,
    literal: Vec<u8>,
    length: u64,
}

impl RecipeWriter {
    pub fn create(path: &Path) -> io::Result<Self> {
        let out = zstd::Encoder::new(File::create_new(path)?, LEVEL)?;
        Ok(Self { out, literal: Vec::with_capacity(LITERAL), length: 0 })
    }

    pub fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(LITERAL - self.literal.len()));
            self.literal.extend(piece);
            bytes = rest;
            if self.literal.len() == LITERAL {
                self.write_literal()?;
            }
        }
        Ok(())
    }

    pub fn file(&mut self, path: &TreePath, size: u64, inode: u64) -> io::Result<()> {
        self.write_literal()?;
        self.length += size;
        let path = path.as_bytes();
        let length = u16::try_from(path.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.out.write_all(&[FILE])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(&size.to_le_bytes())?;
        self.out.write_all(&inode.to_le_bytes())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.write_literal()?;
        self.out.write_all(&[END])?;
        self.out.finish().map(drop)
    }

    fn write_literal(&mut self) -> io::Result<()> {
        if !self.literal.is_empty() {
            self.out.write_all(&[BYTES])?;
            self.out.write_all(&(self.literal.len() as u32).to_le_bytes())?;
            self.out.write_all(&self.literal)?;
            self.literal.clear();
        }
        Ok(())
    }
}

/// Reads a recipe.
pub(super) struct RecipeReader(BufReader<zstd::Decoder<'static, BufReader<File>>>);

impl RecipeReader {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::new(zstd::Decoder::new(File::open(path)?)?)))
    }

    pub fn record(&mut self) -> io::Result<Record> {
        let damaged = |_| io::Error::from(io::ErrorKind::InvalidData);
        match self.array()? {
            [END] => Ok(Record::End),
            [BYTES] => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                if length > LITERAL {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok(Record::Bytes(self.vector(length)?))
            }
            [FILE] => {
                let length = u16::from_le_bytes(self.array()?).into();
                let path = TreePath::parse(self.vector(length)?).map_err(damaged)?;
                let (size, inode) = (u64::from_le_bytes(self.array()?), u64::from_le_bytes(self.array()?));
                Ok(Record::File { path, size, inode })
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.0.read_exact(&mut array).map(|()| array)
    }

    fn vector(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).map(|()| bytes)
    }
}

/// What passes through: shared by the archive's reader, which takes bytes, and by whoever unpacks it, who says which
/// they are.
pub(super) struct Tape<R> {
    input: R,
    hash: Sha256,
    recipe: RecipeWriter,
    /// Whether what is read now goes into the recipe.
    keeps: bool,
    /// How much more may be kept until the next payload.
    allowance: u64,
}

impl<R: Read> Tape<R> {
    pub fn new(input: R, recipe: RecipeWriter) -> Rc<RefCell<Self>> {
        let allowance = MOST_HEADER_BYTES;
        Rc::new(RefCell::new(Self { input, hash: Sha256::new(), recipe, keeps: true, allowance }))
    }

    /// The next header follows.
    pub fn expect_header(&mut self) {
        self.keeps = true;
        self.allowance = MOST_HEADER_BYTES;
    }

    /// The contents of a file of the tree follow.
    pub fn expect_file(&mut self, path: &TreePath, size: u64, inode: u64) -> io::Result<()> {
        self.keeps = false;
        self.recipe.file(path, size, inode)
    }

    /// Contents follow that the tree has not, at least not as they are in the tar.
    pub fn expect_bytes(&mut self, size: u64) {
        self.allowance = self.allowance.saturating_add(size);
    }

    /// Nothing follows but what fills up the last block.
    pub fn expect_end(&mut self) {
        self.keeps = true;
        self.allowance = MOST_TRAILING_BYTES;
    }

    /// Ends the recipe; gives the tar's digest and length.
    pub fn finish(self) -> io::Result<(Digest, u64)> {
        let length = self.recipe.length;
        self.recipe.finish()?;
        Ok((Digest::from_sha256(self.hash.finalize().into()), length))
    }

    fn pass(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        let bytes = &buffer[..length];
        self.hash.update(bytes);
        if self.keeps {
            let too_long = || io::Error::new(io::ErrorKind::InvalidData, "its headers are too long");
            self.allowance = self.allowance.checked_sub(length as u64).ok_or_else(too_long)?;
            self.recipe.bytes(bytes)?;
        }
        if self.recipe.length > LONGEST_TAR {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 1 TiB"));
        }
        Ok(length)
    }
}

/// A reader of a tape.
pub(super) struct TapeReader<R>(pub Rc<RefCell<Tape<R>>>);

impl<R: Read> Read for TapeReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().pass(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recipe");
        let file = TreePath::parse(b"usr/bin/web".to_vec()).unwrap();
        let mut recipe = RecipeWriter::create(&path).unwrap();
        recipe.bytes(&[7; LITERAL + 1]).unwrap();
        recipe.file(&file, 5, 9).unwrap();
        recipe.bytes(b"end").unwrap();
        recipe.finish().unwrap();
        let mut recipe = RecipeReader::open(&path).unwrap();
        let literal = |record| if let Record::Bytes(bytes) = record { bytes.len() } else { 0 };
        assert_eq!((literal(recipe.record().unwrap()), literal(recipe.record().unwrap())), (LITERAL, 1));
        let Record::File { path, size: 5, inode: 9 } = recipe.record().unwrap() else { panic!("no file") };
        assert_eq!(path, file);
        assert_eq!(literal(recipe.record().unwrap()), 3);
        assert!(matches!(recipe.record().unwrap(), Record::End));
        assert!(recipe.record().is_err());
    }
}
