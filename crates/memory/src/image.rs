//! From a page stream to the images that CRIU's restore reads: `pagemap-*.img` and `pages-N.img`.
//!
//! Source of the format: CRIU's `images/pagemap.proto` and `criu/magic.h`. An image is two magic numbers and then
//! messages, each behind its length; a pages file is the bare content in the order of the map.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use drover_model::PageCount;
use prost::Message;

use crate::record::{Object, PRESENT, Record};
use crate::room::{Room, RoomError};
use crate::store::{NAMED, PROCESSES};
use crate::stream::{StreamError, StreamReader};

/// Why the images could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The stream.
    #[error("cannot receive pages")]
    Stream(#[from] StreamError),
    /// The images.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
    /// The machine.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// Two objects of one name, which only a hostile peer sends.
    #[error("cannot receive pages: {0:?} came twice")]
    Twice(Object),
}

const IMAGE_MAGIC: u32 = 0x5456_4319;
const PAGEMAP_MAGIC: u32 = 0x5608_4025;
/// How much is copied at once, in bytes.
const GULP: usize = 1 << 20;

#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    #[prost(uint32, required, tag = "1")]
    pages_id: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(uint64, required, tag = "1")]
    address: u64,
    /// Unused since CRIU 4.2, but required.
    #[prost(uint32, required, tag = "2")]
    old_pages: u32,
    #[prost(uint32, optional, tag = "4")]
    flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pages: Option<u64>,
}

struct Image {
    map_path: PathBuf,
    map: Vec<u8>,
    pages_path: PathBuf,
    pages: File,
}

impl Image {
    fn create(directory: &Path, object: Object, number: u32) -> Result<Self, ImageError> {
        let name = match object {
            Object::Process(id) => format!("pagemap-{id}.img"),
            Object::Shared(id) => format!("pagemap-shmem-{id}.img"),
        };
        let pages_path = directory.join(format!("pages-{number}.img"));
        let pages = create(&pages_path)?;
        let mut map = [IMAGE_MAGIC.to_le_bytes(), PAGEMAP_MAGIC.to_le_bytes()].concat();
        append(&mut map, &Head { pages_id: number });
        Ok(Self { map_path: directory.join(name), map, pages_path, pages })
    }

    /// A page in the images is not to be brought by somebody else later: the flag that says so is left out.
    fn run(&mut self, flags: u32, address: u64, pages: u32) {
        const LAZY: u32 = 2;
        let flags = flags & !LAZY;
        let entry = Entry { address, old_pages: 0, flags: Some(flags), pages: Some(u64::from(pages)) };
        append(&mut self.map, &entry);
    }

    fn finish(self) -> Result<(), ImageError> {
        let mut file = create(&self.map_path)?;
        file.write_all(&self.map).map_err(|error| ImageError::Write(self.map_path, error))
    }
}

fn create(path: &Path) -> Result<File, ImageError> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.map_err(|error| ImageError::Write(path.to_owned(), error))
}

fn append(map: &mut Vec<u8>, message: &impl Message) {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).expect("an entry of a few bytes");
    map.extend(length.to_le_bytes());
    map.extend(encoded);
}

/// Receives a page stream into `directory`. Gives the number of pages with content.
///
/// # Errors
/// When the stream breaks or makes no sense, or the disk refuses.
pub fn receive(directory: &Path, input: impl Read, mut room: Room) -> Result<PageCount, ImageError> {
    let mut stream = StreamReader::new(input)?;
    let mut buffer = vec![0; GULP];
    let mut seen = BTreeSet::new();
    let mut image: Option<Image> = None;
    let mut total = 0;
    let mut named = 0;
    loop {
        match stream.record()? {
            Record::Object(object) => {
                if !seen.insert(object) {
                    return Err(ImageError::Twice(object));
                }
                if seen.len() > PROCESSES {
                    return Err(StreamError::Nonsense("too many processes").into());
                }
                if let Some(done) = image.take() {
                    done.finish()?;
                }
                let number = u32::try_from(seen.len()).unwrap_or(u32::MAX);
                image = Some(Image::create(directory, object, number)?);
            }
            Record::Run { flags, address, pages } => {
                let image = image.as_mut().ok_or(StreamError::Nonsense("pages of nothing"))?;
                named += 1;
                if named > NAMED {
                    return Err(StreamError::Nonsense("too many pages that are only named").into());
                }
                image.run(flags, address, pages);
                if flags & PRESENT != 0 {
                    let bytes = u64::from(pages) * PageCount::PAGE;
                    total += u64::from(pages);
                    room.hold(PageCount(total).bytes().0)?;
                    copy(stream.content(), image, bytes, &mut buffer, &mut room)?;
                }
            }
            Record::Description(_) => return Err(StreamError::Nonsense("a description among images").into()),
            Record::Mark => return Err(StreamError::Nonsense("a round in CRIU's pages").into()),
            Record::Block { .. } => return Err(StreamError::Nonsense("a block in a dump").into()),
            Record::End => {
                if let Some(done) = image.take() {
                    done.finish()?;
                }
                return Ok(PageCount(total));
            }
        }
    }
}

fn copy(
    input: &mut impl Read,
    image: &mut Image,
    mut bytes: u64,
    buffer: &mut [u8],
    room: &mut Room,
) -> Result<(), ImageError> {
    while bytes > 0 {
        let most = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
        room.take(most as u64)?;
        input.read_exact(&mut buffer[..most]).map_err(StreamError::Io)?;
        let written = image.pages.write_all(&buffer[..most]);
        written.map_err(|error| ImageError::Write(image.pages_path.clone(), error))?;
        bytes -= most as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::StreamWriter;

    #[test]
    fn a_stream_becomes_a_map_and_its_pages() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes).unwrap();
        writer.object(Object::Process(3)).unwrap();
        writer.run(PRESENT, 0x4000, 1).unwrap();
        writer.content().write_all(&[9; 4096]).unwrap();
        writer.end().unwrap();
        assert_eq!(receive(directory.path(), &bytes[..], Room::default()).unwrap(), PageCount(1));

        assert_eq!(std::fs::read(directory.path().join("pages-1.img")).unwrap(), [9; 4096]);
        let map = std::fs::read(directory.path().join("pagemap-3.img")).unwrap();
        assert_eq!(map[..8], [0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56]);
        assert_eq!(map[8..12], [2, 0, 0, 0], "the head's length");
        let entry = Entry::decode(&map[18..]).unwrap();
        assert_eq!(entry, Entry { address: 0x4000, old_pages: 0, flags: Some(4), pages: Some(1) });
    }

    #[test]
    fn an_object_that_comes_twice_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes).unwrap();
        writer.object(Object::Process(3)).unwrap();
        writer.object(Object::Process(3)).unwrap();
        writer.end().unwrap();
        assert!(matches!(receive(directory.path(), &bytes[..], Room::default()), Err(ImageError::Twice(_))));
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes).unwrap();
        writer.object(Object::Process(3)).unwrap();
        writer.run(PRESENT, 0x4000, 2).unwrap();
        writer.content().write_all(&[9; 4096]).unwrap();
        assert!(matches!(receive(directory.path(), &bytes[..], Room::default()), Err(ImageError::Stream(_))));
    }
}
