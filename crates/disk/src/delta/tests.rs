//! Trees that travel become equal, whatever happened to them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drover_model::Compression;
use drover_sys::words::{PAGE_WORDS, Sharing, Words};
use proptest::prelude::*;
use rustix::fs::{CWD, FallocateFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::*;
use crate::layer::{self, LayerError};

/// Something that a program does to a tree, by the numbers of names.
#[derive(Debug, Clone)]
enum Deed {
    Write { name: u8, offset: u32, length: u16, fill: u8 },
    Truncate { name: u8, size: u32 },
    PunchHole { name: u8, offset: u32, length: u16 },
    MapAndWrite { name: u8, page: u8, fill: u8 },
    Replace { name: u8, fill: u8, length: u16 },
    Rename { from: u8, to: u8 },
    Swap { one: u8, other: u8 },
    Link { from: u8, to: u8 },
    Remove { name: u8 },
    Directory { name: u8 },
    Symlink { name: u8, target: u8 },
    Node { name: u8, kind: u8 },
    Mode { name: u8, mode: u16 },
    Owner { name: u8, owner: u16 },
    Time { name: u8, seconds: i32, nanos: u32 },
    Attribute { name: u8, attribute: u8, value: Vec<u8> },
    NoAttribute { name: u8, attribute: u8 },
}

fn deed() -> impl Strategy<Value = Deed> {
    use Deed::*;
    let name = || 0..NAMES;
    prop_oneof![
        6 => (name(), 0..3_000_000_u32, 0..20_000_u16, any::<u8>())
            .prop_map(|(name, offset, length, fill)| Write { name, offset, length, fill }),
        2 => (name(), 0..100_u32, 0..20_000_u16, any::<u8>())
            .prop_map(|(name, offset, length, fill)| Write { name, offset, length, fill }),
        2 => (name(), 0..2_500_000_u32).prop_map(|(name, size)| Truncate { name, size }),
        2 => (name(), 0..2_500_000_u32, any::<u16>())
            .prop_map(|(name, offset, length)| PunchHole { name, offset, length }),
        2 => (name(), any::<u8>(), any::<u8>()).prop_map(|(name, page, fill)| MapAndWrite { name, page, fill }),
        3 => (name(), any::<u8>(), any::<u16>()).prop_map(|(name, fill, length)| Replace { name, fill, length }),
        4 => (name(), name()).prop_map(|(from, to)| Rename { from, to }),
        2 => (name(), name()).prop_map(|(one, other)| Swap { one, other }),
        3 => (name(), name()).prop_map(|(from, to)| Link { from, to }),
        3 => name().prop_map(|name| Remove { name }),
        3 => name().prop_map(|name| Directory { name }),
        2 => (name(), any::<u8>()).prop_map(|(name, target)| Symlink { name, target }),
        2 => (name(), any::<u8>()).prop_map(|(name, kind)| Node { name, kind }),
        2 => (name(), any::<u16>()).prop_map(|(name, mode)| Mode { name, mode }),
        1 => (name(), any::<u16>()).prop_map(|(name, owner)| Owner { name, owner }),
        2 => (name(), any::<i32>(), 0..1_000_000_000_u32)
            .prop_map(|(name, seconds, nanos)| Time { name, seconds, nanos }),
        2 => (name(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(name, attribute, value)| Attribute { name, attribute, value }),
        1 => (name(), any::<u8>()).prop_map(|(name, attribute)| NoAttribute { name, attribute }),
    ]
}

const NAMES: u8 = 20;

/// Few names, in few directories, so that deeds meet.
fn path(root: &Path, name: u8) -> PathBuf {
    let file = OsString::from_vec(match name % 5 {
        0 => b"a".to_vec(),
        1 => b"\xff not text \n".to_vec(),
        2 => vec![b'l'; 255],
        3 => b"a-b".to_vec(),
        _ => b"d".to_vec(),
    });
    match name / 5 {
        0 => root.join(file),
        1 => root.join("d").join(file),
        2 => root.join("d/d").join(file),
        _ => root.join("a").join(file),
    }
}

/// Does it if it can be done; a program's mistakes are no concern of ours.
fn attempt(root: &Path, deed: &Deed) -> io::Result<()> {
    let at = |name: &u8| path(root, *name);
    let open = |name: &u8, create: bool| -> io::Result<File> {
        let path = at(name);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)
    };
    match deed {
        Deed::Write { name, offset, length, fill } => {
            // Not the same in any two blocks.
            let data: Vec<u8> = (0..u32::from(*length)).map(|i| fill.wrapping_add((i >> 8) as u8)).collect();
            open(name, true)?.write_all_at(&data, u64::from(*offset))
        }
        Deed::Truncate { name, size } => open(name, false)?.set_len(u64::from(*size)),
        Deed::PunchHole { name, offset, length } => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(open(name, false)?, flags, u64::from(*offset), u64::from(*length).max(1))?)
        }
        Deed::MapAndWrite { name, page, fill } => {
            let file = open(name, false)?;
            let (size, offset) = (file.metadata()?.len(), u64::from(*page) * 4096);
            if offset + 4096 > size {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Words::of_file(&file, usize::from(*page), 1, Sharing::Shared)?.write(9, u64::from(*fill));
            Ok(())
        }
        Deed::Replace { name, fill, length } => {
            let new = root.join("new");
            fs::write(&new, vec![*fill; usize::from(*length)])?;
            fs::rename(&new, at(name)).inspect_err(|_| drop(fs::remove_file(&new)))
        }
        Deed::Rename { from, to } => fs::rename(at(from), at(to)),
        Deed::Swap { one, other } => {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            Ok(rustix::fs::renameat_with(CWD, at(one), CWD, at(other), flags)?)
        }
        Deed::Link { from, to } => fs::hard_link(at(from), at(to)),
        Deed::Remove { name } => match fs::symlink_metadata(at(name))?.is_dir() {
            true => fs::remove_dir_all(at(name)),
            false => fs::remove_file(at(name)),
        },
        Deed::Directory { name } => fs::create_dir(at(name)),
        Deed::Symlink { name, target } => std::os::unix::fs::symlink(format!("../{target}"), at(name)),
        Deed::Node { name, kind } => {
            let (kind, device) = match kind % 4 {
                // A whiteout.
                0 => (FileType::CharacterDevice, 0),
                1 => (FileType::BlockDevice, rustix::fs::makedev(7, 300)),
                2 => (FileType::Fifo, 0),
                _ => (FileType::Socket, 0),
            };
            Ok(rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device)?)
        }
        Deed::Mode { name, mode } => {
            if fs::symlink_metadata(at(name))?.is_symlink() {
                return Ok(());
            }
            fs::set_permissions(at(name), fs::Permissions::from_mode(u32::from(*mode) & 0o7777))
        }
        Deed::Owner { name, owner } => {
            let (uid, gid) = (Uid::from_raw(u32::from(*owner)), Gid::from_raw(u32::from(*owner) * 2));
            Ok(rustix::fs::chownat(CWD, at(name), Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
        }
        Deed::Time { name, seconds, nanos } => {
            let time = Timespec { tv_sec: i64::from(*seconds), tv_nsec: i64::from(*nanos) };
            let times = Timestamps { last_access: time, last_modification: time };
            Ok(rustix::fs::utimensat(CWD, at(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
        }
        Deed::Attribute { name, attribute, value } => {
            Ok(rustix::fs::lsetxattr(at(name), attribute_name(*attribute), value, XattrFlags::empty())?)
        }
        Deed::NoAttribute { name, attribute } => Ok(rustix::fs::lremovexattr(at(name), attribute_name(*attribute))?),
    }
}

fn attribute_name(number: u8) -> &'static str {
    ["user.note", "trusted.overlay.opaque", "trusted.other"][usize::from(number % 3)]
}

/// A tree that travels, and where it arrives.
struct Journey {
    source: tempfile::TempDir,
    target: tempfile::TempDir,
}

impl Journey {
    fn new() -> Self {
        // Beside this program, which is on no file system in memory.
        let program = std::env::current_exe().unwrap();
        let new = || tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let journey = Self { source: new(), target: new() };
        fs::create_dir(journey.target.path().join("tree")).unwrap();
        fs::create_dir(journey.target.path().join("aside")).unwrap();
        fs::create_dir_all(journey.target.path().join("layer/tree")).unwrap();
        journey
    }

    fn root(&self) -> &Path {
        self.source.path()
    }

    fn tree(&self) -> Tree {
        Tree { path: self.root().to_owned(), in_memory: false }
    }

    fn arrived(&self) -> PathBuf {
        self.target.path().join("tree")
    }

    /// A layer that both have.
    fn bases(&self) -> Vec<PathBuf> {
        vec![self.target.path().join("layer/tree")]
    }

    fn place(&self) -> Place {
        Place { path: self.arrived(), aside: Some(self.target.path().join("aside")) }
    }

    fn receive(&self, stream: &[u8]) -> Result<usize, LayerError> {
        let mut rounds = 0;
        receive(&[self.place()], || self.bases(), stream, |_, _| Ok(()), || rounds += 1)?;
        assert_eq!(fs::read_dir(self.target.path().join("aside")).unwrap().count(), 0, "nothing stays aside");
        Ok(rounds)
    }

    /// Both trees are the same in every attribute.
    fn check(&self) {
        let digest = |path: &Path| layer::pack(path, &mut io::sink()).unwrap().digest;
        if digest(self.root()) != digest(&self.arrived()) {
            panic!("they differ:\n{}\n{}", listing(self.root()), listing(&self.arrived()));
        }
    }
}

fn listing(path: &Path) -> String {
    fn add(path: &Path, root: &Path, text: &mut String) {
        let metadata = fs::symlink_metadata(path).unwrap();
        let (size, mode, nlink) = (metadata.size(), metadata.mode(), metadata.nlink());
        let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
        let hash = if metadata.is_file() {
            fs::read(path).ok().map(|data| blake3::hash(&data).to_hex()[..8].to_owned())
        } else {
            None
        };
        let name = path.strip_prefix(root).unwrap().display();
        text.push_str(&format!("{name} {mode:o} {size} x{nlink} {seconds}.{nanos} {hash:?}\n"));
        if metadata.is_dir() {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names.iter().for_each(|path| add(path, root, text));
        }
    }
    let mut text = String::new();
    add(path, path, &mut text);
    text
}

/// Whether no two changes of a file have the same time, once it was looked at (kernels from 6.13 on).
fn times_tell_all() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(13))
}

fn travel(rounds: &[Vec<Deed>], prepare: impl Fn(Source<&mut Vec<u8>>) -> Source<&mut Vec<u8>>) {
    let journey = Journey::new();
    let mut stream = Vec::new();
    let mut source = prepare(Source::new(&mut stream, Compression::Lz4, &[journey.tree()]).unwrap());
    for deeds in rounds {
        for deed in deeds {
            let _ = attempt(journey.root(), deed);
        }
        source.round().unwrap();
    }
    if let Some(deeds) = rounds.first() {
        for deed in deeds.iter().rev() {
            let _ = attempt(journey.root(), deed);
        }
    }
    source.last().unwrap();
    drop(source);
    assert_eq!(journey.receive(&stream).unwrap(), rounds.len());
    journey.check();
}

/// What the target says it has.
fn told(journey: &Journey) -> Result<Having, LayerError> {
    let mut having = Vec::new();
    tell(&[journey.place()], &mut having)?;
    hear(having.as_slice())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_become_equal(rounds in proptest::collection::vec(proptest::collection::vec(deed(), 0..30), 1..5)) {
        travel(&rounds, |source| source);
    }

    #[test]
    fn trees_become_equal_where_times_alone_tell_what_changed(
        rounds in proptest::collection::vec(proptest::collection::vec(deed(), 0..30), 1..5)
    ) {
        if times_tell_all() {
            travel(&rounds, |source| source.trusting());
        }
    }

    #[test]
    fn trees_become_equal_where_the_kernel_does_not_tell_of_pages(
        rounds in proptest::collection::vec(proptest::collection::vec(deed(), 0..20), 1..4)
    ) {
        travel(&rounds, |source| if times_tell_all() { source.without_watching().trusting() } else { source.without_watching() });
    }

    #[test]
    fn a_tree_becomes_equal_to_another_one_whatever_is_there(
        there in proptest::collection::vec(deed(), 0..40),
        here in proptest::collection::vec(deed(), 0..40),
        later in proptest::collection::vec(deed(), 0..20),
    ) {
        let journey = Journey::new();
        for (root, deeds) in [(journey.arrived(), &there), (journey.root().to_owned(), &there), (journey.root().to_owned(), &here)] {
            for deed in deeds {
                let _ = attempt(&root, deed);
            }
        }
        let mut stream = Vec::new();
        let having = told(&journey).unwrap();
        let mut source = Source::beyond(having, &mut stream, Compression::None, &[journey.tree()]).unwrap();
        source.round().unwrap();
        for deed in &later {
            let _ = attempt(journey.root(), deed);
        }
        source.last().unwrap();
        drop(source);
        journey.receive(&stream).unwrap();
        journey.check();
    }

    #[test]
    fn what_a_hostile_target_says_it_has_is_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..4),
        length in any::<prop::sample::Index>(),
    ) {
        let journey = Journey::new();
        for deed in [
            Deed::Directory { name: 4 },
            Deed::Write { name: 0, offset: 100_000, length: 9000, fill: 1 },
            Deed::Link { from: 0, to: 7 },
            Deed::Symlink { name: 3, target: 0 },
        ] {
            attempt(&journey.arrived(), &deed).unwrap();
        }
        let mut having = Vec::new();
        tell(&[journey.place()], &mut having).unwrap();
        prop_assert!(hear(having.as_slice()).is_ok());
        prop_assert!(hear(&having[..length.index(having.len())]).is_err(), "an end that comes early");
        let _ = hear([&having[..10], &bytes].concat().as_slice());
        for (index, flip) in &flips {
            let index = index.index(having.len());
            having[index] ^= flip;
        }
        // Whatever is believed: the source sends what it can, and goes on.
        let Ok(having) = hear(having.as_slice()) else { return Ok(()) };
        attempt(journey.root(), &Deed::Write { name: 0, offset: 0, length: 9000, fill: 1 }).unwrap();
        let mut stream = Vec::new();
        let mut source = Source::beyond(having, &mut stream, Compression::None, &[journey.tree()]).unwrap();
        source.round().unwrap();
        source.last().unwrap();
        drop(source);
        let _ = journey.receive_hostile(&stream);
    }

    #[test]
    fn hostile_streams_are_refused_and_lead_nowhere(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..4),
    ) {
        let journey = Journey::new();
        let deeds = [
            Deed::Directory { name: 4 },
            Deed::Write { name: 0, offset: 0, length: 9000, fill: 1 },
            Deed::Link { from: 0, to: 7 },
            Deed::Symlink { name: 3, target: 0 },
        ];
        for deed in &deeds {
            attempt(journey.root(), deed).unwrap();
        }
        let mut stream = Vec::new();
        let mut source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
        source.round().unwrap();
        fs::rename(path(journey.root(), 0), path(journey.root(), 8)).unwrap();
        source.last().unwrap();
        drop(source);
        let mut spoilt = stream.clone();
        for (index, flip) in &flips {
            let index = index.index(spoilt.len());
            spoilt[index] ^= flip;
        }
        let _ = journey.receive_hostile(&spoilt);
        let mut invented = stream[..12].to_vec();
        invented.extend([0]);
        invented.extend((bytes.len() as u32).to_le_bytes());
        invented.extend((bytes.len() as u32).to_le_bytes());
        invented.extend(&bytes);
        let _ = journey.receive_hostile(&invented);
        let mut outside: Vec<OsString> = fs::read_dir(journey.target.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        outside.sort();
        prop_assert_eq!(outside, [OsStr::new("aside"), OsStr::new("layer"), OsStr::new("tree")]);
    }
}

impl Journey {
    fn receive_hostile(&self, stream: &[u8]) -> Result<Sent, LayerError> {
        receive(&[self.place()], || self.bases(), stream, |_, _| Ok(()), || ())
    }
}

/// The records of a stream in one block, as they are.
fn block(records: &[super::record::Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| record.write(&mut bytes).unwrap());
    let length = (bytes.len() as u32).to_le_bytes();
    [b"DRVDELTA", &1_u32.to_le_bytes()[..], &[0], &length, &length, &bytes].concat()
}

#[test]
fn more_than_there_is_room_for_is_refused_before_it_is_written() {
    use super::record::{Copied, Record};
    use crate::layer::TreePath;
    let journey = Journey::new();
    let tree_path = |text: &str| TreePath::parse(text.as_bytes().to_vec()).unwrap();
    let copied = Copied { base: 0, path: tree_path("x"), from: 0, length: 4 << 20, name: [0; 16] };
    let stream = block(&[Record::Tree(0), Record::File(tree_path("f"), 1 << 40), Record::Copy(0, copied), Record::End]);
    let mut asked = Vec::new();
    let room = |_: &Place, bytes: u64| {
        asked.push(bytes);
        if bytes > 1 << 20 { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
    };
    let refused = receive(&[journey.place()], || journey.bases(), &stream[..], room, || ()).unwrap_err();
    assert!(matches!(refused, LayerError::Room(_)), "{refused}");
    assert_eq!(asked, [256, 4 << 20], "an entry, and what was to be copied");
}

#[test]
fn a_file_that_is_said_to_be_endless_takes_no_memory() {
    let entry = |kind: u8, path: &[u8]| {
        let length = (path.len() as u16).to_le_bytes();
        [&[1, kind][..], &length, path, &[7; 16]].concat()
    };
    let size: u64 = 1 << 60;
    let last = size / 4096 - 1;
    let file = [&size.to_le_bytes()[..], &1_u32.to_le_bytes(), &last.to_le_bytes(), &[9; 16], &0_u32.to_le_bytes()];
    let told = [b"DRVHAVE\x01", &[1, 0][..], &entry(1, b""), &entry(2, b"f"), &file.concat(), &[0, 0]].concat();
    let having = hear(&told[..]).unwrap();
    let journey = Journey::new();
    fs::write(journey.root().join("f"), [1; 5000]).unwrap();
    let mut stream = Vec::new();
    let mut source = Source::beyond(having, &mut stream, Compression::None, &[journey.tree()]).unwrap();
    source.round().unwrap();
    source.last().unwrap();
    drop(source);
    journey.receive(&stream).unwrap();
    journey.check();
}

/// What a peer could say who means harm: every one of these is refused, and the file outside stays as it is.
#[test]
fn records_that_would_lead_outside_are_refused() {
    use super::record::{Body, Record};
    use crate::layer::TreePath;
    let attributes = || crate::layer::Attributes { mode: 0o777, ..Default::default() };
    let tree_path = |text: &str| TreePath::parse(text.as_bytes().to_vec()).unwrap();
    let link = |target: &Path| {
        Record::Make(tree_path("out"), attributes(), Body::Symlink(target.as_os_str().as_bytes().to_vec()))
    };
    let below = || tree_path("out/file");
    let hostile: Vec<Vec<Record>> = vec![
        vec![Record::File(below(), 0)],
        vec![Record::Remove(below())],
        vec![Record::Aside(below(), 1)],
        vec![Record::Link(tree_path("in"), below())],
        vec![Record::Link(below(), tree_path("out"))],
        vec![Record::Make(below(), attributes(), Body::Directory)],
        vec![Record::File(tree_path("out"), 0)],
        vec![Record::Remove(TreePath::top())],
        vec![Record::Aside(TreePath::top(), 1)],
        vec![Record::Make(TreePath::top(), attributes(), Body::Symlink(b"/".to_vec()))],
        vec![Record::File(tree_path("f"), 10), Record::Hole(5, 10)],
        vec![Record::File(tree_path("f"), 10), Record::Hole(u64::MAX >> 4, u64::MAX >> 4)],
        vec![Record::File(tree_path("f"), 10), Record::Round],
        vec![Record::Hole(0, 1)],
        vec![Record::Attributes(attributes())],
        vec![Record::Tree(1)],
        vec![Record::Make(tree_path("dir"), attributes(), Body::Directory), Record::Aside(tree_path("dir"), 1)],
        vec![Record::Back(tree_path("x"), 7)],
    ];
    for records in hostile {
        let journey = Journey::new();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "mine").unwrap();
        let mut body = Vec::new();
        for record in std::iter::once(link(outside.path())).chain(records.iter().cloned()) {
            record.write(&mut body).unwrap();
        }
        Record::End.write(&mut body).unwrap();
        let mut stream = [&super::record::MAGIC[..], &super::record::VERSION.to_le_bytes(), &[0]].concat();
        stream.extend((body.len() as u32).to_le_bytes().repeat(2));
        stream.extend(&body);
        let received = journey.receive_hostile(&stream);
        assert!(received.is_err(), "{records:?}");
        assert_eq!(fs::read(outside.path().join("file")).unwrap(), b"mine", "{records:?}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{records:?}");
        assert_eq!(fs::metadata(outside.path().join("file")).unwrap().nlink(), 1, "{records:?}");
    }
}

#[test]
fn of_a_file_that_is_changed_in_place_the_changed_blocks_cross() {
    for watching in [true, false] {
        let journey = Journey::new();
        let data: Vec<u8> = (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let file = journey.root().join("base");
        fs::write(&file, &data).unwrap();
        let mut stream = Vec::new();
        let mut source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
        if !watching {
            source = source.without_watching();
        }
        assert_eq!(source.round().unwrap().content, 8 << 20);
        let open = OpenOptions::new().write(true).open(&file).unwrap();
        for block in (0..1024_u64).step_by(20) {
            open.write_all_at(&[block as u8 | 1; 8192], block * 8192).unwrap();
        }
        let changed = 52 * 8192;
        let sent = source.round().unwrap();
        assert_eq!(sent.content, changed);
        assert!(sent.bytes < changed * 11 / 10, "{sent:?}");
        assert_eq!(source.round().unwrap().content, 0);
        source.last().unwrap();
        drop(source);
        journey.receive(&stream).unwrap();
        journey.check();
    }
}

#[test]
fn of_what_the_target_has_only_the_changes_cross() {
    let journey = Journey::new();
    let content: Vec<u8> = (0..8 << 20_u32).map(|i| ((i / 7) ^ (i >> 9)) as u8).collect();
    for name in ["base", "other"] {
        fs::write(journey.root().join(name), &content).unwrap();
    }
    fs::hard_link(journey.root().join("base"), journey.root().join("link")).unwrap();
    fs::create_dir(journey.root().join("directory")).unwrap();
    for number in 0..200 {
        fs::write(journey.root().join(format!("directory/{number}")), number.to_string()).unwrap();
    }
    let send = |having| {
        let mut stream = Vec::new();
        let mut source = Source::beyond(having, &mut stream, Compression::None, &[journey.tree()]).unwrap();
        let sent = source.last().unwrap();
        drop(source);
        journey.receive(&stream).unwrap();
        journey.check();
        sent
    };
    send(Having::default());
    assert_eq!(send(told(&journey).unwrap()).entries, 0);
    let base = OpenOptions::new().write(true).open(journey.root().join("base")).unwrap();
    base.write_all_at(b"changed", 5 << 20).unwrap();
    fs::write(journey.root().join("directory/7"), "another").unwrap();
    fs::remove_file(journey.root().join("directory/8")).unwrap();
    let sent = send(told(&journey).unwrap());
    assert_eq!((sent.entries, sent.content), (3, 4096 + 7), "{sent:?}");
    assert!(sent.bytes < 6000, "{sent:?}");
}

/// A name that was there made a second file of one that had come under a new name before.
#[test]
fn hard_links_stay_whatever_their_names_were_before() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        for told_first in [true, false] {
            let journey = Journey::new();
            fs::write(journey.root().join(second), "old").unwrap();
            let mut stream = Vec::new();
            let mut source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
            source.round().unwrap();
            if told_first {
                source.last().unwrap();
                drop(source);
                journey.receive(&std::mem::take(&mut stream)).unwrap();
                let having = told(&journey).unwrap();
                source = Source::beyond(having, &mut stream, Compression::None, &[journey.tree()]).unwrap();
            }
            fs::write(journey.root().join(first), "new").unwrap();
            fs::remove_file(journey.root().join(second)).unwrap();
            fs::hard_link(journey.root().join(first), journey.root().join(second)).unwrap();
            source.last().unwrap();
            drop(source);
            journey.receive(&stream).unwrap();
            journey.check();
        }
    }
}

#[test]
fn what_is_in_a_layer_of_the_image_does_not_cross() {
    let journey = Journey::new();
    let layer = &journey.bases()[0];
    let mut content = vec![0; 5_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    fs::create_dir(layer.join("usr")).unwrap();
    fs::write(layer.join("usr/library"), &content).unwrap();
    // As a copy-up leaves it, and as part of something else.
    fs::write(journey.root().join("library"), &content).unwrap();
    fs::write(journey.root().join("built"), [&b"begins otherwise"[..], &content[1_000_000..4_000_000]].concat())
        .unwrap();
    let mut stream = Vec::new();
    let source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
    let mut source = source.over(journey.bases());
    let sent = source.round().unwrap();
    source.last().unwrap();
    drop(source);
    assert!(sent.content < 400_000, "{sent:?} of 8 MB that are there already");
    journey.receive(&stream).unwrap();
    journey.check();
    // One that differs on the target is noticed, and nothing that lies outside is read.
    fs::write(layer.join("usr/library"), vec![1; 5_000_000]).unwrap();
    let refused = journey.receive(&stream).unwrap_err().to_string();
    assert!(refused.contains("is not what it is on the source"), "{refused}");
    fs::remove_dir_all(layer.join("usr")).unwrap();
    std::os::unix::fs::symlink("/usr", layer.join("usr")).unwrap();
    assert!(matches!(journey.receive(&stream).unwrap_err(), LayerError::File { .. }));
}

#[test]
fn a_file_that_gets_another_name_does_not_cross_again() {
    let journey = Journey::new();
    for segment in 0..3 {
        fs::write(journey.root().join(format!("segment-{segment}")), vec![segment + 1; 1 << 20]).unwrap();
    }
    let mut stream = Vec::new();
    let mut source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
    source.round().unwrap();
    // As databases use their logs again: the oldest gets a new name, two others change theirs.
    fs::rename(journey.root().join("segment-0"), journey.root().join("segment-3")).unwrap();
    fs::rename(journey.root().join("segment-1"), journey.root().join("other")).unwrap();
    fs::rename(journey.root().join("segment-2"), journey.root().join("segment-1")).unwrap();
    let sent = source.round().unwrap();
    assert_eq!(sent.content, 0, "{sent:?}");
    source.last().unwrap();
    drop(source);
    journey.receive(&stream).unwrap();
    journey.check();
}

#[test]
fn a_mapping_that_is_written_to_between_rounds_is_noticed() {
    let journey = Journey::new();
    let path = journey.root().join("mapped");
    fs::write(&path, vec![1; 3 << 20]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut mapped = Words::of_file(&file, 0, 768, Sharing::Shared).unwrap();
    mapped.write(5 * PAGE_WORDS, 2);
    let mut stream = Vec::new();
    let source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
    let mut source = if times_tell_all() { source.trusting() } else { source };
    source.round().unwrap();
    // The page was writable already: nothing but cleaning it lets the kernel see this.
    mapped.write(5 * PAGE_WORDS, 3);
    mapped.write(700 * PAGE_WORDS, 4);
    let sent = source.round().unwrap();
    assert_eq!(sent.content, 2 * 4096, "{sent:?}");
    mapped.write(5 * PAGE_WORDS, 5);
    source.last().unwrap();
    drop(source);
    journey.receive(&stream).unwrap();
    journey.check();
}

/// Programs make and remove directories while they are looked at.
#[test]
fn directories_may_come_and_go_while_they_are_looked_at() {
    let journey = Journey::new();
    let removed = Arc::new(AtomicBool::new(false));
    let (root, ended) = (journey.root().to_owned(), Arc::clone(&removed));
    let program = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            fs::create_dir_all(root.join("a/b")).unwrap();
            fs::write(root.join("a/b/c"), "c").unwrap();
            fs::remove_dir_all(root.join("a")).unwrap();
        }
    });
    let mut stream = Vec::new();
    let mut source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
    for _ in 0..1000 {
        source.round().unwrap();
    }
    removed.store(true, Ordering::Relaxed);
    program.join().unwrap();
    source.last().unwrap();
    drop(source);
    journey.receive(&stream).unwrap();
    journey.check();
}

#[test]
fn a_large_sparse_file_takes_no_time_and_its_holes_stay() {
    let journey = Journey::new();
    let file = File::create(journey.root().join("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"far", (1 << 39) + 77).unwrap();
    let mut stream = Vec::new();
    let mut source = Source::new(&mut stream, Compression::None, &[journey.tree()]).unwrap();
    assert_eq!(source.round().unwrap().content, 4096);
    file.write_all_at(b"farther", (1 << 39) + (1 << 30)).unwrap();
    let sent = source.last().unwrap();
    drop(source);
    assert_eq!(sent.content, 4096);
    journey.receive(&stream).unwrap();
    let arrived = fs::metadata(journey.arrived().join("sparse")).unwrap();
    assert!(arrived.size() == 1 << 40 && arrived.blocks() < 1000, "{arrived:?}");
    journey.check();
}

#[test]
fn a_tree_in_memory_is_compared_by_content() {
    let source_root = tempfile::tempdir_in("/dev/shm").unwrap();
    let journey = Journey::new();
    let path = source_root.path().join("segment");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut mapped = Words::of_file(&file, 0, 256, Sharing::Shared).unwrap();
    mapped.write(3 * PAGE_WORDS, 1);
    let mut stream = Vec::new();
    // Found out without being told.
    let tree = Tree { path: source_root.path().to_owned(), in_memory: false };
    let mut source = Source::new(&mut stream, Compression::None, &[tree]).unwrap();
    source.round().unwrap();
    mapped.write(3 * PAGE_WORDS, 2);
    let sent = source.last().unwrap();
    drop(source);
    assert_eq!(sent.content, 4096);
    journey.receive(&stream).unwrap();
    let digest = |path: &Path| layer::pack(path, &mut io::sink()).unwrap().digest;
    assert_eq!(digest(source_root.path()), digest(&journey.arrived()));
}
