//! How an image's layers cross from the source to the target: only those that are missing, each from where it broke off.
//!
//! On the stream one layer follows the other. A layer is the rest of its tar in pieces, and then the end; all numbers are
//! little-endian:
//! ```text
//! layer = (u32:length u32:packed length, bytes)* u32:0
//! ```
//! A piece whose two lengths are the same is as it is; otherwise it is packed by Zstandard, by itself.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use drover_disk::{Fetch, ImageStore, Lacking};
use drover_model::{Compression, ContainerSpec, Digest, Explained, ImageLayer};
use drover_packing::{LinkRate, Outlet};
use drover_protocol::{Offer, OfferedImage, WantedLayer};

use crate::error::failure;
use crate::link::{ChannelReader, StreamSender};
use crate::node::Inner;
use crate::pull::pull_missing;

/// The longest piece in bytes.
const PIECE: usize = 512 << 10;
/// How hard pieces are packed.
const LEVEL: i32 = 1;
/// What a link takes, in bytes per second, that needs no packing to be faster than a disk.
const FAST: u64 = 200 << 20;

/// What is offered to a target that may lack the image.
pub(crate) fn offer(images: &ImageStore, spec: &ContainerSpec) -> Result<OfferedImage, Explained> {
    let attempt = "cannot offer the container's image";
    let failed = |error| failure(attempt, &error);
    let image = images.find(spec.image_digest.as_str()).map_err(failed)?;
    let config = images.config(&image.digest).map_err(failed)?;
    let config = String::from_utf8(config).map_err(|error| failure(attempt, &error))?;
    let layers = image.layers.iter().map(|layer| layer.tar_size.0).collect();
    Ok(OfferedImage { config, layers, references: image.references })
}

/// Begins to fetch the image that is offered, from registries as far as they have it; none when all of it is here.
pub(crate) fn begin(inner: &Inner, offer: &Offer) -> Result<Option<Fetch>, Explained> {
    let (spec, images) = (&offer.spec, &inner.images);
    if images.find(spec.image_digest.as_str()).is_ok() {
        return Ok(None);
    }
    let failed = |error| failure("cannot use the image that is offered", &error);
    let mut fetch = images.fetch(&spec.image_digest, offer.image.config.as_bytes()).map_err(failed)?;
    pull_missing(inner, &mut fetch, &spec.image_digest, &offer.image.references);
    if fetch.lacking().is_empty() {
        return finish(images, fetch, spec).map(|()| None);
    }
    Ok(Some(fetch))
}

/// The layers that are missing.
pub(crate) fn missing(fetch: &Fetch) -> Vec<WantedLayer> {
    let wanted = fetch.lacking().into_iter();
    wanted.map(|lacking| WantedLayer { diff_id: lacking.diff_id, offset: lacking.offset }).collect()
}

/// The disk room that they take, in bytes: of the largest one both tar and tree are there for a while.
pub(crate) fn room(fetch: &Fetch, offered: &OfferedImage) -> u64 {
    let all = fetch.diff_ids().into_iter().zip(&offered.layers);
    let sizes: Vec<u64> = fetch
        .lacking()
        .iter()
        .filter_map(|lacking| all.clone().find(|(diff_id, _)| *diff_id == lacking.diff_id).map(|(_, size)| *size))
        .collect();
    let largest = sizes.iter().max().copied().unwrap_or(0);
    sizes.into_iter().fold(largest, u64::saturating_add)
}

/// The disk room that the offered image would take, in bytes, if all that is missing came from the source.
pub(crate) fn room_for(images: &ImageStore, offer: &Offer) -> Result<u64, Explained> {
    let digest = &offer.spec.image_digest;
    if images.find(digest.as_str()).is_ok() {
        return Ok(0);
    }
    let fetch = images.fetch(digest, offer.image.config.as_bytes());
    let fetch = fetch.map_err(|error| failure("cannot use the image that is offered", &error))?;
    Ok(room(&fetch, &offer.image))
}

/// Sends the layers that are wanted of an image.
pub(crate) fn send(
    images: &ImageStore,
    digest: &Digest,
    wanted: &[WantedLayer],
    compression: Compression,
    given_up: &AtomicBool,
    out: StreamSender,
) -> Result<(), Explained> {
    let attempt = "cannot send the image";
    let failed = |error| failure(attempt, &error);
    let image = images.find(digest.as_str()).map_err(failed)?;
    let packer = zstd::bulk::Compressor::new(LEVEL).map_err(|error| failure(attempt, &error))?;
    let mut out = LayerWriter { out, packer, compression, given_up, piece: Vec::with_capacity(PIECE) };
    if let Some(what) = objection(wanted, &image.layers) {
        return Err(Explained { reason: format!("{attempt}: the target wants {what}"), hint: None });
    }
    for WantedLayer { diff_id, offset } in wanted {
        let written = images.write_layer(diff_id, *offset, &mut out);
        if given_up.load(Ordering::Relaxed) {
            // Whoever waits for the rest shall hear that there is none.
            let _ = out.out.finish();
            return Err(Explained { reason: format!("{attempt}: the move was given up"), hint: None });
        }
        written.map_err(failed)?;
        out.end_layer().map_err(|error| failure(attempt, &error))?;
    }
    out.out.finish().map_err(|error| failure(attempt, &error))
}

/// What a target may not want: what is no layer of the image, or one again.
fn objection(wanted: &[WantedLayer], layers: &[ImageLayer]) -> Option<String> {
    let mut seen = BTreeSet::new();
    wanted.iter().find_map(|WantedLayer { diff_id, .. }| {
        if layers.iter().all(|layer| layer.diff_id != *diff_id) {
            return Some(format!("layer {diff_id}, which is not one of its layers"));
        }
        (!seen.insert(diff_id)).then(|| format!("layer {diff_id} twice"))
    })
}

/// Receives what is missing, and makes the image visible; `sizes` are those of all tars, and none is longer. What has come of a layer that breaks off is kept for the next move.
pub(crate) fn receive(
    images: &ImageStore,
    mut fetch: Fetch,
    sizes: &[u64],
    spec: &ContainerSpec,
    input: ChannelReader,
) -> Result<(), Explained> {
    let attempt = "cannot receive the image";
    let mut input = BufReader::with_capacity(PIECE, input);
    while let Some(Lacking { diff_id, offset }) = fetch.lacking().into_iter().next() {
        let size = fetch.diff_ids().iter().position(|known| *known == diff_id).and_then(|at| sizes.get(at)).copied();
        let left = size.unwrap_or(0).saturating_sub(offset);
        let mut layer = LayerReader::new(&mut input, left).map_err(|error| failure(attempt, &error))?;
        images.receive(&mut fetch, &mut layer).map_err(|error| failure(attempt, &error))?;
    }
    finish(images, fetch, spec)
}

fn finish(images: &ImageStore, fetch: Fetch, spec: &ContainerSpec) -> Result<(), Explained> {
    // A name that was a digest says nothing more, and one that is another image's here stays that one's.
    let taken = images.find(&spec.image).is_ok_and(|image| image.digest != spec.image_digest);
    let named = spec.image.parse::<Digest>().is_err() && !taken;
    let names = named.then(|| spec.image.clone());
    let finished = images.finish(fetch, names.as_slice(), None, SystemTime::now());
    finished.map(drop).map_err(|error| failure("cannot keep the image", &error))
}

/// Cuts what is written into pieces.
struct LayerWriter<'a, W> {
    out: W,
    packer: zstd::bulk::Compressor<'static>,
    compression: Compression,
    /// Set when nobody wants the rest any more.
    given_up: &'a AtomicBool,
    piece: Vec<u8>,
}

impl<W: Outlet + Write> LayerWriter<'_, W> {
    fn end_layer(&mut self) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(&[0; 4])
    }

    fn packs(&self) -> bool {
        match self.compression {
            Compression::Auto => {
                let LinkRate { rate, waits } = self.out.rate();
                rate == 0 || (waits && rate < FAST)
            }
            Compression::Zstd => true,
            Compression::None | Compression::Lz4 => false,
        }
    }
}

impl<W: Outlet + Write> Write for LayerWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend(&bytes[..length]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let length = self.piece.len();
        let packed = if self.packs() { Some(self.packer.compress(&self.piece)?) } else { None };
        let payload = packed.filter(|packed| packed.len() < length).unwrap_or_else(|| std::mem::take(&mut self.piece));
        let lengths = [(length as u32).to_le_bytes(), (payload.len() as u32).to_le_bytes()].concat();
        self.piece.clear();
        self.out.write_all(&[lengths, payload].concat())
    }
}

/// Reads one layer as it crosses. One that breaks off is an error, never an end.
pub struct LayerReader<R> {
    input: R,
    unpacker: zstd::bulk::Decompressor<'static>,
    piece: io::Cursor<Vec<u8>>,
    ended: bool,
    /// How much more it may have.
    left: u64,
}

impl<R: Read> LayerReader<R> {
    /// Begins with a layer of so many bytes at most.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(input: R, most: u64) -> io::Result<Self> {
        let unpacker = zstd::bulk::Decompressor::new()?;
        Ok(Self { input, unpacker, piece: io::Cursor::default(), ended: false, left: most })
    }

    fn number(&mut self) -> io::Result<usize> {
        let mut number = [0; 4];
        self.input.read_exact(&mut number)?;
        Ok(u32::from_le_bytes(number) as usize)
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a piece of the layer makes no sense");
        let length = self.number()?;
        if length == 0 {
            self.ended = true;
            return Ok(());
        }
        let longer = || io::Error::new(io::ErrorKind::InvalidData, "the layer is longer than was offered");
        self.left = self.left.checked_sub(length as u64).ok_or_else(longer)?;
        let packed = self.number()?;
        if length > PIECE || packed > length {
            return Err(malformed());
        }
        let mut piece = vec![0; packed];
        self.input.read_exact(&mut piece)?;
        if packed < length {
            piece = self.unpacker.decompress(&piece, length)?;
        }
        if piece.len() != length {
            return Err(malformed());
        }
        self.piece = io::Cursor::new(piece);
        Ok(())
    }
}

impl<R: Read> Read for LayerReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = self.piece.read(buffer)?;
        while length == 0 && !self.ended && !buffer.is_empty() {
            self.next_piece()?;
            length = self.piece.read(buffer)?;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes as Piece;
    use drover_model::Bytes;

    use super::*;

    #[derive(Default)]
    struct Wire(Vec<u8>, LinkRate);

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Outlet for Wire {
        fn send(&mut self, piece: Piece) -> io::Result<()> {
            self.0.write_all(&piece)
        }

        fn rate(&self) -> LinkRate {
            self.1
        }
    }

    fn sent(compression: Compression, rate: LinkRate, layers: &[&[u8]]) -> Vec<u8> {
        let packer = zstd::bulk::Compressor::new(LEVEL).unwrap();
        let wire = Wire(Vec::new(), rate);
        let mut out =
            LayerWriter { out: wire, packer, compression, given_up: &AtomicBool::new(false), piece: Vec::new() };
        for layer in layers {
            out.write_all(layer).unwrap();
            out.end_layer().unwrap();
        }
        out.out.0
    }

    #[test]
    fn layers_arrive_one_after_the_other_packed_or_not() {
        let (text, noise) =
            (vec![b'a'; PIECE + 7], (0..99_999_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect::<Vec<_>>());
        let slow = LinkRate { rate: 1, waits: true };
        for (compression, rate, smaller) in [
            (Compression::None, slow, false),
            (Compression::Zstd, slow, true),
            (Compression::Auto, slow, true),
            (Compression::Auto, LinkRate { rate: u64::MAX, waits: true }, false),
        ] {
            let wire = sent(compression, rate, &[&text, &[], &noise]);
            assert_eq!(wire.len() < PIECE, smaller, "{compression:?}");
            let mut input = wire.as_slice();
            for layer in [&text[..], &[], &noise] {
                let mut read = Vec::new();
                LayerReader::new(&mut input, u64::MAX).unwrap().read_to_end(&mut read).unwrap();
                assert!(read == layer);
            }
            assert!(input.is_empty());
        }
    }

    #[test]
    fn a_target_gets_layers_of_the_image_alone_and_each_once() {
        let digest = |byte: u8| Digest::from_sha256([byte; 32]);
        let layer = |byte| ImageLayer { diff_id: digest(byte), size: Bytes(0), tar_size: Bytes(0) };
        let wanted = |bytes: &[u8]| -> Vec<WantedLayer> {
            bytes.iter().map(|byte| WantedLayer { diff_id: digest(*byte), offset: u64::MAX }).collect()
        };
        let layers = [layer(1), layer(2)];
        assert_eq!(objection(&wanted(&[2, 1]), &layers), None);
        assert!(objection(&wanted(&[1, 3]), &layers).unwrap().contains("not one of its layers"));
        assert!(objection(&wanted(&[1, 2, 1]), &layers).unwrap().ends_with("twice"));
    }

    #[test]
    fn a_layer_that_is_longer_than_was_offered_is_refused() {
        let wire = sent(Compression::Zstd, LinkRate::default(), &[&vec![0; PIECE + 1]]);
        let read = |most| LayerReader::new(wire.as_slice(), most).unwrap().read_to_end(&mut Vec::new());
        assert_eq!(read(PIECE as u64 + 1).unwrap(), PIECE + 1);
        assert_eq!(read(PIECE as u64).unwrap_err().to_string(), "the layer is longer than was offered");
    }

    #[test]
    fn a_layer_that_breaks_off_or_is_spoilt_is_an_error() {
        let wire = sent(Compression::Zstd, LinkRate::default(), &[&[7; 1000]]);
        for length in 0..wire.len() {
            let read = LayerReader::new(&wire[..length], u64::MAX).unwrap().read_to_end(&mut Vec::new());
            assert!(read.is_err(), "cut at {length}");
        }
        for bad in [[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0], [1, 0, 0, 0, 2, 0, 0, 0]] {
            let error = LayerReader::new(&bad[..], u64::MAX).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
