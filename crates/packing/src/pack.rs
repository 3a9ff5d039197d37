//! Packing blocks, and unpacking what a peer sent.

use std::io;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

/// How the content of a block is packed, with its number in streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// As it is.
    None = 0,
    /// A block of LZ4.
    Lz4 = 1,
    /// A frame of Zstandard.
    Zstd = 2,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Lz4, Self::Zstd];

    /// The algorithm with this number.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| *algorithm as u8 == byte)
    }
}

/// Zstandard's level. Measured on memory of redis and of interpreters: the next ones take twice as long for a tenth less,
/// and the negative ones pack no better than LZ4.
const LEVEL: i32 = 1;

/// The most bytes that packing a block of this length may need on its way, whatever comes out.
#[must_use]
pub fn room_for(length: usize) -> usize {
    get_maximum_output_size(length)
}

/// What packing needs, which is used for block after block.
pub struct Packer {
    table: CompressTable,
    zstd: zstd::bulk::Compressor<'static>,
}

impl Packer {
    /// A packer.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
        // The link checks what it carries, and the record says how long the content is.
        zstd.set_parameter(zstd::zstd_safe::CParameter::ContentSizeFlag(false))?;
        Ok(Self { table: CompressTable::default(), zstd })
    }

    /// Packs a block into `into`, which has room for it; how long it is then. `None` when it does not shrink by a
    /// sixteenth at least.
    pub fn pack(&mut self, algorithm: Algorithm, content: &[u8], into: &mut [u8]) -> Option<usize> {
        let length = match algorithm {
            Algorithm::None => return None,
            Algorithm::Lz4 => compress_into_with_table(content, into, &mut self.table).ok()?,
            Algorithm::Zstd => self.zstd.compress_to_buffer(content, into).ok()?,
        };
        (length <= content.len() - content.len() / 16).then_some(length)
    }
}

/// What unpacking needs.
pub struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
}

/// A block that does not become what its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl Unpacker {
    /// An unpacker.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()? })
    }

    /// Unpacks a block into `into`, which it must fill.
    ///
    /// # Errors
    /// When it does not become what it should.
    pub fn unpack(&mut self, algorithm: Algorithm, packed: &[u8], into: &mut [u8]) -> Result<(), Broken> {
        let length = match algorithm {
            Algorithm::None => return Err(Broken),
            Algorithm::Lz4 => decompress_into(packed, into).map_err(|_| Broken)?,
            Algorithm::Zstd => self.zstd.decompress_to_buffer(packed, into).map_err(|_| Broken)?,
        };
        if length == into.len() { Ok(()) } else { Err(Broken) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(algorithm: Algorithm, content: &[u8]) -> Option<Vec<u8>> {
        let mut into = vec![0; room_for(content.len())];
        let length = Packer::new().unwrap().pack(algorithm, content, &mut into)?;
        into.truncate(length);
        Some(into)
    }

    #[test]
    fn what_does_not_shrink_is_not_packed() {
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(64 << 10).collect();
        for algorithm in Algorithm::ALL {
            assert_eq!(packed(algorithm, &noise), None, "{algorithm:?}");
        }
        assert_eq!(packed(Algorithm::None, &[0; 4096]), None);
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(letters in proptest::collection::vec(0..4_u8, 4096..20_000)) {
            for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
                let packed = packed(algorithm, &letters).unwrap();
                let mut back = vec![9; letters.len()];
                prop_assert_eq!(Unpacker::new().unwrap().unpack(algorithm, &packed, &mut back), Ok(()));
                prop_assert!(back == letters);
                // Neither shorter nor longer.
                for wrong in [letters.len() - 1, letters.len() + 1] {
                    let mut back = vec![9; wrong];
                    prop_assert_eq!(Unpacker::new().unwrap().unpack(algorithm, &packed, &mut back), Err(Broken));
                }
            }
        }

        #[test]
        fn hostile_blocks_are_refused(bytes: Vec<u8>, length in 0..20_000_usize, byte in 0..4000_usize, flip in 1..=255_u8) {
            let mut into = vec![0; length];
            let content = b"a text of a few letters ".repeat(200);
            for algorithm in Algorithm::ALL {
                let _ = Unpacker::new().unwrap().unpack(algorithm, &bytes, &mut into);
                if let Some(mut packed) = packed(algorithm, &content) {
                    let byte = byte % packed.len();
                    packed[byte] ^= flip;
                    let _ = Unpacker::new().unwrap().unpack(algorithm, &packed, &mut into);
                }
            }
        }
    }
}
