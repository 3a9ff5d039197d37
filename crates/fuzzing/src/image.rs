//! Images from anywhere: manifests, tars, archives, overlays.

use std::cell::RefCell;
use std::io::Read;
use std::time::{Duration, SystemTime};

use drover_disk::{Choice, Image, ImageStore};
use drover_model::Digest;
use drover_registry::{Challenge, Document, Reference};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::ground::Ground;

/// What is called by its digest.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// The configuration of an image of these layers.
pub fn config_of(layers: &[Digest]) -> Vec<u8> {
    let config = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": layers } });
    serde_json::to_vec(&config).expect("a configuration can be written")
}

/// The store that a thread uses again and again, and the image that is in it: to make one takes longer than to read most
/// inputs.
struct Shelf {
    store: ImageStore,
    base: Image,
    // Last: it takes the others with it.
    ground: Ground,
}

thread_local! {
    static SHELF: RefCell<Option<Shelf>> = const { RefCell::new(None) };
}

/// A moment like any other.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

impl Shelf {
    fn new(base: &[u8]) -> Self {
        let ground = Ground::new();
        let store = ImageStore::open(&ground.inside().join("store")).expect("a new store");
        let base = store.import("base", &Choice::default(), base, now()).expect("an image");
        Self { store, base, ground }
    }
}

/// Does something with the store, and looks that nothing but its images has changed.
fn with_store(work: impl FnOnce(&ImageStore, &Image) -> bool) -> bool {
    SHELF.with_borrow_mut(|shelf| {
        let Shelf { store, base, ground } = shelf.take().unwrap_or_else(|| Shelf::new(BASE));
        let taken = work(&store, &base);
        let staging = std::fs::read_dir(ground.inside().join("store/staging")).expect("a directory").count();
        assert_eq!(staging, 0, "something unfinished was left");
        if taken {
            // Begin anew: others may have what came in common.
            drop((store, base));
            ground.check();
        } else {
            ground.look();
            *shelf = Some(Shelf { store, base, ground });
        }
        taken
    })
}

/// The tar of the base: an overlay names its files by number.
pub const BASE: &[u8] = include_bytes!("base.tar");

/// The configuration of an image, the manifest or index that names it, and the challenge of whoever has it.
pub fn manifest(bytes: &[u8]) -> bool {
    let document = Document::parse(bytes, "linux/amd64");
    if let Ok(Document::Manifest(manifest)) = &document {
        let again = Document::parse(&manifest.to_json(), "linux/amd64");
        assert_eq!(again.as_ref(), Ok(&Document::Manifest(manifest.clone())));
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let challenge = Challenge::parse(text);
    if let Some(url) = challenge.as_ref().and_then(Challenge::token_url) {
        assert!(url.len() <= 16 + 4 * text.len(), "a URL of {} bytes", url.len());
    }
    let reference = text.parse::<Reference>().is_ok_and(|reference| {
        assert!(!reference.repository.contains("..") && !reference.address().contains('/'));
        true
    });
    let config = with_store(|store, _| {
        let fetch = store.fetch(&digest_of(bytes), bytes);
        fetch.is_ok_and(|fetch| !fetch.diff_ids().is_empty())
    });
    document.is_ok() | challenge.is_some() | reference | config
}

/// A layer's tar as it comes from a peer, which is written again byte for byte if it was taken; and the same bytes as an
/// image that somebody imports.
pub fn tar(bytes: &[u8]) -> bool {
    with_store(|store, _| {
        let diff_id = digest_of(bytes);
        let config = config_of(std::slice::from_ref(&diff_id));
        let mut fetch = store.fetch(&digest_of(&config), &config).expect("a configuration");
        let taken = store.receive(&mut fetch, bytes).is_ok();
        if taken {
            let image = store.finish(fetch, &["it".into()], None, now()).expect("all layers are here");
            let mut written = Vec::new();
            store.write_layer(&image.layers[0].diff_id, 0, &mut written).expect("the same tar");
            assert!(written == bytes, "it is written as another one");
        } else {
            drop(fetch);
        }
        taken | store.import("imported", &Choice::default(), bytes, now()).is_ok()
    })
}

/// An overlay of the base. Its head is known to everybody; the input stands behind that.
pub fn overlay(bytes: &[u8]) -> bool {
    with_store(|store, base| {
        let head = [&b"DRVOVERL"[..], &1_u32.to_le_bytes(), base.digest.hex().as_bytes()].concat();
        // As a frame of its own, and as what such a frame holds.
        let packed = plain_frame(bytes);
        let framed = store.synthesize(base, None, head.as_slice().chain(packed.as_slice()), now());
        let raw = store.synthesize(base, None, head.as_slice().chain(bytes), now());
        framed.is_ok() | raw.is_ok()
    })
}

/// A frame of Zstandard with the content as it is (RFC 8878, section 3.1.1): no header of a dictionary, no checksum.
fn plain_frame(content: &[u8]) -> Vec<u8> {
    const LARGEST_BLOCK: usize = 128 << 10;
    // A window of 128 KiB, and no length of the content.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
    let mut blocks = content.chunks(LARGEST_BLOCK).peekable();
    if blocks.peek().is_none() {
        frame.extend([1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let head = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
        frame.extend(&head.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}
