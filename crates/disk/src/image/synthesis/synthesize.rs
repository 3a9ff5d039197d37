//! An image is made of its base and an overlay, which anybody may have written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::time::SystemTime;

use drover_model::Digest;
use zstd::Decoder;

use super::base::Base;
use super::{MAGIC, Record, VERSION, WINDOW, array, damaged, read_record, unreadable, vector};
use crate::image::staging::Staging;
use crate::image::unpack::{Unpacked, unpack};
use crate::image::{Image, ImageError, ImageStore, LARGEST_CONFIG, config, names};

impl ImageStore {
    /// Makes an image of `base` and an overlay, called `name`, or as the overlay says. Its layers become visible when all
    /// of the overlay has been read.
    ///
    /// # Errors
    /// When the overlay is damaged, hostile or for another base, or the disk refuses; the store is as it was.
    pub fn synthesize(
        &self,
        base: &Image,
        name: Option<&str>,
        overlay: impl Read,
        now: SystemTime,
    ) -> Result<Image, ImageError> {
        name.map_or(Ok(()), names::check)?;
        let mut overlay = BufReader::new(overlay);
        check_head(&mut overlay, &base.digest)?;
        let below = Base::open(self, &base.digest)?;
        let mut decoder = Decoder::with_ref_prefix(overlay, &below.prefix).map_err(unreadable)?.single_frame();
        decoder.window_log_max(WINDOW).map_err(unreadable)?;
        let mut input = BufReader::new(decoder);
        let (said, config) = read_names(&mut input).map_err(unreadable)?;
        let name = name.unwrap_or(&said);
        names::check(name)?;

        let (mut held, mut made) = (Vec::new(), Vec::new());
        for diff_id in config::parse(&config)?.distinct_layers() {
            if below.has(&diff_id) {
                continue;
            }
            let here = self.layers.hold(&diff_id, &self.lock()?)?;
            let mut tar = Tar { records: &mut input, base: &below, piece: Piece::Bytes(VecDeque::new()), fault: None };
            match here {
                Some(here) => {
                    held.push(here);
                    tar.skip().map_err(unreadable)?;
                }
                None => made.push(self.make(&diff_id, &mut tar)?),
            }
        }
        // Its end is where its checksum is.
        if !input.fill_buf().map_err(unreadable)?.is_empty()
            || !input.into_inner().finish().fill_buf().map_err(unreadable)?.is_empty()
        {
            return Err(ImageError::Overlay { what: "something is behind its end", source: None });
        }
        for (staging, unpacked) in made {
            held.push(self.admit(staging, &unpacked)?);
        }
        held.extend(below.held);
        self.publish(&config, held, &[name.to_owned()], None, now)
    }

    fn make(&self, diff_id: &Digest, tar: &mut Tar<'_, impl Read>) -> Result<(Staging, Unpacked), ImageError> {
        let staging = self.stage()?;
        let unpacked = unpack(staging.path(), &mut *tar);
        if let Some(fault) = tar.fault.take() {
            return Err(unreadable(fault));
        }
        let unpacked = unpacked?;
        if unpacked.diff_id != *diff_id {
            return Err(ImageError::Different { expected: diff_id.clone(), found: unpacked.diff_id });
        }
        Ok((staging, unpacked))
    }
}

const NONE: &str = "it is none that `drover image overlay` has written";

/// What can be told without the base.
fn check_head(overlay: &mut impl Read, base: &Digest) -> Result<(), ImageError> {
    let not_one = |what| ImageError::Overlay { what, source: None };
    match array(overlay) {
        Ok(MAGIC) => {}
        Ok(_) => return Err(not_one(NONE)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(not_one(NONE)),
        Err(error) => return Err(unreadable(error)),
    }
    if array(overlay).map_err(unreadable)? != VERSION.to_le_bytes() {
        return Err(not_one("it has a version that is not known here"));
    }
    let digits: [u8; 64] = array(overlay).map_err(unreadable)?;
    let expected: Digest = format!("sha256:{}", String::from_utf8_lossy(&digits))
        .parse()
        .map_err(|_| not_one("it does not say for which base it is"))?;
    if expected == *base { Ok(()) } else { Err(ImageError::OtherBase { expected, found: base.clone() }) }
}

fn read_names(input: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let mut name = vec![0; u16::from_le_bytes(array(input)?).into()];
    input.read_exact(&mut name)?;
    let name = String::from_utf8(name).map_err(|_| damaged("its name is no text"))?;
    Ok((name, vector(input, LARGEST_CONFIG)?))
}

/// The tar of a layer, made of records.
struct Tar<'a, R> {
    records: &'a mut R,
    base: &'a Base,
    piece: Piece,
    /// Why it cannot go on: whoever unpacks it makes something else of that.
    fault: Option<io::Error>,
}

enum Piece {
    Bytes(VecDeque<u8>),
    File(io::Take<File>),
    End,
}

impl<R: Read> Tar<'_, R> {
    fn next(&mut self) -> io::Result<Piece> {
        let unknown = || damaged("it names a file that the base has not");
        Ok(match read_record(self.records)? {
            Record::Bytes(bytes) => Piece::Bytes(bytes.into()),
            Record::File(number) => {
                let (file, size) = self.base.file(number)?.ok_or_else(unknown)?;
                Piece::File(file.take(size))
            }
            Record::Patch { file, size, patch } => {
                let old = self.base.contents(file)?.ok_or_else(unknown)?;
                Piece::Bytes(apply(&old, size, &patch)?.into())
            }
            Record::End => Piece::End,
        })
    }

    /// Leaves the layer out.
    fn skip(&mut self) -> io::Result<()> {
        while read_record(self.records)? != Record::End {}
        Ok(())
    }

    fn pass(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.piece {
                Piece::Bytes(bytes) => bytes.read(buffer)?,
                Piece::File(file) => match file.read(buffer)? {
                    0 if file.limit() > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => read,
                },
                Piece::End => return Ok(0),
            };
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.piece = self.next()?;
        }
    }
}

impl<R: Read> Read for Tar<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pass(buffer).map_err(|error| {
            let kind = error.kind();
            self.fault = Some(error);
            kind.into()
        })
    }
}

fn apply(old: &[u8], size: u32, patch: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::with_ref_prefix(patch, old)?;
    decoder.window_log_max(WINDOW)?;
    let mut new = Vec::new();
    decoder.take(u64::from(size) + 1).read_to_end(&mut new)?;
    if new.len() == size as usize { Ok(new) } else { Err(damaged("a patch gives another length than it says")) }
}
