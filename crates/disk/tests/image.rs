//! The image store: imports, hostile tars, transfer, names and removal. Needs root; passes vacuously without it.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use drover_disk::{Image, ImageConfig, ImageError, ImageStore};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A tar under construction.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// An entry with its path and link written as they are, checked by nobody.
    fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", data)
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn store() -> (TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn import(store: &ImageStore, name: &str, tar: &[u8]) -> Result<Image, ImageError> {
    store.import(name, tar, now())
}

fn staged(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("store/staging")).unwrap().count()
}

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
    assert_eq!(
        (image.names.as_slice(), image.imported_at.as_str()),
        (&["web:1".to_owned()][..], "2027-01-15T08:00:00Z")
    );
    let web = image.rootfs.join("bin/web").symlink_metadata().unwrap();
    assert_eq!((web.mode() & 0o7777, web.uid(), web.gid(), web.nlink()), (0o4755, 7, 8, 2));
    assert_eq!((web.mtime(), web.mtime_nsec()), (1_600_000_000, 125_000_000));
    let mut note = [0; 10];
    let length = rustix::fs::getxattr(image.rootfs.join("bin/web"), "user.note", &mut note).unwrap();
    assert_eq!(&note[..length], b"\xff\0x");
    let implied = image.rootfs.join("bin").metadata().unwrap();
    assert_eq!((implied.mode() & 0o7777, implied.uid(), implied.mtime()), (0o755, 0, 0));
    assert_eq!(image.rootfs.join("usr/lib").metadata().unwrap().mtime(), 1_700_000_000);
    assert_eq!(std::fs::read(image.rootfs.join("usr/lib/through")).unwrap(), b"merged");

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
    assert!(image.rootfs.join(target.trim_start_matches('/')).join("planted").exists());
    assert!(image.rootfs.join("top").exists() && image.rootfs.join("absolute").exists());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!((staged(directory.path()), store.list().unwrap().len()), (0, 1));
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
    assert_eq!(std::fs::read(image.rootfs.join("f")).unwrap(), b"new");
    assert!(image.rootfs.join("f").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(image.rootfs.join("empty")).unwrap(), b"now a file");
    assert!(image.rootfs.join("d").is_dir());
    assert_eq!(std::fs::read(link).unwrap(), b"untouched");
}

#[test]
fn an_image_crosses_to_another_store_and_only_the_expected_one_is_taken() {
    if !is_root() {
        return;
    }
    let ((_d1, source), (d2, target)) = (store(), store());
    let image = import(&source, "web", &Tar::new().file("bin/web", &[7; 100_000]).end()).unwrap();
    let other = import(&source, "other", &Tar::new().file("x", b"").end()).unwrap();
    let mut stream = Vec::new();
    assert_eq!(source.send(&image.digest, &mut stream).unwrap().bytes, 100_000);

    let refused = target.receive(&other.digest, &["web".into()], &mut stream.as_slice(), now()).unwrap_err();
    assert!(matches!(refused, ImageError::Different { .. }), "{refused}");
    assert!(target.receive(&image.digest, &[], &mut &stream[..stream.len() - 1], now()).is_err());
    assert_eq!((staged(d2.path()), target.list().unwrap().len()), (0, 0));

    let arrived = target.receive(&image.digest, &["web".into()], &mut stream.as_slice(), now()).unwrap();
    assert_eq!((&arrived.digest, arrived.names.as_slice()), (&image.digest, &["web".to_owned()][..]));
    let mut again = Vec::new();
    target.send(&image.digest, &mut again).unwrap();
    assert!(again == stream);
    target.receive(&image.digest, &["again".into()], &mut again.as_slice(), now()).unwrap();
    assert_eq!(target.find("again").unwrap().names, ["again", "web"]);

    std::fs::write(arrived.rootfs.join("bin/web"), "changed").unwrap();
    assert!(matches!(target.send(&image.digest, &mut Vec::new()), Err(ImageError::Different { .. })));
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
    assert!(!image.rootfs.exists() && staged(directory.path()) == 0);

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
    assert_eq!((images.len(), images[0].names.len(), staged(directory.path())), (1, 4, 0));
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
        assert_eq!(staged(directory.path()), 1, "the running import's own");
    };
    store.import("empty", Slow(&mut during, tar), now()).unwrap();
    assert_eq!(staged(directory.path()), 0);
    let name = std::ffi::OsStr::from_bytes(b"empty");
    assert!(store.find(name.to_str().unwrap()).is_ok());
}
