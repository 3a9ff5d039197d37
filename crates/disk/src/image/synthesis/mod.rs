//! The difference between two images as one file, an *overlay*, and the image made of it again, bit for bit.
//!
//! ```text
//! overlay = "DRVOVERL" u32:version 64*u8:base frame          numbers little-endian; base: its id's digits
//! frame   = one frame of Zstandard, with checksum, of:
//!           u16:length name u32:length config layer*         the image's name and configuration
//! layer   = record* 0x00                                     the tar of a layer that the base has not, lowest first
//! record  = 0x01 u32:length bytes                            bytes of the tar as they are
//!         | 0x02 u32:file                                    the contents of a file of the base
//!         | 0x03 u32:file u32:size u32:length patch          contents made of a file of the base
//! ```
//! Files of the base go by their number: all that the recipes of its layers name, the lowest layer first. A patch is a
//! frame of Zstandard that has the file as its prefix (what `zstd --patch-from` makes). The prefix of the whole frame is
//! what an overlay of the base's own layers would be, every file of it referred to: the headers of files that the image
//! has in common with the base, in whatever layers, cost next to nothing.
//!
//! Nothing of this is trusted: layers are unpacked as tars from anywhere are, and are what their diff ids say or refused.

mod base;
mod build;
mod synthesize;

use std::io::{self, Read, Write};

use drover_model::{Bytes, Digest};

use super::ImageError;

const MAGIC: [u8; 8] = *b"DRVOVERL";
const VERSION: u32 = 1;
/// The window of all frames, as a power of two: what a node must have of memory to read them.
const WINDOW: u32 = 27;
/// The largest file that is patched, and that is patched from: both have room in a window.
const LARGEST_PATCHED: u64 = 64 << 20;
/// The largest prefix of the frame: the rest of the window is for what it is to explain.
const LARGEST_PREFIX: usize = 48 << 20;
/// The most bytes of a tar in one record.
const LONGEST_BYTES: usize = 64 << 10;

const END: u8 = 0;
const BYTES: u8 = 1;
const FILE: u8 = 2;
const PATCH: u8 = 3;

/// How much an overlay holds of one kind of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub files: u64,
    /// Their size in the image.
    pub bytes: u64,
}

impl Share {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What an overlay is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The base's id.
    pub base: Digest,
    /// The image's id.
    pub image: Digest,
    /// The overlay's length.
    pub length: Bytes,
    /// The length of the tars of all of the image's layers.
    pub tars: Bytes,
    /// How many of the image's layers the base has not.
    pub layers: u64,
    /// How many it has.
    pub reused: u64,
    /// Files of the missing layers whose contents the base has, at whatever path.
    pub referenced: Share,
    /// Those that are made of a similar file of the base.
    pub patched: Share,
    /// Those that come as they are.
    pub added: Share,
}

/// A piece of a layer's tar.
#[derive(Debug, PartialEq, Eq)]
enum Record {
    Bytes(Vec<u8>),
    File(u32),
    Patch { file: u32, size: u32, patch: Vec<u8> },
    End,
}

fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(LONGEST_BYTES) {
        out.write_all(&[BYTES])?;
        out.write_all(&(piece.len() as u32).to_le_bytes())?;
        out.write_all(piece)?;
    }
    Ok(())
}

fn write_file(out: &mut impl Write, file: u32) -> io::Result<()> {
    out.write_all(&[FILE])?;
    out.write_all(&file.to_le_bytes())
}

fn write_patch(out: &mut impl Write, file: u32, size: usize, patch: &[u8]) -> io::Result<()> {
    out.write_all(&[PATCH])?;
    for number in [file, size as u32, patch.len() as u32] {
        out.write_all(&number.to_le_bytes())?;
    }
    out.write_all(patch)
}

fn read_record(input: &mut impl Read) -> io::Result<Record> {
    match array(input)? {
        [END] => Ok(Record::End),
        [BYTES] => Ok(Record::Bytes(vector(input, LONGEST_BYTES)?)),
        [FILE] => Ok(Record::File(u32::from_le_bytes(array(input)?))),
        [PATCH] => {
            let (file, size) = (u32::from_le_bytes(array(input)?), u32::from_le_bytes(array(input)?));
            if u64::from(size) > LARGEST_PATCHED {
                return Err(damaged("a file is too large for a patch"));
            }
            Ok(Record::Patch { file, size, patch: vector(input, LARGEST_PATCHED as usize)? })
        }
        _ => Err(damaged("it has a record of an unknown kind")),
    }
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    input.read_exact(&mut array).map(|()| array)
}

/// Bytes behind their length. Memory is taken as they come.
fn vector(input: &mut impl Read, longest: usize) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(array(input)?) as usize;
    if length > longest {
        return Err(damaged("a length in it is too large"));
    }
    let mut bytes = Vec::new();
    input.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn unreadable(source: io::Error) -> ImageError {
    ImageError::Overlay { what: "it is damaged or cut off", source: Some(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut written = Vec::new();
        write_bytes(&mut written, &[7; LONGEST_BYTES + 1]).unwrap();
        write_file(&mut written, 9).unwrap();
        write_patch(&mut written, 3, 5, b"patch").unwrap();
        written.push(END);
        let mut input = written.as_slice();
        assert_eq!(read_record(&mut input).unwrap(), Record::Bytes(vec![7; LONGEST_BYTES]));
        assert_eq!(read_record(&mut input).unwrap(), Record::Bytes(vec![7]));
        assert_eq!(read_record(&mut input).unwrap(), Record::File(9));
        assert_eq!(read_record(&mut input).unwrap(), Record::Patch { file: 3, size: 5, patch: b"patch".to_vec() });
        assert_eq!(read_record(&mut input).unwrap(), Record::End);
        assert!(read_record(&mut input).is_err());
    }

    #[test]
    fn lengths_that_are_too_large_are_refused_before_memory_is_taken() {
        let huge = u32::MAX.to_le_bytes();
        let patch = |size: [u8; 4], length: [u8; 4]| [&[PATCH, 0, 0, 0, 0][..], &size, &length].concat();
        for bad in [[&[BYTES][..], &huge].concat(), patch(huge, [0; 4]), patch([0; 4], huge), vec![PATCH + 1]] {
            assert_eq!(read_record(&mut bad.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
    }
}
