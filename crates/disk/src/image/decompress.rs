//! What a stream is compressed by, as its first bytes tell.

use std::io::{self, Cursor, Read};

use super::ImageError;

/// As many bytes as tell.
const MAGIC: usize = 6;

/// Reads a stream that is compressed by gzip or Zstandard, or not at all, as if it were not.
///
/// # Errors
/// When it is compressed in another way, or cannot be read.
pub fn decompress<'a>(mut input: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImageError> {
    let damaged = |source| ImageError::Tar { what: "it is damaged".into(), source: Some(source) };
    let mut first = Vec::with_capacity(MAGIC);
    input.by_ref().take(MAGIC as u64).read_to_end(&mut first).map_err(damaged)?;
    let unknown = |what: &str| Err(ImageError::Tar { what: what.into(), source: None });
    let whole = |first: Vec<u8>| Cursor::new(first).chain(input);
    match first.as_slice() {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::MultiGzDecoder::new(whole(first)))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::new(whole(first)).map_err(damaged)?;
            Ok(Box::new(decoder))
        }
        [b'B', b'Z', b'h', ..] => unknown("it is compressed (bzip2): unpack it with bunzip2 first"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => unknown("it is compressed (xz): unpack it with unxz first"),
        [b'P', b'K', ..] => unknown("it is a zip archive: a tar is needed"),
        _ => Ok(Box::new(io::BufReader::new(whole(first)))),
    }
}
