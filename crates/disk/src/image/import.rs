//! Unpacking a tar of a root file system (POSIX pax, GNU and older forms) as hostile input.
//!
//! Links in the path to an entry are followed as if the tree's top were `/`, as they are when the tree is used; nothing
//! lands outside. Of two entries with one path the later one counts. Directories that the tar does not list belong to
//! root, with mode 0755 and the time zero, so that the same tar gives the same tree anywhere.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::ImageError;
use crate::layer::{Attributes, CHUNK, TreePath, runs, write_at};
use crate::place::{self, Links, open_directory};

/// The most entries of a tar, directories that it does not list among them.
const MOST_ENTRIES: usize = 10_000_000;
/// The prefix of extended attributes among pax records.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// The most bytes of extended attributes of one entry.
const MOST_XATTR_BYTES: usize = 1 << 20;

/// Unpacks into the existing empty directory `rootfs`.
pub(super) fn unpack(rootfs: &Path, tar: impl Read) -> Result<(), ImageError> {
    let top = rustix::fs::open(rootfs, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ImageError::store("open", rootfs)(errno.into()))?;
    let mut unpacking = Unpacking { top, directories: BTreeMap::new(), buffer: vec![0; CHUNK] };
    unpacking.directories.insert(TreePath::top(), implied());
    let damaged = |source| ImageError::Tar { what: "it is damaged".into(), source: Some(source) };
    let mut tar = io::BufReader::new(tar);
    if let Some(what) = no_tar(tar.fill_buf().map_err(damaged)?) {
        return Err(ImageError::Tar { what: what.into(), source: None });
    }
    let mut archive = Archive::new(tar);
    let mut entries = 0;
    for entry in archive.entries().map_err(damaged)? {
        entries += 1;
        if entries + unpacking.directories.len() > MOST_ENTRIES {
            return Err(ImageError::Tar { what: "it has too many entries".into(), source: None });
        }
        unpacking.entry(entry.map_err(damaged)?)?;
    }
    if entries == 0 {
        return Err(ImageError::Tar { what: "it is empty".into(), source: None });
    }
    unpacking.finish()
}

/// What a file is that is taken for a tar again and again, by its first bytes.
fn no_tar(first: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 5] = [
        (&[0x1f, 0x8b], "it is compressed (gzip): unpack it with gunzip first"),
        (b"BZh", "it is compressed (bzip2): unpack it with bunzip2 first"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "it is compressed (xz): unpack it with unxz first"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "it is compressed (zstd): unpack it with unzstd first"),
        (b"PK", "it is a zip archive: a tar is needed"),
    ];
    KINDS.iter().find(|(beginning, _)| first.starts_with(beginning)).map(|(_, what)| *what)
}

/// The attributes of a directory that the tar does not list.
fn implied() -> Attributes {
    Attributes { mode: 0o755, ..Attributes::default() }
}

struct Unpacking {
    top: OwnedFd,
    /// All directories with their attributes, which they get at the end. By the path in the tar: one that leads through
    /// a link is left as it is.
    directories: BTreeMap<TreePath, Attributes>,
    buffer: Vec<u8>,
}

impl Unpacking {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), ImageError> {
        let written = entry.path_bytes().into_owned();
        let wrong = |what: &str, source: Option<io::Error>| ImageError::Tar {
            what: format!("{what} {:?}", String::from_utf8_lossy(&written[..written.len().min(200)])),
            source,
        };
        let failed = |errno: Errno| wrong("cannot make", Some(errno.into()));
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = normalize(&written).map_err(|what| wrong(what, None))?;
        let attributes = attributes(&mut entry).map_err(|error| wrong("cannot read the attributes of", Some(error)))?;
        if path.is_top() && kind != EntryType::Directory {
            return Err(wrong("there is no directory at", None));
        }
        let parent = self.parent(&path.parent()).map_err(failed)?;
        let name = path.name();
        if kind != EntryType::Directory {
            // A later entry takes the place of an earlier one; a directory only if it is empty.
            remove_empty_directory(&parent, name).map_err(failed)?;
            self.directories.remove(&path);
        }
        let kind = match kind {
            EntryType::Directory => {
                if !path.is_top() {
                    make_directory_instead(&parent, name).map_err(failed)?;
                }
                self.directories.insert(path, attributes);
                return Ok(());
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let file = place::make_file(&parent, name).map_err(failed)?;
                self.fill(&file, &mut entry).map_err(|error| wrong("cannot write", Some(error)))?;
                FileType::RegularFile
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| wrong("a link has no target:", None))?;
                place::make_symlink(&parent, name, &target).map_err(failed)?;
                FileType::Symlink
            }
            EntryType::Link => {
                let first = entry.link_name_bytes().ok_or_else(|| wrong("a link has no target:", None))?;
                let first = normalize(&first).map_err(|what| wrong(what, None))?;
                let first_parent = open_directory(&self.top, &first.parent(), OFlags::RDONLY, Links::Inside);
                let first_parent = first_parent.map_err(failed)?;
                // The attributes are those of the first name.
                return place::make_link(first_parent, first.name(), &parent, name).map_err(failed);
            }
            EntryType::Char | EntryType::Block => {
                let (major, minor) = (entry.header().device_major(), entry.header().device_minor());
                let device = (major.ok().flatten().unwrap_or(0), minor.ok().flatten().unwrap_or(0));
                let kind = if kind == EntryType::Block { FileType::BlockDevice } else { FileType::CharacterDevice };
                place::make_node(&parent, name, kind, device).map_err(failed)?;
                kind
            }
            EntryType::Fifo => {
                place::make_node(&parent, name, FileType::Fifo, (0, 0)).map_err(failed)?;
                FileType::Fifo
            }
            _ => return Err(wrong("an entry is of an unknown kind:", None)),
        };
        place::settle(&parent, name, &attributes, kind)
            .map_err(|errno| wrong("cannot set the attributes of", Some(errno.into())))
    }

    /// Opens a directory, and makes what is missing of it.
    fn parent(&mut self, path: &TreePath) -> Result<OwnedFd, Errno> {
        match open_directory(&self.top, path, OFlags::RDONLY, Links::Inside) {
            Err(Errno::NOENT) if !path.is_top() => {}
            result => return result,
        }
        // As deep as a path can be: each step up loses at least two bytes.
        let above = self.parent(&path.parent())?;
        place::make_directory(&above, path.name())?;
        self.directories.entry(path.clone()).or_insert_with(implied);
        open_directory(&self.top, path, OFlags::RDONLY, Links::Inside)
    }

    fn fill(&mut self, file: &OwnedFd, data: &mut impl Read) -> io::Result<()> {
        let mut offset = 0;
        loop {
            let mut length = 0;
            while length < self.buffer.len() {
                match data.read(&mut self.buffer[length..])? {
                    0 => break,
                    read => length += read,
                }
            }
            if length == 0 {
                return Ok(rustix::fs::ftruncate(file, offset)?);
            }
            for (start, end) in runs(&self.buffer[..length]) {
                write_at(file, &self.buffer[start..end], offset + start as u64)?;
            }
            offset += length as u64;
        }
    }

    /// Gives the directories their attributes, the deepest first, so that no time changes again.
    fn finish(self) -> Result<(), ImageError> {
        for (path, attributes) in self.directories.iter().rev() {
            let settled = match open_directory(&self.top, &path.parent(), OFlags::RDONLY, Links::Refused) {
                Ok(parent) => {
                    let stat = rustix::fs::statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW);
                    match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                        Ok(FileType::Directory) => place::settle(&parent, path.name(), attributes, FileType::Directory),
                        Ok(_) | Err(Errno::NOENT) => Ok(()),
                        Err(errno) => Err(errno),
                    }
                }
                // By a path through a link, or since replaced.
                Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno),
            };
            settled.map_err(|errno| ImageError::Tar {
                what: format!("cannot set the attributes of {:?}", String::from_utf8_lossy(path.as_bytes())),
                source: Some(errno.into()),
            })?;
        }
        Ok(())
    }
}

/// A path as tars write them, with `./` or `/` before it or `/` behind it.
fn normalize(written: &[u8]) -> Result<TreePath, &'static str> {
    let names: Vec<&[u8]> =
        written.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    TreePath::parse(names.join(&b'/')).map_err(|_| "a path leads outside or is too long:")
}

fn remove_empty_directory(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// A directory takes the place of anything that is none. One that is reached by a link is taken over, as tars of merged
/// trees (`lib` a link to `usr/lib`) want it.
fn make_directory_instead(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match place::make_directory(parent, name) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode).is_symlink() {
                return Ok(());
            }
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            place::make_directory(parent, name)
        }
        result => result,
    }
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Attributes> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let header = entry.header();
    let id = |id: io::Result<u64>| id.and_then(|id| u32::try_from(id).map_err(|_| invalid()));
    let mut attributes = Attributes {
        mode: header.mode()? & 0o7777,
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        mtime: (i64::try_from(header.mtime()?).map_err(|_| invalid())?, 0),
        xattrs: Vec::new(),
    };
    let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        match record.key_bytes() {
            b"mtime" => attributes.mtime = parse_time(record.value_bytes()).ok_or_else(invalid)?,
            key if key.starts_with(b"GNU.sparse.") => return Err(io::ErrorKind::Unsupported.into()),
            key => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    xattrs.insert(name.to_vec(), record.value_bytes().to_vec());
                }
            }
        }
    }
    attributes.xattrs = xattrs.into_iter().collect();
    if attributes.xattr_bytes() > MOST_XATTR_BYTES { Err(invalid()) } else { Ok(attributes) }
}

/// Seconds with a fraction, as pax writes times: `1700000000.25`, also negative.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    match (whole.starts_with('-'), nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_are_understood() {
        assert_eq!(parse_time(b"1700000000.25"), Some((1_700_000_000, 250_000_000)));
        assert_eq!(parse_time(b"7"), Some((7, 0)));
        assert_eq!(parse_time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(parse_time(b"1.1234567899"), Some((1, 123_456_789)));
        for bad in [&b""[..], b"x", b"1.x", b"1.-5", b"\xff"] {
            assert_eq!(parse_time(bad), None);
        }
    }

    #[test]
    fn paths_are_normalized_but_never_upwards() {
        assert_eq!(normalize(b"./usr//bin/").unwrap().as_bytes(), b"usr/bin");
        assert!(normalize(b"./").unwrap().is_top());
        assert_eq!(normalize(b"/etc/passwd").unwrap().as_bytes(), b"etc/passwd");
        assert!(normalize(b"a/../../b").is_err());
    }
}
