//! Overlays of images: the image that is made again is the same, and whatever else one says is refused. Needs root;
//! passes vacuously without it.

mod tars;

use std::io::Read;
use std::path::Path;

use drover_disk::{Difference, Image, ImageError, ImageStore};
use proptest::prelude::*;
use tars::{Layout, Tar, count, import, is_root, now, store};
use tempfile::TempDir;

/// Bytes that nothing can pack, always the same for a seed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn image_of(store: &ImageStore, name: &str, layers: &[Vec<u8>]) -> Image {
    import(store, name, &Layout::new().image("latest", drover_disk::architecture(), "/x", layers).end()).unwrap()
}

fn overlay_of(store: &ImageStore, base: &Image, image: &Image) -> (Vec<u8>, Difference) {
    let (mut file, difference) = store.overlay(base, image, "web:1", 3).unwrap();
    let mut overlay = Vec::new();
    file.read_to_end(&mut overlay).unwrap();
    assert_eq!(difference.length.0, overlay.len() as u64);
    (overlay, difference)
}

/// A store with an image alone, as a node has it that is to make another one of it.
fn store_with(name: &str, layers: &[Vec<u8>]) -> (TempDir, ImageStore, Image) {
    let (directory, store) = store();
    let base = image_of(&store, name, layers);
    (directory, store, base)
}

/// What a store shows and what it keeps.
fn contents(directory: &Path, store: &ImageStore) -> (Vec<Image>, [usize; 3]) {
    (store.list().unwrap(), ["staging", "layers/sha256", "partial"].map(|name| count(directory, name)))
}

#[test]
fn an_image_is_made_again_of_its_base_and_an_overlay_alone() {
    if !is_root() {
        return;
    }
    let program = noise(1, 300_000);
    let patched = [&program[..100_000], b"a change", &program[100_000..]].concat();
    let base = Tar::new()
        .directory("lib")
        .file("lib/libweb.so.1.2", &program)
        .file("lib/gone", &noise(2, 9_000))
        .file("etc/moved", &noise(3, 70_000))
        .end();
    let above = Tar::new()
        .file("lib/libweb.so.1.3", &patched)
        .file("lib/.wh.gone", b"")
        .file("srv/moved-here", &noise(3, 70_000))
        .file("srv/new", &noise(4, 5_000))
        .file("srv/empty", b"")
        .end();
    let (_directory, here, old) = store_with("base", std::slice::from_ref(&base));
    let new = image_of(&here, "web", &[base.clone(), above]);
    let (overlay, difference) = overlay_of(&here, &old, &new);
    assert_eq!((difference.layers, difference.reused), (1, 1));
    let share = |share: drover_disk::Share| (share.files, share.bytes);
    assert_eq!(share(difference.referenced), (1, 70_000));
    assert_eq!(share(difference.patched), (1, patched.len() as u64));
    assert_eq!(share(difference.added), (1, 5_000));
    assert!((5_000..7_000).contains(&overlay.len()), "{}", overlay.len());

    let (directory, there, old) = store_with("other", &[base]);
    let made = there.synthesize(&old, None, overlay.as_slice(), now()).unwrap();
    assert_eq!((&made.digest, &made.layers), (&new.digest, &new.layers));
    assert_eq!(made.names, ["web:1"]);
    assert_eq!(there.config(&made.digest).unwrap(), here.config(&new.digest).unwrap());
    // Once more, under another name, with nothing to make.
    let again = there.synthesize(&old, Some("mine"), overlay.as_slice(), now()).unwrap();
    assert_eq!(again.names, ["mine", "web:1"]);
    assert_eq!(contents(directory.path(), &there).1, [0, 2, 0]);
}

#[test]
fn an_image_without_a_layer_in_common_shares_files_all_the_same() {
    if !is_root() {
        return;
    }
    let tree = |tar: Tar| (0..200).fold(tar, |tar, n| tar.file(&format!("usr/share/{n}"), &noise(n, 3_000)));
    let (base, image) = (tree(Tar::new()).end(), tree(Tar::new()).file("usr/share/web", &noise(201, 3_000)).end());
    let (_directory, here, old) = store_with("base", std::slice::from_ref(&base));
    let new = image_of(&here, "web", &[image]);
    let (overlay, difference) = overlay_of(&here, &old, &new);
    assert_eq!((difference.layers, difference.referenced.files, difference.added.files), (1, 200, 1));
    // 200 headers cost next to nothing.
    assert!(overlay.len() < 4_000, "{}", overlay.len());
    let (_directory, there, old) = store_with("base", &[base]);
    assert_eq!(there.synthesize(&old, None, overlay.as_slice(), now()).unwrap().digest, new.digest);
}

#[test]
fn an_overlay_for_another_base_is_refused_with_both_ids() {
    if !is_root() {
        return;
    }
    let (_directory, here, old) = store_with("base", &[Tar::new().file("a", b"one").end()]);
    let (overlay, _) = overlay_of(&here, &old, &old);
    let (directory, there, other) = store_with("base", &[Tar::new().file("a", b"two").end()]);
    let before = contents(directory.path(), &there);
    match there.synthesize(&other, None, overlay.as_slice(), now()) {
        Err(ImageError::OtherBase { expected, found }) => assert_eq!((expected, found), (old.digest, other.digest)),
        result => panic!("{result:?}"),
    }
    assert_eq!(contents(directory.path(), &there), before);
}

#[test]
fn a_damaged_overlay_is_refused_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let base = Tar::new().file("lib/a.so.1", &noise(1, 20_000)).file("b", &noise(2, 400)).end();
    let patched = [&noise(1, 20_000)[..], b"more"].concat();
    let above = [Tar::new().file("lib/a.so.2", &patched).end(), Tar::new().file("c", &noise(2, 400)).end()];
    let (_directory, here, old) = store_with("base", std::slice::from_ref(&base));
    let new = image_of(&here, "web", &[std::slice::from_ref(&base), &above[..]].concat());
    let (overlay, difference) = overlay_of(&here, &old, &new);
    assert_eq!((difference.patched.files, difference.referenced.files), (1, 1));
    let (directory, there, old) = store_with("base", &[base]);
    let before = contents(directory.path(), &there);
    let refused = |bad: &[u8], what: &dyn Fn() -> String| {
        assert!(there.synthesize(&old, None, bad, now()).is_err(), "{}", what());
        assert_eq!(contents(directory.path(), &there), before, "{}", what());
    };
    for length in (0..overlay.len()).step_by(1 + overlay.len() / 60) {
        refused(&overlay[..length], &|| format!("cut off at {length}"));
    }
    for at in (0..overlay.len()).step_by(1 + overlay.len() / 120) {
        let mut flipped = overlay.clone();
        flipped[at] ^= 1 << (at % 8);
        match there.synthesize(&old, None, flipped.as_slice(), now()) {
            Err(_) => {}
            // A bit may turn a reference into one to the same bytes elsewhere.
            Ok(made) => {
                assert_eq!(
                    (&made.digest, &made.names[..]),
                    (&new.digest, &["web:1".to_owned()][..]),
                    "flipped at {at}"
                );
                there.remove("web:1", |_| false).unwrap();
            }
        }
        assert_eq!(contents(directory.path(), &there), before, "flipped at {at}");
    }
    refused(&[&overlay[..], b"x"].concat(), &|| "something behind it".into());
    refused(b"DRVOVERL\x02\0\0\0", &|| "a later version".into());
    assert_eq!(there.synthesize(&old, None, overlay.as_slice(), now()).unwrap().digest, new.digest);
    for no_overlay in [&b""[..], b"short", &noise(5, 400)] {
        let error = there.synthesize(&old, None, no_overlay, now()).unwrap_err();
        assert!(error.to_string().contains("none that `drover image overlay` has written"), "{error}");
    }
}

/// A head and a frame as they should be, and in it what nobody should write.
fn forged(base: &Image, body: &[u8]) -> Vec<u8> {
    let frame = zstd::encode_all(body, 1).unwrap();
    [&b"DRVOVERL\x01\0\0\0"[..], base.digest.hex().as_bytes(), &frame].concat()
}

#[test]
fn hostile_records_are_refused_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let layer = Tar::new().file("a", b"x").end();
    let (directory, there, base) = store_with("base", &[Tar::new().file("b", &noise(1, 3_000)).end()]);
    let before = contents(directory.path(), &there);
    let config = tars::config(std::slice::from_ref(&layer), "/x");
    let names = |name: &[u8], config: &[u8]| {
        let lengths = ((name.len() as u16).to_le_bytes(), (config.len() as u32).to_le_bytes());
        [&lengths.0[..], name, &lengths.1, config].concat()
    };
    let good = |records: &[u8]| [&names(b"web", &config)[..], records].concat();
    let bytes = [&[1][..], &(layer.len() as u32).to_le_bytes(), &layer].concat();
    let whole = good(&[&bytes[..], &[0]].concat());
    let bomb = zstd::encode_all(&vec![0; 4 << 20][..], 1).unwrap();
    let patch = |file: u32, size: u32, patch: &[u8]| {
        let numbers = [file, size, patch.len() as u32].map(u32::to_le_bytes).concat();
        good(&[&[3][..], &numbers, patch, &[0]].concat())
    };
    let cases = [
        ("a name that is none", [&names(b"a b", &config)[..], &bytes, &[0]].concat()),
        ("a name that is no text", [&names(b"\xff", &config)[..], &bytes, &[0]].concat()),
        ("a configuration that is none", names(b"web", b"{}")),
        ("a configuration that is too large", names(b"web", &vec![b' '; (256 << 10) + 1])),
        ("another layer", good(&[1, 1, 0, 0, 0, 7, 0])),
        ("no end", good(&bytes)),
        ("a layer too many", [&whole[..], &bytes, &[0]].concat()),
        ("a file that is not there", good(&[2, 1, 0, 0, 0, 0])),
        ("a patch of a file that is not there", patch(9, 1, b"")),
        ("a patch that is none", patch(0, 1, b"no patch")),
        ("a patch that gives more than it says", patch(0, 5, &bomb)),
        ("a patch that gives less than it says", patch(0, 5 << 20, &bomb)),
    ];
    for (what, body) in &cases {
        let result = there.synthesize(&base, None, forged(&base, body).as_slice(), now());
        assert!(result.is_err(), "{what}");
        assert_eq!(contents(directory.path(), &there), before, "{what}");
    }
    assert!(there.synthesize(&base, None, forged(&base, &whole).as_slice(), now()).is_ok());
}

/// A tree: files by their path, each a version of one of a few contents.
fn tree() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let path = prop_oneof!["[abc]/lib[xy]\\.so\\.[123]", "[abc]/[def]", "[abc]/\\.wh\\.[def]",];
    let sizes = prop_oneof![Just(0_usize), 1..600_usize, 3_000..9_000_usize];
    let data = (0..3_u8, sizes, proptest::option::of(any::<u8>())).prop_map(|(seed, size, change)| {
        let mut data = noise(seed, size);
        if let (Some(change), false) = (change, data.is_empty()) {
            let at = usize::from(change) * 7 % data.len();
            data.splice(at..at, noise(change, usize::from(change % 16)));
        }
        data
    });
    proptest::collection::vec((path, data), 0..12)
}

fn tar_of(tree: &[(String, Vec<u8>)]) -> Vec<u8> {
    tree.iter().fold(Tar::new().directory("a"), |tar, (path, data)| tar.file(path, data)).end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_images_are_made_again(
        base in proptest::collection::vec(tree(), 1..3),
        above in proptest::collection::vec(tree(), 0..3),
        shared in 0..3_usize,
    ) {
        if !is_root() {
            return Ok(());
        }
        let base: Vec<_> = base.iter().map(|tree| tar_of(tree)).collect();
        let above = above.iter().map(|tree| tar_of(tree));
        let mut layers: Vec<_> = base.iter().take(shared).cloned().chain(above).collect();
        if layers.is_empty() {
            layers = base.clone();
        }
        let (_directory, here, old) = store_with("base", &base);
        let new = image_of(&here, "web", &layers);
        let (overlay, _) = overlay_of(&here, &old, &new);
        let (directory, there, old) = store_with("base", &base);
        let made = there.synthesize(&old, None, overlay.as_slice(), now()).unwrap();
        prop_assert_eq!((made.digest, made.layers), (new.digest, new.layers));
        prop_assert_eq!(count(directory.path(), "staging"), 0);
    }
}
