//! Hostile streams, made by hand.

use std::io::Write;
use std::path::Path;

use super::format::{
    Attributes, END, Kind, MAGIC, VERSION, write_attributes, write_bytes16, write_bytes32, write_entry,
};
use super::hash::HashingWriter;
use super::path::TreePath;
use super::{LayerError, apply, pack};

/// A stream under construction; correct in what the test does not break.
struct Stream {
    out: HashingWriter<Vec<u8>>,
    entries: u64,
}

impl Stream {
    fn new() -> Self {
        let mut out = HashingWriter::new(Vec::new());
        out.write_all(&MAGIC).unwrap();
        out.write_all(&VERSION.to_le_bytes()).unwrap();
        Self { out, entries: 0 }.entry(Kind::Directory, b"", b"")
    }

    fn entry(self, kind: Kind, path: &[u8], body: &[u8]) -> Self {
        let path = TreePath::parse(path.to_vec()).unwrap();
        self.raw(|out| {
            write_entry(out, kind, &path).unwrap();
            if kind != Kind::Hardlink {
                // A symbolic link has this mode whatever is asked for.
                let mode = if kind == Kind::Symlink { 0o777 } else { 0o755 };
                write_attributes(out, &Attributes { mode, ..Attributes::default() }).unwrap();
            }
            out.write_all(body).unwrap();
        })
    }

    fn raw(mut self, write: impl FnOnce(&mut HashingWriter<Vec<u8>>)) -> Self {
        write(&mut self.out);
        self.entries += 1;
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.out.write_all(&[END]).unwrap();
        self.out.write_all(&self.entries.to_le_bytes()).unwrap();
        let digest = self.out.digest();
        let mut bytes = Vec::new();
        std::mem::swap(self.out.inner_mut(), &mut bytes);
        bytes.extend(digest);
        bytes
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    write_bytes16(&mut body, bytes).unwrap();
    body
}

/// The body of a file: pieces of data at offsets.
fn file(size: u64, pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let mut body = size.to_le_bytes().to_vec();
    for (offset, data) in pieces {
        body.extend(offset.to_le_bytes());
        write_bytes32(&mut body, data).unwrap();
    }
    body.extend(size.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    body
}

fn apply_fresh(stream: &[u8]) -> Result<(), LayerError> {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let result = apply(&inside, &mut &stream[..]).map(|_| ());
    assert_eq!(names(directory.path()), ["inside"], "nothing lands outside");
    result
}

fn names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_stream_made_by_hand_is_what_pack_makes() {
    let stream = Stream::new()
        .entry(Kind::Directory, b"d", b"")
        .entry(Kind::File, b"d/f", &file(5, &[(0, b"hello")]))
        .entry(Kind::Hardlink, b"d/g", &text(b"d/f"))
        .entry(Kind::Symlink, b"l", &text(b"/nowhere"))
        .end();
    let directory = tempfile::tempdir().unwrap();
    let applied = apply(directory.path(), &mut stream.as_slice()).unwrap();
    assert_eq!((applied.entries, applied.bytes), (5, 5));
    assert_eq!(std::fs::read(directory.path().join("d/g")).unwrap(), b"hello");
    let mut again = Vec::new();
    let packed = pack(directory.path(), &mut again).unwrap();
    assert_eq!(packed, applied);
    assert!(again == stream);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let stream = Stream::new().entry(Kind::File, b"f", &file(3, &[(0, b"abc")])).end();
    for length in 0..stream.len() {
        assert!(apply_fresh(&stream[..length]).is_err(), "cut at {length}");
    }
    for bit in 0..stream.len() * 8 {
        let mut flipped = stream.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(apply_fresh(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_link_planted_earlier_is_never_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = text(outside.path().to_str().unwrap().as_bytes());
    let below_link = Stream::new().entry(Kind::Symlink, b"l", &target).entry(Kind::File, b"l/f", &file(0, &[])).end();
    assert!(apply_fresh(&below_link).is_err());
    let through_link =
        Stream::new().entry(Kind::Symlink, b"a", &target).entry(Kind::Hardlink, b"b", &text(b"a/f")).end();
    std::fs::write(outside.path().join("f"), "").unwrap();
    assert!(apply_fresh(&through_link).is_err());
    std::fs::remove_file(outside.path().join("f")).unwrap();

    // A link that was there before the stream came.
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), directory.path().join("d")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("new"), directory.path().join("f")).unwrap();
    let into = Stream::new().entry(Kind::Directory, b"d", b"").entry(Kind::File, b"d/x", &file(0, &[])).end();
    assert!(apply(directory.path(), &mut into.as_slice()).is_err());
    let onto = Stream::new().entry(Kind::File, b"f", &file(1, &[(0, b"x")])).end();
    apply(directory.path(), &mut onto.as_slice()).unwrap();
    assert!(directory.path().join("f").symlink_metadata().unwrap().is_file(), "replaced, not written through");
    assert_eq!(names(outside.path()), [""; 0]);
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for bad in [&b"../f"[..], b"/f", b"a/../f", b"a//f", b".", b"a\0b", &[b'n'; 256], &[b'x'; 5000]] {
        let stream = Stream::new().raw(|out| {
            out.write_all(&[1, Kind::Fifo as u8]).unwrap();
            write_bytes16(out, bad).unwrap();
            write_attributes(out, &Attributes::default()).unwrap();
        });
        assert!(matches!(apply_fresh(&stream.end()), Err(LayerError::Malformed(_))), "{bad:?}");
    }
}

#[test]
fn disorder_duplicates_and_orphans_are_refused() {
    let fifo = |stream: Stream, path: &[u8]| stream.entry(Kind::Fifo, path, b"");
    for pair in [[&b"b"[..], &b"a"[..]], [b"a", b"a"], [b"a", b"a/b"], [b"a", b"x/b"], [b"a", b""]] {
        let stream = fifo(fifo(Stream::new(), pair[0]), pair[1]).end();
        assert!(matches!(apply_fresh(&stream), Err(LayerError::Malformed(_))), "{pair:?}");
    }
    for link in [&b"b"[..], b"c", b"", b"missing"] {
        let stream = Stream::new().entry(Kind::Hardlink, b"b", &text(link)).end();
        assert!(apply_fresh(&stream).is_err(), "{link:?}");
    }
}

#[test]
fn lengths_beyond_their_bounds_are_refused_before_memory_is_taken() {
    let huge = u64::MAX / 2;
    let far: &[(u64, &[u8])] = &[(7, b"abc")];
    let backwards: &[(u64, &[u8])] = &[(4, b"abc"), (5, b"abc")];
    for body in [file(huge, &[]), file(8, far), file(100, backwards)] {
        assert!(apply_fresh(&Stream::new().entry(Kind::File, b"f", &body).end()).is_err());
    }
    let mut endless = 1u64.to_le_bytes().to_vec();
    endless.extend(0u64.to_le_bytes());
    endless.extend(u32::MAX.to_le_bytes());
    assert!(apply_fresh(&Stream::new().entry(Kind::File, b"f", &endless).end()).is_err());
    let xattr = Stream::new().raw(|out| {
        write_entry(out, Kind::Fifo, &TreePath::parse(b"f".to_vec()).unwrap()).unwrap();
        let mut bytes = Vec::new();
        write_attributes(&mut bytes, &Attributes::default()).unwrap();
        bytes.truncate(bytes.len() - 2);
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(text(b"user.x"));
        bytes.extend(u32::MAX.to_le_bytes());
        out.write_all(&bytes).unwrap();
    });
    assert!(matches!(apply_fresh(&xattr.end()), Err(LayerError::Malformed(_))));
}
