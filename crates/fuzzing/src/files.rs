//! Trees that arrive, and what a target says it has of them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use drover_disk::delta::{Place, hear, receive};
use drover_disk::layer;

use crate::ground::{Ground, LINK};

/// A tree in one piece, put where it leads out by a link already. What was taken comes back when it is packed.
pub fn layer_stream(bytes: &[u8]) -> bool {
    let ground = Ground::new();
    let taken = layer::apply(&ground.inside(), &mut &bytes[..]);
    if let Ok(summary) = &taken {
        // The link was there before; if the stream has an entry of its name, that took its place.
        let link = ground.inside().join(LINK);
        if fs::read_link(&link).is_ok_and(|target| target.as_os_str() == "../outside") {
            fs::remove_file(link).expect("a link");
        }
        if let Ok(packed) = layer::pack(&ground.inside(), &mut io::sink()) {
            assert!(packed.entries <= summary.entries, "{} entries became {}", summary.entries, packed.entries);
        }
    }
    ground.check();
    taken.is_ok()
}

/// What may be written of a stream, in bytes.
const MOST: u64 = 32 << 20;

/// Trees in rounds: two of them, one of which is in memory, and a layer of the image that both nodes have.
pub fn delta_stream(bytes: &[u8]) -> bool {
    let ground = Ground::new();
    let top = ground.inside();
    for name in ["upper", "aside", "shm", "base"] {
        fs::create_dir(top.join(name)).expect("a new directory");
    }
    std::os::unix::fs::symlink("../../outside", top.join("upper").join(LINK)).expect("a new link");
    std::os::unix::fs::symlink("../../outside", top.join("base").join(LINK)).expect("a new link");
    fs::write(top.join("base/file"), [7; 100_000]).expect("a new file");
    fs::write(top.join("upper/file"), [9; 10_000]).expect("a new file");
    let places = [
        Place { path: top.join("upper"), aside: Some(top.join("aside")) },
        Place { path: top.join("shm"), aside: None },
    ];
    let (mut rounds, mut left) = (0, MOST);
    let room = |_: &Place, bytes: u64| {
        left = left.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    };
    let taken = receive(&places, || vec![top.join("base")], bytes, room, || rounds += 1);
    let base = fs::read(top.join("base/file")).expect("it is there");
    assert!(base == [7; 100_000], "a layer of the image has changed");
    let written = used(&top.join("upper")) + used(&top.join("shm"));
    assert!(written <= MOST + (1 << 20), "{written} bytes were written");
    ground.check();
    taken.is_ok()
}

/// What the files of a tree take, as far as it can be walked by plain paths.
fn used(directory: &Path) -> u64 {
    const BLOCK: u64 = 512;
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| {
        let Ok(metadata) = entry.metadata() else { return 0 };
        metadata.blocks() * BLOCK + if metadata.is_dir() { used(&entry.path()) } else { 0 }
    };
    entries.map(size).sum()
}

/// What a target says it has.
pub fn having(bytes: &[u8]) -> bool {
    hear(bytes).is_ok()
}
