//! Layers: whiteouts, tars that are written again, archives of images, transfers that break off, many layers in one
//! root. Needs root; passes vacuously without it.

mod tars;

use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use drover_disk::{Above, Choice, ImageError, ImageStore, Overlay, unmount};
use drover_model::Digest;
use proptest::prelude::*;
use serde_json::json;
use tar::EntryType;
use tars::{Layout, Tar, config, count, digest, gzip, import, is_root, now, store};

/// What is seen of layers, the topmost first, over each other.
fn mounted<T>(trees: &[std::path::PathBuf], look: impl FnOnce(&Path) -> T) -> T {
    let place = tempfile::tempdir().unwrap();
    let [upper, work, target] = ["upper", "work", "target"].map(|name| place.path().join(name));
    [&upper, &work, &target].iter().for_each(|path| std::fs::create_dir(path).unwrap());
    Overlay { lower: trees, above: Some(Above { upper: &upper, work: &work }) }.mount(&target).unwrap();
    let seen = look(&target);
    unmount(&target, false).unwrap();
    seen
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Imports an image of these layers from a layout.
fn image_of(store: &ImageStore, name: &str, layers: &[Vec<u8>]) -> Result<drover_disk::Image, ImageError> {
    import(store, name, &Layout::new().image("latest", drover_disk::architecture(), "/x", layers).end())
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    if !is_root() {
        return;
    }
    let (_directory, store) = store();
    let below = ["gone", "dir/old", "opaque/old", "first/old", "last/old", "kept"];
    let below = below.iter().fold(Tar::new(), |tar, path| tar.file(path, b"below")).end();
    let above = Tar::new()
        .file(".wh.gone", b"")
        .directory("dir")
        .file("dir/.wh.old", b"")
        .directory("opaque")
        .file("opaque/.wh..wh..opq", b"what nobody reads")
        .file("opaque/new", b"above")
        // The order does not matter: what this layer has stays.
        .file(".wh.first", b"")
        .file("first/new", b"above")
        .file("last/new", b"above")
        .file(".wh.last", b"")
        .file("kept2", b"x")
        .file(".wh.kept2", b"")
        .file(".wh..wh.plnk", b"")
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("SCHILY.xattr.user.x", b"1")])
        .directory("redirected")
        .end();
    let image = image_of(&store, "web", &[below.clone(), above.clone()]).unwrap();
    mounted(&image.trees, |root| {
        assert_eq!(names(root), ["dir", "first", "kept", "kept2", "last", "opaque", "redirected"]);
        assert_eq!(names(&root.join("dir")), [""; 0]);
        for path in ["opaque", "first", "last"] {
            assert_eq!(names(&root.join(path)), ["new"], "{path}");
        }
        assert_eq!(names(&root.join("redirected")), [""; 0], "where files are is not the image's to say");
    });
    assert!(image.trees[0].join("gone").symlink_metadata().unwrap().file_type().is_char_device());
    for (layer, tar) in image.layers.iter().zip([below, above]) {
        let mut again = Vec::new();
        store.write_layer(&layer.diff_id, 0, &mut again).unwrap();
        assert!(again == tar);
    }
    for bad in [Tar::new().file(".wh..wh..opq", b"").end(), Tar::new().file("a/.wh..", b"").end()] {
        assert!(matches!(import(&store, "bad", &bad), Err(ImageError::Tar { .. })));
    }
}

#[test]
fn a_root_of_a_hundred_layers_shows_all_of_them() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let layers: Vec<_> = (0..100).map(|i| Tar::new().file(&format!("f{i}"), b"x").file("last", &[i]).end()).collect();
    let image = image_of(&store, "deep", &layers).unwrap();
    assert_eq!((image.layers.len(), image.trees.len()), (100, 100));
    mounted(&image.trees, |root| {
        assert_eq!(names(root).len(), 101);
        assert_eq!(std::fs::read(root.join("last")).unwrap(), [99]);
        std::fs::write(root.join("last"), "changed").unwrap();
    });
    let view = store.view(&image).unwrap();
    assert_eq!(std::fs::read(view.path().join("last")).unwrap(), [99], "nothing of an image is written");
    assert!(std::fs::write(view.path().join("new"), "x").is_err());
    assert_eq!(count(directory.path(), "staging"), 0);
    drop(view);
    assert!(image_of(&store, "deeper", &vec![layers[0].clone(); 128]).is_err());
}

#[test]
fn archives_of_images_are_taken_apart() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let layers = [Tar::new().file("a", b"1").end(), Tar::new().file("b", b"2").end()];
    let own = drover_disk::architecture();
    let layout = Layout::new()
        .image("one", own, "/one", &layers)
        .image("two", own, "/two", &layers[..1])
        .image("one", "mips", "/mips", &layers)
        .end();
    let choose = |tag: Option<&str>, platform: Option<&str>| {
        let choice = Choice { tag: tag.map(str::to_owned), platform: platform.map(str::to_owned) };
        store.import("web", &choice, gzip(&layout).as_slice(), now())
    };
    let one = choose(Some("one"), None).unwrap();
    assert_eq!((one.config.cmd.as_slice(), &one.digest), (&["/one".to_owned()][..], &digest(&config(&layers, "/one"))));
    assert_eq!(choose(Some("two"), None).unwrap().config.cmd, ["/two"]);
    assert_eq!(choose(Some("one"), Some("linux/mips")).unwrap().config.cmd, ["/mips"]);
    let several = choose(None, None).unwrap_err();
    assert!(matches!(several, ImageError::Choice { ref there, .. } if there.len() == 3), "{several}");
    assert!(choose(Some("three"), None).is_err() && choose(None, Some("windows/amd64")).is_err());
    assert_eq!(count(directory.path(), "layers/sha256"), 2, "images share layers");

    // As `docker save` writes it.
    let saved = json!([{ "Config": "c.json", "RepoTags": ["shop/web:7"], "Layers": ["l0/layer.tar", "l1/layer.tar"] }]);
    let saved = Tar::new()
        .file("c.json", &config(&layers, "/saved"))
        .file("l0/layer.tar", &layers[0])
        .entry(EntryType::Symlink, "l1/layer.tar", "../x/layer.tar", b"")
        .file("x/layer.tar", &layers[1])
        .file("manifest.json", &serde_json::to_vec(&saved).unwrap())
        .end();
    let image = import(&store, "saved", &saved).unwrap();
    assert_eq!((image.config.cmd.as_slice(), image.layers.len()), (&["/saved".to_owned()][..], 2));
    let zstd = zstd::encode_all(saved.as_slice(), 1).unwrap();
    assert_eq!(import(&store, "packed", &zstd).unwrap().digest, image.digest);
    // A root file system may have files of such names.
    assert_eq!(import(&store, "rootfs", &Tar::new().file("manifest.json", b"{}").end()).unwrap().layers.len(), 1);
    assert_eq!(count(directory.path(), "staging"), 0);
}

#[test]
fn an_archive_that_lies_is_refused_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let layers = [Tar::new().file("a", b"1").end()];
    let other = Tar::new().file("a", b"2").end();
    let saved = |config: &[u8], layer: &[u8]| {
        let saved = json!([{ "Config": "c.json", "Layers": ["layer.tar"] }]);
        let manifest = serde_json::to_vec(&saved).unwrap();
        Tar::new().file("c.json", config).file("layer.tar", layer).file("manifest.json", &manifest).end()
    };
    let refused = import(&store, "bad", &saved(&config(&layers, "/x"), &other)).unwrap_err();
    assert!(matches!(refused, ImageError::Different { .. }), "{refused}");
    let mut layout = Layout::new().image("latest", drover_disk::architecture(), "/x", &layers);
    let hex = digest(&gzip(&layers[0])).hex().to_owned();
    layout.tar = layout.tar.file(&format!("blobs/sha256/{hex}"), &gzip(&other));
    let refused = import(&store, "bad", &layout.end()).unwrap_err();
    assert!(matches!(refused, ImageError::Different { .. }), "{refused}");
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), config(&layers, "/x")).unwrap();
    let saved = json!([{ "Config": outside.path(), "Layers": ["layer.tar"] }]);
    let through = Tar::new().file("layer.tar", &layers[0]).file("manifest.json", &serde_json::to_vec(&saved).unwrap());
    assert!(import(&store, "bad", &through.end()).is_err(), "nothing is read outside");
    assert_eq!(["layers/sha256", "images/sha256", "staging"].map(|name| count(directory.path(), name)), [0; 3]);
}

/// Ends in an error after so many bytes, as a link does.
struct Breaking<'a>(&'a [u8]);

impl Read for Breaking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.0.read(buffer)
    }
}

#[test]
fn only_missing_layers_are_fetched_and_each_goes_on_where_it_broke_off() {
    if !is_root() {
        return;
    }
    let ((_d1, source), (d2, target)) = (store(), store());
    let layers = [Tar::new().file("a", &[1; 9000]).end(), Tar::new().file("b", &[2; 300_000]).end()];
    let image = image_of(&source, "web", &layers).unwrap();
    let config = source.config(&image.digest).unwrap();
    image_of(&target, "base", &layers[..1]).unwrap();
    assert!(matches!(target.fetch(&digest(b"x"), &config), Err(ImageError::Different { .. })));

    let offsets = |store: &ImageStore| -> Vec<(Digest, u64)> {
        let fetch = store.fetch(&image.digest, &config).unwrap();
        fetch.lacking().into_iter().map(|lacking| (lacking.diff_id, lacking.offset)).collect()
    };
    let mut fetch = target.fetch(&image.digest, &config).unwrap();
    assert_eq!(fetch.lacking().len(), 1);
    assert!(target.receive(&mut fetch, Breaking(&layers[1][..200_000])).is_err());
    assert!(matches!(target.finish(fetch, &[], None, now()), Err(ImageError::NoLayer(_))));
    assert_eq!(offsets(&target), [(digest(&layers[1]), 200_000)]);

    // What the image is for goes while the rest is on its way.
    let mut fetch = target.fetch(&image.digest, &config).unwrap();
    target.remove("base", |_| false).unwrap();
    let mut rest = Vec::new();
    assert_eq!(source.write_layer(&digest(&layers[1]), 200_000, &mut rest).unwrap(), layers[1].len() as u64);
    assert_eq!(rest.len(), layers[1].len() - 200_000);
    target.receive(&mut fetch, rest.as_slice()).unwrap();
    let arrived = target.finish(fetch, &["web".into()], Some("shop/web@sha256:1"), now()).unwrap();
    assert_eq!((&arrived.digest, &arrived.layers), (&image.digest, &image.layers));
    assert_eq!((arrived.names, arrived.references), (vec!["web".into()], vec!["shop/web@sha256:1".into()]));
    assert_eq!((offsets(&target), count(d2.path(), "partial"), count(d2.path(), "staging")), (vec![], 0, 0));

    std::fs::write(arrived.trees[0].join("b"), vec![3; 300_000]).unwrap();
    let changed = target.write_layer(&digest(&layers[1]), 0, &mut io::sink());
    assert!(matches!(changed, Err(ImageError::Different { .. })));
}

#[test]
fn another_layer_than_the_expected_one_is_thrown_away() {
    if !is_root() {
        return;
    }
    let ((_d1, source), (d2, target)) = (store(), store());
    let layers = [Tar::new().file("a", b"1").end()];
    let image = image_of(&source, "web", &layers).unwrap();
    let config = source.config(&image.digest).unwrap();
    let mut fetch = target.fetch(&image.digest, &config).unwrap();
    let wrong = target.receive(&mut fetch, Tar::new().file("a", b"2").end().as_slice());
    assert!(matches!(wrong, Err(ImageError::Different { .. })));
    drop(fetch);
    let fetch = target.fetch(&image.digest, &config).unwrap();
    assert_eq!(fetch.lacking()[0].offset, 0);
    // Two at once: the second begins from nothing.
    let mut second = target.fetch(&image.digest, &config).unwrap();
    target.receive(&mut second, layers[0].as_slice()).unwrap();
    target.finish(second, &[], None, now()).unwrap();
    drop(fetch);
    assert_eq!(target.prune(true, |_| false).unwrap().images.len(), 1);
    assert_eq!(["layers/sha256", "images/sha256", "partial"].map(|name| count(d2.path(), name)), [0; 3]);
}

#[test]
fn a_commit_keeps_what_an_upper_layer_says() {
    if !is_root() {
        return;
    }
    let (_directory, store) = store();
    let below = Tar::new().file("gone", b"x").file("dir/old", b"x").file("changed", b"x").end();
    let image = import(&store, "base", &below).unwrap();
    let place = tempfile::tempdir().unwrap();
    let [upper, work, target] = ["upper", "work", "target"].map(|name| place.path().join(name));
    [&upper, &work, &target].iter().for_each(|path| std::fs::create_dir(path).unwrap());
    Overlay { lower: &image.trees, above: Some(Above { upper: &upper, work: &work }) }.mount(&target).unwrap();
    std::fs::remove_file(target.join("gone")).unwrap();
    std::fs::remove_dir_all(target.join("dir")).unwrap();
    std::fs::create_dir(target.join("dir")).unwrap();
    std::fs::write(target.join("dir/new"), "new").unwrap();
    std::fs::hard_link(target.join("dir/new"), target.join("dir/new2")).unwrap();
    std::fs::write(target.join("changed"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("/nowhere", target.join("link")).unwrap();
    std::fs::create_dir(target.join("etc")).unwrap();
    std::fs::write(target.join("etc/hosts"), "the agent's").unwrap();
    let long = "n".repeat(200);
    std::fs::write(target.join(&long), "").unwrap();

    let draft = store.draft(&upper).unwrap();
    let made = store.commit(&image.digest, draft, "made", "drover commit web", now()).unwrap();
    unmount(&target, false).unwrap();
    mounted(&made.trees, |root| {
        assert_eq!(names(root), ["changed", "dir", "etc", "link", &long]);
        assert_eq!((names(&root.join("dir")), names(&root.join("etc"))), (vec!["new".into(), "new2".into()], vec![]));
        assert_eq!(root.join("dir/new").metadata().unwrap().nlink(), 2);
        assert_eq!(std::fs::read(root.join("changed")).unwrap(), vec![7; 100_000]);
    });
    assert_eq!(
        store.commit(&image.digest, store.draft(&upper).unwrap(), "made", "x", now()).unwrap().layers,
        made.layers
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a tar has, twice or in disorder: the same bytes come back.
    #[test]
    fn every_tar_that_is_taken_is_written_again_byte_for_byte(
        entries in prop::collection::vec((0..7_u8, 0..6_u8, 0..6_u8, 0..70_000_usize), 1..30),
        trailing in 0..3_usize,
    ) {
        if is_root() {
            let (_directory, store) = store();
            let mut tar = Tar::new();
            for (kind, a, b, size) in entries {
                let path = if b == 0 { format!("n{a}") } else { format!("n{a}/m{b}") };
                let data: Vec<u8> = (0..size).map(|i| (i / 5000 % 3) as u8 * a).collect();
                tar = match kind {
                    0 => tar.directory(&path),
                    1 => tar.entry(EntryType::Symlink, &path, &format!("n{b}"), b""),
                    2 => tar.entry(EntryType::Link, &path, &format!("n{b}"), b""),
                    3 => tar.entry(EntryType::Fifo, &path, "", b""),
                    4 => tar.file(&format!("n{a}/.wh.m{b}"), b""),
                    _ => tar.file(&path, &data),
                };
            }
            let mut tar = tar.end();
            tar.extend(vec![0; trailing * 4096]);
            // One that contradicts itself is refused as a whole.
            if let Ok(image) = import(&store, "x", &tar) {
                let mut again = Vec::new();
                store.write_layer(&image.layers[0].diff_id, 0, &mut again).unwrap();
                prop_assert!(again == tar);
            }
        }
    }
}
