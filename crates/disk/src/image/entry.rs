//! What an entry of a tar says about a file: its path, its attributes, and what it is to the layers below.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::Entry;

use crate::layer::{Attributes, TreePath};

/// The prefix of extended attributes among pax records.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Attributes by which overlayfs knows its own: they would lead elsewhere in the layers below.
const OVERLAY: &[u8] = b"trusted.overlay.";
/// The most bytes of extended attributes of one entry.
const MOST_XATTR_BYTES: usize = 1 << 20;
/// The prefix of names that stand for something else (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The name that hides what the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Itself.
    Itself,
    /// The layers below have no file of this path.
    Hidden(TreePath),
    /// The layers below have nothing in this directory.
    Opaque(TreePath),
    /// Nothing: notes of a storage driver of old.
    Nothing,
}

/// What an entry of this path stands for.
pub(super) fn meaning(path: &TreePath) -> Result<Meaning, &'static str> {
    let name = path.name();
    let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(Meaning::Itself) };
    if name == OPAQUE {
        return Ok(Meaning::Opaque(path.parent()));
    }
    if hidden.starts_with(WHITEOUT) {
        return Ok(Meaning::Nothing);
    }
    let hidden = if hidden.is_empty() { Err("") } else { path.parent().child(hidden) };
    hidden.map(Meaning::Hidden).map_err(|_| "a whiteout hides no name:")
}

/// The attributes of a directory that the tar does not list.
pub(super) fn implied() -> Attributes {
    Attributes { mode: 0o755, ..Attributes::default() }
}

/// A path as tars write them, with `./` or `/` before it or `/` behind it.
pub(super) fn normalize(written: &[u8]) -> Result<TreePath, &'static str> {
    let names: Vec<&[u8]> =
        written.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    TreePath::parse(names.join(&b'/')).map_err(|_| "a path leads outside or is too long:")
}

pub(super) fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Attributes> {
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
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| !name.starts_with(OVERLAY)) {
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

    #[test]
    fn whiteouts_stand_for_something_else() {
        let path = |text: &[u8]| TreePath::parse(text.to_vec()).unwrap();
        assert_eq!(meaning(&path(b"etc/.whale")), Ok(Meaning::Itself));
        assert_eq!(meaning(&path(b"etc/.wh.passwd")), Ok(Meaning::Hidden(path(b"etc/passwd"))));
        assert_eq!(meaning(&path(b"etc/.wh..wh..opq")), Ok(Meaning::Opaque(path(b"etc"))));
        assert_eq!(meaning(&path(b".wh..wh.plnk")), Ok(Meaning::Nothing));
        for bad in [&b"etc/.wh."[..], b"etc/.wh..", b".wh..."] {
            assert!(meaning(&path(bad)).is_err(), "{bad:?}");
        }
    }
}
