//! What a container has changed as one more layer on its image.

use std::collections::HashMap;
use std::io::{self, BufWriter, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use drover_model::{Digest, ImageStep};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Image, ImageError, ImageStore, config, names, unpack};
use crate::layer::{CHUNK, TreePath};
use crate::place::{Links, open_directory, open_top};
use crate::xattr;

/// What the agent writes into each container: it is no change of the program's.
const OWN_FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];
/// The names that overlayfs gives what it keeps for itself.
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// What has been read of a container, not an image yet.
#[derive(Debug)]
pub struct Draft(super::Staging, unpack::Unpacked);

impl ImageStore {
    /// Reads an upper layer, in which nothing changes meanwhile.
    ///
    /// # Errors
    /// When it cannot be read or the disk refuses; nothing is left of it.
    pub fn draft(&self, upper: &Path) -> Result<Draft, ImageError> {
        let staging = self.stage()?;
        let (reader, writer) = io::pipe().map_err(ImageError::Read)?;
        let unpacked = std::thread::scope(|scope| {
            let packing = scope.spawn(|| pack(upper, writer));
            let unpacked = unpack::unpack(staging.path(), reader);
            let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // When unpacking fails its pipe closes, and packing ends by that: the cause comes first.
            match (unpacked, packed) {
                (Err(ImageError::Tar { source: Some(_), .. }), Err(why)) => Err(ImageError::store("read", upper)(why)),
                (Err(error), _) => Err(error),
                (Ok(_), Err(why)) => Err(ImageError::store("read", upper)(why)),
                (Ok(unpacked), Ok(())) => Ok(unpacked),
            }
        })?;
        Ok(Draft(staging, unpacked))
    }

    /// Makes an image of one that is there and what was read of a container, and calls it `name`.
    ///
    /// # Errors
    /// When the image is gone, has as many layers as can be, or the disk refuses.
    pub fn commit(
        &self,
        base: &Digest,
        draft: Draft,
        name: &str,
        by: &str,
        now: SystemTime,
    ) -> Result<Image, ImageError> {
        names::check(name)?;
        let Draft(staging, unpacked) = draft;
        let created = OffsetDateTime::from(now).format(&Rfc3339).ok();
        let step = ImageStep { created, created_by: Some(by.to_owned()), ..ImageStep::default() };
        let below = self.config(base)?;
        let config = config::extend(&below, &unpacked.diff_id, &step)?;
        let mut held = Vec::new();
        for diff_id in config::parse(&below)?.diff_ids {
            held.push(self.layers.hold(&diff_id, &self.lock()?)?.ok_or(ImageError::NoLayer(diff_id))?);
        }
        held.push(self.admit(staging, &unpacked)?);
        self.publish(&config, held, &[name.to_owned()], None, now)
    }
}

/// Writes an upper layer as a layer's tar.
fn pack(upper: &Path, out: PipeWriter) -> io::Result<()> {
    let top = open_top(upper)?;
    let out = Builder::new(BufWriter::with_capacity(CHUNK, out));
    let mut packer = Packer { top, out, seen: HashMap::new() };
    // The next path is on top, so names are pushed in descending order: a tree may be deeper than a stack.
    let mut ahead = vec![TreePath::top()];
    while let Some(path) = ahead.pop() {
        let names = packer.entry(&path)?;
        for name in names.into_iter().rev() {
            ahead.push(path.child(&name).map_err(|_| io::Error::from(Errno::NAMETOOLONG))?);
        }
    }
    packer.out.into_inner()?.flush()
}

struct Packer<W: Write> {
    top: OwnedFd,
    out: Builder<W>,
    /// Where a file with several names was met first, by device and inode.
    seen: HashMap<(u64, u64), TreePath>,
}

impl<W: Write> Packer<W> {
    /// Writes one entry; of a directory it gives the names inside, ascending.
    fn entry(&mut self, path: &TreePath) -> io::Result<Vec<Vec<u8>>> {
        if OWN_FILES.iter().any(|own| own.as_bytes() == path.as_bytes()) {
            return Ok(Vec::new());
        }
        let parent = open_directory(&self.top, &path.parent(), OFlags::RDONLY, Links::Refused)?;
        let stat = rustix::fs::statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            self.marker(&path.parent(), &[b".wh.", path.name()].concat(), &stat)?;
            return Ok(Vec::new());
        }
        // A socket without its program is nothing, and tar has no word for it.
        if kind == FileType::Socket {
            return Ok(Vec::new());
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.seen.get(&(stat.st_dev, stat.st_ino)).cloned() {
                let mut header = header(&stat, EntryType::Link);
                self.out.append_link(&mut header, as_path(path), as_path(&first))?;
                return Ok(Vec::new());
            }
            self.seen.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        let xattrs = xattr::read(&parent, path.name())?;
        let told = xattrs.iter().filter(|(name, _)| !name.starts_with(OVERLAY));
        let told: Vec<_> =
            told.map(|(name, value)| (format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), value)).collect();
        let mut records: Vec<(&str, &[u8])> =
            told.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        let mtime = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
        if stat.st_mtime >= 0 && stat.st_mtime_nsec != 0 {
            records.push(("mtime", mtime.as_bytes()));
        }
        if !records.is_empty() {
            self.out.append_pax_extensions(records.iter().copied())?;
        }
        self.node(&parent, path, &stat, kind)?;
        if kind != FileType::Directory {
            return Ok(Vec::new());
        }
        if xattrs.iter().any(|(name, value)| name == OPAQUE && value == b"y") && !path.is_top() {
            self.marker(path, b".wh..wh..opq", &stat)?;
        }
        names(&open_directory(&self.top, path, OFlags::RDONLY, Links::Refused)?)
    }

    fn node(&mut self, parent: &OwnedFd, path: &TreePath, stat: &Stat, kind: FileType) -> io::Result<()> {
        match kind {
            FileType::Directory => {
                self.out.append_data(&mut header(stat, EntryType::Directory), as_path(path), io::empty())
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = std::fs::File::from(rustix::fs::openat(parent, path.name(), flags, Mode::empty())?);
                let mut header = header(stat, EntryType::Regular);
                header.set_size(stat.st_size as u64);
                self.out.append_data(&mut header, as_path(path), io::Read::take(file, stat.st_size as u64))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, path.name(), Vec::new())?;
                let target = std::ffi::OsStr::from_bytes(target.as_bytes());
                self.out.append_link(&mut header(stat, EntryType::Symlink), as_path(path), target)
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let kind = if kind == FileType::BlockDevice { EntryType::Block } else { EntryType::Char };
                let mut header = header(stat, kind);
                header.set_device_major(rustix::fs::major(stat.st_rdev))?;
                header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
                self.out.append_data(&mut header, as_path(path), io::empty())
            }
            _ => self.out.append_data(&mut header(stat, EntryType::Fifo), as_path(path), io::empty()),
        }
    }

    /// An empty file whose name tells of the layers below.
    fn marker(&mut self, directory: &TreePath, name: &[u8], stat: &Stat) -> io::Result<()> {
        let path = directory.child(name).map_err(|_| io::Error::from(Errno::NAMETOOLONG))?;
        let mut header = header(stat, EntryType::Regular);
        header.set_mode(0o600);
        self.out.append_data(&mut header, as_path(&path), io::empty())
    }
}

fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

fn as_path(path: &TreePath) -> &Path {
    if path.is_top() { Path::new("./") } else { Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())) }
}

fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
