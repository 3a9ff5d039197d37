//! The image store: imports, hostile tars, names and removal. Needs root; passes vacuously without it.

mod tars;

use std::io::Read;
use std::os::unix::fs::MetadataExt;

use drover_disk::{Choice, ImageError, ImageStore};
use drover_model::ImageConfig;
use tar::EntryType;
use tars::{Tar, count, import, is_root, now, store};

#[test]
fn an_import_keeps_everything_and_finds_the_configuration() {
    if !is_root() {
        return;
    }
    let (_directory, store) = store();
    let config =
        br#"{"Entrypoint": null, "Cmd": ["/bin/web", "-v"], "Env": ["A=b"], "WorkingDir": "/srv", "Labels": {}}"#;
    let tar = Tar::new()
        .entry(EntryType::Directory, "./", "", b"")
        .file("./drover-image.json", config)
        .pax(&[("mtime", b"1600000000.125"), ("SCHILY.xattr.user.note", b"\xff\0x")])
        .file("./bin/web", b"program")
        .entry(EntryType::Link, "./bin/web2", "./bin/web", b"")
        .entry(EntryType::Symlink, "./lib", "usr/lib", b"")
        .entry(EntryType::Directory, "./usr/lib/", "", b"")
        .file("./lib/through", b"merged")
        .entry(EntryType::Fifo, "./run/pipe", "", b"")
        .entry(EntryType::Char, "./dev/zero", "", b"")
        .end();
    let image = import(&store, "web:1", &tar).unwrap();
    let expected = ImageConfig {
        cmd: vec!["/bin/web".into(), "-v".into()],
        env: vec!["A=b".into()],
        working_dir: Some("/srv".into()),
        ..ImageConfig::default()
    };
    assert_eq!(image.config, expected);
    let [root] = image.trees.as_slice() else { panic!("one layer") };
    assert_eq!(
        (image.names.as_slice(), image.imported_at.as_str()),
        (&["web:1".to_owned()][..], "2027-01-15T08:00:00Z")
    );
    let web = root.join("bin/web").symlink_metadata().unwrap();
    assert_eq!((web.mode() & 0o7777, web.uid(), web.gid(), web.nlink()), (0o4755, 7, 8, 2));
    assert_eq!((web.mtime(), web.mtime_nsec()), (1_600_000_000, 125_000_000));
    let mut note = [0; 10];
    let length = rustix::fs::getxattr(root.join("bin/web"), "user.note", &mut note).unwrap();
    assert_eq!(&note[..length], b"\xff\0x");
    let implied = root.join("bin").metadata().unwrap();
    assert_eq!((implied.mode() & 0o7777, implied.uid(), implied.mtime()), (0o755, 0, 0));
    assert_eq!(root.join("usr/lib").metadata().unwrap().mtime(), 1_700_000_000);
    assert_eq!(std::fs::read(root.join("usr/lib/through")).unwrap(), b"merged");

    let again = import(&store, "web:2", &tar).unwrap();
    assert_eq!(again.digest, image.digest, "the same tar gives the same digest");
    assert_eq!(again.names, ["web:1", "web:2"]);
    assert_eq!(store.list().unwrap(), [again]);
}

#[test]
fn hostile_tars_land_nowhere_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let refused = [
        Tar::new().file("../escape", b"x").end(),
        Tar::new().file("a/../../escape", b"x").end(),
        Tar::new().entry(EntryType::Link, "shadow", "../../../etc/shadow", b"").end(),
        Tar::new().file("a", b"x").file("a/b", b"x").end(),
        Tar::new().file("full/f", b"x").file("full", b"x").end(),
        Tar::new().entry(EntryType::new(b'V'), "volume", "", b"").end(),
        Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("sparse", b"x").end(),
        Tar::new().file("drover-image.json", b"{").end(),
        Tar::new().entry(EntryType::Symlink, "drover-image.json", "/etc/passwd", b"").end(),
        Tar::new().entry(EntryType::Fifo, "drover-image.json", "", b"").end(),
        Tar::new().file("cut", &[1; 5000]).end()[..2000].to_vec(),
        vec![0x55; 4096],
    ];
    for (number, tar) in refused.iter().enumerate() {
        assert!(import(&store, "bad", tar).is_err(), "{number}");
    }
    // Followed as inside a container: below the tree's own top.
    let inside = Tar::new()
        .entry(EntryType::Symlink, "out", target, b"")
        .entry(EntryType::Symlink, "up", "../../../..", b"")
        .entry(EntryType::Directory, target.trim_start_matches('/'), "", b"")
        .file("out/planted", b"x")
        .file("up/top", b"x")
        .file("/absolute", b"x")
        .end();
    let image = import(&store, "odd", &inside).unwrap();
    let root = &image.trees[0];
    assert!(root.join(target.trim_start_matches('/')).join("planted").exists());
    assert!(root.join("top").exists() && root.join("absolute").exists());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!((count(directory.path(), "staging"), store.list().unwrap().len()), (0, 1));
}

#[test]
fn a_file_that_says_it_is_nothing_but_holes_is_refused_at_once() {
    if !is_root() {
        return;
    }
    let (_directory, store) = store();
    let sparse = |size: &[u8; 12]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..4].copy_from_slice(b"hole");
        gnu.realsize.copy_from_slice(size);
        gnu.sparse[0].offset.copy_from_slice(size);
        gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
        header.set_cksum();
        [&header.as_bytes()[..], &[0; 1024]].concat()
    };
    assert!(import(&store, "small", &sparse(b"00000200000\0")).is_ok());
    // Each of them would do, and not both: 1 GiB, and 8 GiB but for a byte.
    let many = [&sparse(b"10000000000\0")[..512], &sparse(b"77777777777\0")[..512]].concat();
    let large = sparse(&[0x80, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    for endless in [[many, vec![0; 1024]].concat(), large] {
        let error = import(&store, "endless", &endless).unwrap_err();
        assert!(error.to_string().contains("holes are too large"), "{error}");
    }
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one() {
    if !is_root() {
        return;
    }
    let (_directory, store) = store();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("f"), "untouched").unwrap();
    let link = outside.path().join("f");
    let tar = Tar::new()
        .file("f", b"old")
        .entry(EntryType::Symlink, "f", link.to_str().unwrap(), b"")
        .file("f", b"new")
        .entry(EntryType::Directory, "empty", "", b"")
        .file("empty", b"now a file")
        .file("d", b"x")
        .entry(EntryType::Directory, "d", "", b"")
        .end();
    let image = import(&store, "twice", &tar).unwrap();
    let root = &image.trees[0];
    assert_eq!(std::fs::read(root.join("f")).unwrap(), b"new");
    assert!(root.join("f").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(root.join("empty")).unwrap(), b"now a file");
    assert!(root.join("d").is_dir());
    let mut again = Vec::new();
    store.write_layer(&image.layers[0].diff_id, 0, &mut again).unwrap();
    assert!(again == tar, "also what is in no file is written again");
    assert_eq!(std::fs::read(link).unwrap(), b"untouched");
}

#[test]
fn an_image_goes_with_its_last_name_unless_it_is_in_use() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let image = import(&store, "a", &Tar::new().file("f", b"1").end()).unwrap();
    import(&store, "b", &Tar::new().file("f", b"1").end()).unwrap();
    store.remove("a", |_| true).unwrap();
    assert!(matches!(store.find("a"), Err(ImageError::Unknown(_))));
    assert!(matches!(store.remove("b", |digest| *digest == image.digest), Err(ImageError::InUse(_))));
    store.remove("b", |_| false).unwrap();
    assert!(matches!(store.find(image.digest.as_str()), Err(ImageError::Unknown(_))));
    assert!(matches!(store.remove("b", |_| false), Err(ImageError::Unknown(_))));
    assert!(!image.trees[0].exists() && count(directory.path(), "staging") == 0);

    // A name that moves on leaves the old image, by its digest.
    let old = import(&store, "a", &Tar::new().file("f", b"1").end()).unwrap();
    let new = import(&store, "a", &Tar::new().file("f", b"2").end()).unwrap();
    assert_eq!(store.find("a").unwrap().digest, new.digest);
    assert!(store.find(old.digest.as_str()).unwrap().names.is_empty());
    store.remove(old.digest.as_str(), |_| false).unwrap();
    for bad in ["", "a b", "new\nline", old.digest.as_str(), &"n".repeat(256)] {
        assert!(matches!(import(&store, bad, &[]), Err(ImageError::BadName(_))), "{bad:?}");
    }
}

#[test]
fn two_imports_at_once_end_as_one_image() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let tar = Tar::new().file("f", &[3; 300_000]).end();
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let (store, tar) = (&store, &tar);
            scope.spawn(move || import(store, name, tar).unwrap());
        }
    });
    let images = store.list().unwrap();
    assert_eq!((images.len(), images[0].names.len(), count(directory.path(), "staging")), (1, 4, 0));
    assert_eq!(count(directory.path(), "layers/sha256"), 1);
}

#[test]
fn opening_sweeps_what_is_left_but_not_what_is_in_use() {
    if !is_root() {
        return;
    }
    struct Slow<'a>(&'a mut dyn FnMut(), std::io::Cursor<Vec<u8>>);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            (self.0)();
            self.1.read(buffer)
        }
    }
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir("etc", "/").unwrap();
    let tar = std::io::Cursor::new(tar.into_inner().unwrap());
    let (directory, store) = store();
    let left = directory.path().join("store/staging/left");
    std::fs::create_dir_all(left.join("rootfs")).unwrap();
    let mut during = || {
        ImageStore::open(&directory.path().join("store")).unwrap();
        assert!(!left.exists());
        assert_eq!(count(directory.path(), "staging"), 1, "the running import's own");
    };
    store.import("empty", &Choice::default(), Slow(&mut during, tar), now()).unwrap();
    assert_eq!(count(directory.path(), "staging"), 0);
    assert!(store.find("empty").is_ok());
}

#[test]
fn a_layer_stays_as_long_as_an_image_has_it() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let base = import(&store, "base", &Tar::new().file("f", b"1").end()).unwrap();
    let upper = tempfile::tempdir().unwrap();
    std::fs::write(upper.path().join("g"), "2").unwrap();
    let draft = store.draft(upper.path()).unwrap();
    let longer = store.commit(&base.digest, draft, "longer", "test", now()).unwrap();
    assert_eq!((longer.layers.len(), count(directory.path(), "layers/sha256")), (2, 2));
    assert_eq!(longer.history.last().unwrap().created_by.as_deref(), Some("test"));

    store.remove("base", |_| false).unwrap();
    assert_eq!(count(directory.path(), "layers/sha256"), 2, "the other image has it");
    let kept = store.prune(true, |digest| *digest == longer.digest).unwrap();
    assert!(kept.images.is_empty() && store.find("longer").is_ok(), "it is in use");
    let pruned = store.prune(false, |_| false).unwrap();
    assert!(pruned.images.is_empty(), "it has a name");
    let pruned = store.prune(true, |_| false).unwrap();
    assert_eq!((pruned.images, pruned.layers.len()), (vec![longer.digest], 2));
    assert_eq!(count(directory.path(), "layers/sha256") + count(directory.path(), "staging"), 0);
}

#[test]
fn images_of_the_old_form_are_not_there_and_can_be_pruned() {
    if !is_root() {
        return;
    }
    let (directory, store) = store();
    let hex = "a".repeat(64);
    let old = directory.path().join("store/images/sha256").join(&hex);
    std::fs::create_dir_all(old.join("rootfs/etc")).unwrap();
    std::fs::write(old.join("image.json"), r#"{"size": 7, "imported_at": ""}"#).unwrap();
    let names = directory.path().join("store/names.json");
    std::fs::write(names, format!(r#"{{"old": "sha256:{hex}"}}"#)).unwrap();
    let store = ImageStore::open(&directory.path().join("store")).map(|_| store).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(store.find("old"), Err(ImageError::Unknown(_))));
    store.prune(false, |_| true).unwrap();
    assert!(old.exists(), "a container uses it");
    assert_eq!(store.prune(false, |_| false).unwrap().images.len(), 1);
    assert!(!old.exists());
}
