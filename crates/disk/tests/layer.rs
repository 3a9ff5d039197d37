//! Trees that cross as layer streams and arrive equal in everything the kernel keeps. Needs root; passes vacuously
//! without it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use drover_disk::layer::{apply, pack};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use tempfile::TempDir;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Everything about a tree, by path: what `stat` says, extended attributes, and contents or target.
type Portrait = BTreeMap<PathBuf, (String, Vec<(String, Vec<u8>)>, Vec<u8>)>;

fn portrait(top: &Path) -> Portrait {
    let mut portrait = Portrait::new();
    let mut ahead = vec![top.to_owned()];
    let mut first_names = BTreeMap::new();
    while let Some(path) = ahead.pop() {
        let stat = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(top).unwrap().to_owned();
        let kind = stat.file_type();
        let size = if kind.is_dir() { 0 } else { stat.size() };
        // Hard links: which names share a file, whatever its number.
        let first = first_names.entry(stat.ino()).or_insert_with(|| relative.clone()).clone();
        let about = format!(
            "{:o} {}:{} {}.{:09} dev {:x} size {size} links {} as {}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.rdev(),
            if kind.is_dir() { 0 } else { stat.nlink() },
            first.display(),
        );
        let contents = if kind.is_file() {
            std::fs::read(&path).unwrap()
        } else if kind.is_symlink() {
            path.read_link().unwrap().as_os_str().as_bytes().to_vec()
        } else {
            if kind.is_dir() {
                let mut names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
                names.sort();
                ahead.extend(names.into_iter().rev());
            }
            Vec::new()
        };
        portrait.insert(relative, (about, xattrs(&path), contents));
    }
    portrait
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut list, mut value) = (vec![0; 65536], vec![0; 65536]);
    let length = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found: Vec<_> = names
        .map(|name| {
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            (String::from_utf8(name.to_vec()).unwrap(), value[..length].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// Packs a tree, applies it elsewhere, and compares; gives the place.
fn cross(tree: &Path) -> TempDir {
    let mut stream = Vec::new();
    let packed = pack(tree, &mut stream).unwrap();
    let arrived = tempfile::tempdir().unwrap();
    let applied = apply(arrived.path(), &mut stream.as_slice()).unwrap();
    assert_eq!(packed, applied);
    assert_eq!(portrait(tree), portrait(arrived.path()));
    let mut again = Vec::new();
    pack(arrived.path(), &mut again).unwrap();
    assert!(stream == again, "an equal tree gives an equal stream");
    arrived
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn node(path: &Path, kind: FileType, major: u32, minor: u32) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), rustix::fs::makedev(major, minor)).unwrap();
}

#[test]
fn an_upper_layer_keeps_whiteouts_opaque_directories_capabilities_and_acls() {
    if !is_root() {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let at = |name: &str| tree.path().join(name);
    node(&at("gone"), FileType::CharacterDevice, 0, 0);
    std::fs::create_dir(at("opaque")).unwrap();
    set(&at("opaque"), "trusted.overlay.opaque", b"y");
    std::fs::write(at("ping"), b"program").unwrap();
    // cap_net_raw=ep, revision 2 (linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&at("ping"), "security.capability", &capability);
    // user::rwx, user:7:r--, group::r-x, mask::rwx, other::r-- (linux/posix_acl_xattr.h).
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in
        [(1u16, 7u16, u32::MAX), (2, 4, 7), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    // A default ACL must not leak into children that do not have it.
    std::fs::create_dir(at("shared")).unwrap();
    std::fs::write(at("shared/child"), "").unwrap();
    set(&at("shared"), "system.posix_acl_default", &acl);
    set(&at("shared"), "system.posix_acl_access", &acl);
    node(&at("disk"), FileType::BlockDevice, 8, 300);
    node(&at("pipe"), FileType::Fifo, 0, 0);
    node(&at("socket"), FileType::Socket, 0, 0);
    std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
    set(&at("link"), "trusted.mark", b"on the link itself");
    std::fs::hard_link(at("link"), at("link2")).unwrap();
    std::fs::hard_link(at("pipe"), at("opaque/pipe")).unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"\xff\n\\name");
    std::fs::write(tree.path().join(strange), "").unwrap();
    cross(tree.path());
}

#[test]
fn holes_stay_holes_and_zeros_become_holes() {
    if !is_root() {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let sparse = File::create(tree.path().join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    sparse.write_all_at(b"x", (1 << 39) + 12345).unwrap();
    std::fs::write(tree.path().join("zeros"), vec![0; 1 << 20]).unwrap();
    std::fs::write(tree.path().join("tail"), [vec![0; 10000], b"end".to_vec()].concat()).unwrap();
    let mut stream = Vec::new();
    let packed = pack(tree.path(), &mut stream).unwrap();
    assert!(stream.len() < 10_000, "{}", stream.len());
    let arrived = tempfile::tempdir().unwrap();
    assert_eq!(apply(arrived.path(), &mut stream.as_slice()).unwrap(), packed);
    let sparse = arrived.path().join("sparse").metadata().unwrap();
    assert!(sparse.size() == 1 << 40 && sparse.blocks() <= 16);
    let zeros = arrived.path().join("zeros").metadata().unwrap();
    assert_eq!((zeros.size(), zeros.blocks()), (1 << 20, 0));
    assert!(std::fs::read(arrived.path().join("tail")).unwrap().ends_with(b"end"));
}

#[test]
fn what_was_there_stays_or_is_replaced() {
    if !is_root() {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir(tree.path().join("d")).unwrap();
    std::fs::write(tree.path().join("d/f"), "new").unwrap();
    let mut stream = Vec::new();
    pack(tree.path(), &mut stream).unwrap();
    let existing = tempfile::tempdir().unwrap();
    std::fs::create_dir(existing.path().join("d")).unwrap();
    std::fs::write(existing.path().join("d/f"), "old and longer").unwrap();
    std::fs::write(existing.path().join("d/kept"), "").unwrap();
    apply(existing.path(), &mut stream.as_slice()).unwrap();
    assert_eq!(std::fs::read(existing.path().join("d/f")).unwrap(), b"new");
    assert!(existing.path().join("d/kept").exists());
    std::fs::remove_file(existing.path().join("d/f")).unwrap();
    std::fs::create_dir(existing.path().join("d/f")).unwrap();
    assert!(apply(existing.path(), &mut stream.as_slice()).is_err(), "a directory is not replaced");
}

/// Prints how fast a tree of a real size crosses.
#[test]
fn a_tree_of_many_files_crosses() {
    if !is_root() || !Path::new("/usr/share/doc").exists() {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let status =
        Command::new("cp").args(["-a", "/usr/share/doc", "/usr/lib/locale"]).arg(tree.path()).status().unwrap();
    assert!(status.success());
    let mut stream = Vec::new();
    let start = Instant::now();
    let summary = pack(tree.path(), &mut stream).unwrap();
    let packed = start.elapsed();
    let arrived = tempfile::tempdir().unwrap();
    let start = Instant::now();
    apply(arrived.path(), &mut stream.as_slice()).unwrap();
    println!(
        "{} entries, {} bytes: packed in {packed:?}, applied in {:?}",
        summary.entries,
        summary.bytes,
        start.elapsed()
    );
    assert_eq!(portrait(tree.path()), portrait(arrived.path()));
}

/// One thing done to a tree.
#[derive(Debug, Clone)]
enum Make {
    Directory,
    File { pieces: Vec<(u32, Vec<u8>)>, tail: u32 },
    Symlink(Vec<u8>),
    Hardlink(prop::sample::Index),
    Node(FileType, u32, u32),
}

#[derive(Debug, Clone)]
struct Step {
    parent: prop::sample::Index,
    name: Vec<u8>,
    make: Make,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattr: Option<Vec<u8>>,
}

fn make() -> impl Strategy<Value = Make> {
    let pieces = prop::collection::vec((0..2_000_000u32, prop::collection::vec(any::<u8>(), 0..9000)), 0..4);
    let kinds = [FileType::CharacterDevice, FileType::BlockDevice, FileType::Fifo, FileType::Socket];
    prop_oneof![
        3 => Just(Make::Directory),
        4 => (pieces, 0..100_000u32).prop_map(|(pieces, tail)| Make::File { pieces, tail }),
        1 => prop::collection::vec(1..=255u8, 1..200).prop_map(Make::Symlink),
        2 => any::<prop::sample::Index>().prop_map(Make::Hardlink),
        1 => (prop::sample::select(kinds.to_vec()), 0..4096u32, 0..100_000u32)
            .prop_map(|(kind, major, minor)| Make::Node(kind, major, minor)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let byte = (1..=255u8).prop_filter("no separator", |byte| *byte != b'/');
    let name = prop::collection::vec(byte, 1..30).prop_filter("a real name", |name| name != b"." && name != b"..");
    let common = (0..0o10000u32, (0..70_000u32, 0..70_000u32), (-1000..4_000_000_000i64, 0..1_000_000_000u32));
    let xattr = prop::option::of(prop::collection::vec(any::<u8>(), 0..500));
    (any::<prop::sample::Index>(), name, make(), common, xattr).prop_map(
        |(parent, name, make, (mode, owner, mtime), xattr)| Step { parent, name, make, mode, owner, mtime, xattr },
    )
}

/// Does what can be done of the steps.
fn grow(top: &Path, steps: &[Step]) {
    let (mut directories, mut others, mut times) = (vec![top.to_owned()], Vec::<PathBuf>::new(), Vec::new());
    for step in steps {
        let path = step.parent.get(&directories).join(std::ffi::OsStr::from_bytes(&step.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &step.make {
            Make::Directory => {
                std::fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            Make::File { pieces, tail } => {
                let file = File::create(&path).unwrap();
                pieces.iter().for_each(|(offset, data)| file.write_all_at(data, u64::from(*offset)).unwrap());
                file.set_len(file.metadata().unwrap().len() + u64::from(*tail)).unwrap();
            }
            Make::Symlink(target) => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path).unwrap();
            }
            Make::Hardlink(first) => {
                if !others.is_empty() {
                    std::fs::hard_link(first.get(&others), &path).unwrap();
                }
                continue;
            }
            Make::Node(kind, major, minor) => node(&path, *kind, *major, *minor),
        }
        if !matches!(step.make, Make::Directory) {
            others.push(path.clone());
        }
        let (uid, gid) = (Uid::from_raw(step.owner.0), Gid::from_raw(step.owner.1));
        rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if !matches!(step.make, Make::Symlink(_)) {
            rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(step.mode), AtFlags::empty()).unwrap();
        }
        if let Some(value) = &step.xattr {
            set(&path, "trusted.drover", value);
        }
        times.push((path, step.mtime));
    }
    for (path, (tv_sec, nanos)) in times.into_iter().rev() {
        let time = Timespec { tv_sec, tv_nsec: i64::from(nanos) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_tree_arrives_as_it_was(steps in prop::collection::vec(step(), 0..40)) {
        if is_root() {
            let tree = tempfile::tempdir().unwrap();
            grow(tree.path(), &steps);
            cross(tree.path());
        }
    }

    #[test]
    fn no_bytes_make_apply_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), header in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let stream = if header { [b"DRVLAYER\x01\0\0\0\x01\x01\0\0".to_vec(), bytes].concat() } else { bytes };
        let _ = apply(directory.path(), &mut stream.as_slice());
    }
}
