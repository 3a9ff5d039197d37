//! Making files inside a tree, such that nothing can land outside of it.
//!
//! A parent is opened once, below the tree's top (openat2(2)); everything else names a single entry in it and follows
//! no link.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::layer::{Attributes, TreePath};
use crate::xattr;

/// What becomes of symbolic links in the path to a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are refused.
    Refused,
    /// They are followed as if the tree's top were `/`.
    Inside,
}

/// Opens the top of a tree.
pub(crate) fn open_top(tree: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(tree, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory of the tree.
pub(crate) fn open_directory(top: impl AsFd, path: &TreePath, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
    let resolve = match links {
        Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        Links::Inside => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    };
    let path = if path.is_top() { b"." } else { path.as_bytes() };
    open_within(top, path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, resolve)
}

/// Opens what is there, below `top`.
pub(crate) fn open_within(top: impl AsFd, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    // AGAIN: a rename somewhere made the kernel unsure whether `..` stayed inside.
    let attempt = || rustix::fs::openat2(&top, path, flags, Mode::empty(), resolve);
    match attempt() {
        Err(Errno::AGAIN) => attempt(),
        result => result,
    }
}

/// Makes a directory; one that exists is taken over.
pub(crate) fn make_directory(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() { Ok(()) } else { Err(Errno::EXIST) }
        }
        result => result,
    }
}

/// Makes something that is no directory, in place of what may be there and is no directory either.
fn instead<T>(parent: impl AsFd, name: &[u8], make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            make()
        }
        result => result,
    }
}

/// Makes an empty file, open for writing.
pub(crate) fn make_file(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    instead(&parent, name, || rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR))
}

pub(crate) fn make_symlink(parent: impl AsFd, name: &[u8], target: &[u8]) -> Result<(), Errno> {
    instead(&parent, name, || rustix::fs::symlinkat(target, &parent, name))
}

/// Makes a hard link to the entry `old_name` in `old_parent`, which is no directory.
pub(crate) fn make_link(old_parent: impl AsFd, old_name: &[u8], parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    instead(&parent, name, || rustix::fs::linkat(&old_parent, old_name, &parent, name, AtFlags::empty()))
}

/// Makes a device, a fifo or a socket; `device` is (major, minor), and means nothing for the latter two.
pub(crate) fn make_node(parent: impl AsFd, name: &[u8], kind: FileType, device: (u32, u32)) -> Result<(), Errno> {
    let device = rustix::fs::makedev(device.0, device.1);
    instead(&parent, name, || rustix::fs::mknodat(&parent, name, kind, Mode::empty(), device))
}

/// Sets the attributes of an entry, itself and not what it may link to.
///
/// The order matters: a change of owner clears set-id bits and capabilities; the time comes last.
pub(crate) fn settle(parent: impl AsFd, name: &[u8], attributes: &Attributes, kind: FileType) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !kind.is_symlink() {
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
    }
    xattr::write(&parent, name, &attributes.xattrs)?;
    let time = Timespec { tv_sec: attributes.mtime.0, tv_nsec: i64::from(attributes.mtime.1) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// As [`settle`], of an entry that may have extended attributes that it shall not have: what it was before, or what it got
/// from its directory.
pub(crate) fn settle_anew(
    parent: impl AsFd,
    name: &[u8],
    attributes: &Attributes,
    kind: FileType,
) -> Result<(), Errno> {
    for (present, _) in xattr::read(&parent, name)? {
        if !attributes.xattrs.iter().any(|(wanted, _)| *wanted == present) {
            xattr::remove(&parent, name, &present)?;
        }
    }
    settle(parent, name, attributes, kind)
}
