//! Seeds made of trees: tars, overlays, streams of files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use drover_disk::delta::{Place, Source, Tree, tell};
use drover_disk::{Choice, ImageStore, layer};
use drover_model::{Compression, Digest};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::{Seeds, words};

const BASE: &[u8] = include_bytes!("../../src/base.tar");

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn append(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, data: &[u8]) {
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
    tar.append(&header, data).unwrap();
}

/// Entries of every kind.
fn odd() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    append(&mut tar, EntryType::Directory, "etc", "", b"");
    let records = [("mtime", &b"1700000000.25"[..]), ("SCHILY.xattr.user.a", b"b")];
    tar.append_pax_extensions(records).unwrap();
    append(&mut tar, EntryType::Regular, "etc/file", "", &words(700));
    append(&mut tar, EntryType::Link, "etc/second", "etc/file", b"");
    append(&mut tar, EntryType::Symlink, "lib", "etc", b"");
    append(&mut tar, EntryType::Regular, "lib/through", "", b"a link");
    append(&mut tar, EntryType::Fifo, "fifo", "", b"");
    append(&mut tar, EntryType::Char, "etc/zero", "", b"");
    append(&mut tar, EntryType::Regular, "etc/.wh.gone", "", b"");
    append(&mut tar, EntryType::Regular, "etc/.wh..wh..opq", "", b"");
    append(&mut tar, EntryType::Regular, "etc/file", "", b"again");
    tar.into_inner().unwrap()
}

/// A file with holes, as GNU tar writes it.
fn sparse() -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(512);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..4].copy_from_slice(b"hole");
    gnu.sparse[0].offset.copy_from_slice(b"00000017000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000001000\0");
    gnu.realsize.copy_from_slice(b"00000020000\0");
    header.set_cksum();
    [&header.as_bytes()[..], &[7; 512], &[0; 1024]].concat()
}

/// What `docker save` writes.
fn saved() -> Vec<u8> {
    let diff_id = digest_of(BASE);
    let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": [diff_id] } }).to_string();
    let manifest = r#"[{"Config":"config.json","RepoTags":["web:1"],"Layers":["layer.tar"]}]"#;
    let mut tar = Builder::new(Vec::new());
    append(&mut tar, EntryType::Regular, "manifest.json", "", manifest.as_bytes());
    append(&mut tar, EntryType::Regular, "config.json", "", config.as_bytes());
    append(&mut tar, EntryType::Regular, "layer.tar", "", BASE);
    tar.into_inner().unwrap()
}

fn digest_of(bytes: &[u8]) -> Digest {
    use sha2::{Digest as _, Sha256};
    Digest::from_sha256(Sha256::digest(bytes).into())
}

pub fn tars() -> Seeds {
    let packed = zstd::bulk::compress(BASE, 3).unwrap();
    vec![("base", BASE.to_vec()), ("odd", odd()), ("sparse", sparse()), ("saved", saved()), ("packed", packed)]
}

/// What stands in an overlay's frame: name, configuration, and the one layer that the base has not.
pub fn overlays() -> Seeds {
    let above = odd();
    let diff_ids = [digest_of(BASE), digest_of(&above)];
    let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
    let mut plain = vec![5, 0];
    plain.extend(b"web:1");
    plain.extend((config.len() as u32).to_le_bytes());
    plain.extend(config.as_bytes());
    plain.push(1);
    plain.extend((above.len() as u32).to_le_bytes());
    plain.extend(&above);
    plain.push(0);
    vec![("plain", plain), ("packed", packed_overlay())]
}

/// As it is made, without its head.
fn packed_overlay() -> Vec<u8> {
    use std::io::Read;
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&directory.path().join("store")).unwrap();
    let base = store.import("base", &Choice::default(), BASE, now()).unwrap();
    let other = store.import("other", &Choice::default(), &odd()[..], now()).unwrap();
    let (mut file, _) = store.overlay(&base, &other, "web:1", 3).unwrap();
    let mut overlay = Vec::new();
    file.read_to_end(&mut overlay).unwrap();
    overlay.split_off(8 + 4 + 64)
}

/// A tree with something of every kind.
fn tree() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path();
    fs::create_dir(top.join("d")).unwrap();
    fs::write(top.join("d/file"), words(9_000)).unwrap();
    fs::hard_link(top.join("d/file"), top.join("again")).unwrap();
    symlink("d/file", top.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, top.join("fifo"), 0o600.into()).unwrap();
    fs::set_permissions(top.join("d"), fs::Permissions::from_mode(0o1755)).unwrap();
    date(top);
    directory
}

/// Gives all in a tree the same time, so that what is said of it is always the same.
fn date(top: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: 1_700_000_000, tv_nsec: 7 };
    for entry in fs::read_dir(top).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            date(&entry.path());
        }
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    utimensat(CWD, top, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()).unwrap();
}

pub fn layer_streams() -> Seeds {
    let mut stream = Vec::new();
    layer::pack(tree().path(), &mut stream).unwrap();
    vec![("tree", stream)]
}

pub fn delta_streams() -> Seeds {
    let stream = |compression| {
        let tree = tree();
        let mut stream = Vec::new();
        let trees = [Tree { path: tree.path().to_owned(), in_memory: true }];
        let mut source = Source::new(&mut stream, compression, &trees).unwrap();
        source.round().unwrap();
        change(tree.path());
        source.last().unwrap();
        drop(source);
        stream
    };
    vec![("plain", stream(Compression::None)), ("packed", stream(Compression::Zstd))]
}

fn change(top: &Path) {
    fs::rename(top.join("again"), top.join("d/moved")).unwrap();
    fs::remove_file(top.join("fifo")).unwrap();
    fs::write(top.join("new"), words(5_000)).unwrap();
    date(top);
}

pub fn havings() -> Seeds {
    let tree = tree();
    let aside = tempfile::tempdir().unwrap();
    let places = [Place { path: tree.path().to_owned(), aside: Some(aside.path().to_owned()) }];
    let mut told = Vec::new();
    tell(&places, &mut told).unwrap();
    vec![("tree", told)]
}
