//! Pages that arrive: packed blocks, streams of rounds, streams that follow, the index, wishes.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use drover_disk::decompress;
use drover_memory::{Inflow, Room, Stored, answer, cut, receive, store};
use drover_packing::{Algorithm, Unpacker};

use crate::ground::Ground;

const PAGE: usize = 4096;
/// The most that is read of what may unpack without end, in bytes.
const MOST: u64 = 16 << 20;
/// The longest piece of pages that follow: head and 16 pages.
const LONGEST_PIECE: usize = 20 + 16 * PAGE;

/// One packed block; the first bytes say by what it is packed and how long it shall become.
pub fn packing(bytes: &[u8]) -> bool {
    let Some(([algorithm, a, b, c], packed)) = bytes.split_first_chunk() else { return false };
    let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize % (256 << 10);
    let mut into = vec![0; length];
    let unpacked = Algorithm::from_wire(*algorithm).is_some_and(|algorithm| {
        Unpacker::new().expect("memory for an unpacker").unpack(algorithm, packed, &mut into).is_ok()
    });
    let stream = decompress(packed).is_ok_and(|unpacked| {
        let read = unpacked.take(MOST).read_to_end(&mut Vec::new());
        read.is_ok_and(|length| length > 0)
    });
    unpacked | stream
}

/// A page stream, taken in by each of its three readers. The first byte says in what pieces it comes.
pub fn page_stream(bytes: &[u8]) -> bool {
    let Some((first, stream)) = bytes.split_first() else { return false };
    let pieces: Vec<Bytes> = stream.chunks(1 + usize::from(*first) * 97).map(Bytes::copy_from_slice).collect();
    let ground = Ground::new();
    let (rounds, images) = (ground.inside(), ground.aside());
    let arrived = store(&rounds, &mut Inflow::new(pieces.into_iter()), Room::default(), || ());
    if arrived.is_ok() {
        let stored = Stored::open(&rounds).expect("what was stored can be opened").expect("it is there");
        drop(stored);
    }
    let received = receive(&images, stream, Room::default());
    let files = fs::read_dir(&images).expect("a directory").map(|entry| entry.expect("an entry").path());
    for file in files {
        let length = file.metadata().expect("it is there").size();
        // Pages come as they are, and an entry of a map is longer on the wire than in the image, but for its head.
        assert!(length <= 3 * stream.len() as u64 + 64, "{} has {length} bytes", file.display());
        fs::remove_file(file).expect("a file");
    }
    let mut longest = 0;
    let mut handed_on = 0;
    let followed = cut(stream, |piece| {
        longest = longest.max(piece.len());
        handed_on += piece.len();
        // A run of zeros says much in a few bytes: nobody takes in as much as that.
        if handed_on as u64 > MOST { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    });
    assert!(longest <= LONGEST_PIECE, "a piece of {longest} bytes");
    ground.check();
    arrived.is_ok() | received.is_ok() | followed.is_ok()
}

/// An index of four pages; and wishes, answered by this very process, which has nothing at most addresses.
pub fn page_index(bytes: &[u8]) -> bool {
    let ground = Ground::new();
    let directory = ground.inside();
    fs::write(directory.join("pages"), [7; 4 * PAGE]).expect("a new file");
    fs::write(directory.join("index"), bytes).expect("a new file");
    let opened = Stored::open(&directory);
    ground.check();
    let mut answers = Vec::new();
    let answered = answer(&[std::process::id()], bytes, &mut answers);
    // For each wish of 20 bytes 16 pages at most, each with its head.
    assert!(answers.len() <= 32 + bytes.len() / 20 * 16 * (PAGE + 32), "{} bytes of answers", answers.len());
    opened.is_ok() | answered.is_ok()
}
