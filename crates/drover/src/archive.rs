//! A root file system as a stream of tar: from a directory, or from an archive that is there already.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use drover_api::ImageChunks;
use tar::{Builder, EntryType, Header, HeaderMode};
use tokio::sync::mpsc;

/// The size of a chunk in bytes.
const CHUNK: usize = 256 << 10;
/// How many chunks wait to be sent at most.
const CHUNKS_QUEUED: usize = 4;

/// Streams `path`, made by a thread of its own, which ends early when nobody takes the chunks any more.
pub fn stream(path: &Path) -> ImageChunks {
    let (sender, receiver) = mpsc::channel(CHUNKS_QUEUED);
    let path = path.to_owned();
    std::thread::spawn(move || {
        let sent = if path.is_dir() { write_directory(&path, Chunks(sender.clone())) } else { copy(&path, &sender) };
        if let Err(error) = sent {
            // The receiver breaks the import off; when it is gone, it did so by itself.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

fn copy(path: &Path, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        Chunks(sender.clone()).write_all(&chunk[..length])?;
    }
}

/// Each write becomes a chunk.
struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a directory's contents: owners, modes, times, symbolic and hard links, devices, extended attributes.
pub fn write_directory(root: &Path, to: impl Write) -> io::Result<()> {
    let mut builder = Builder::new(BufWriter::with_capacity(CHUNK, to));
    builder.mode(HeaderMode::Complete);
    builder.follow_symlinks(false);
    let mut links = HashMap::new();
    // Depth first, with a stack of its own: a tree may be deeper than a thread's stack.
    let mut waiting = vec![PathBuf::new()];
    while let Some(inside) = waiting.pop() {
        let path = root.join(&inside);
        append(&mut builder, &path, &inside, &mut links).map_err(|error| named(&path, error))?;
        if fs::symlink_metadata(&path)?.is_dir() {
            let mut entries = fs::read_dir(&path)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| inside.join(entry.file_name()))).collect())
                .map_err(|error| named(&path, error))?;
            let entries: &mut Vec<PathBuf> = &mut entries;
            // Sorted, so that the same directory always gives the same archive; backwards, as a stack gives them.
            entries.sort_by(|a, b| b.cmp(a));
            waiting.append(entries);
        }
    }
    builder.into_inner()?.flush()
}

type Links = HashMap<(u64, u64), PathBuf>;

fn append(builder: &mut Builder<impl Write>, path: &Path, inside: &Path, links: &mut Links) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if kind.is_socket() {
        // A socket without its program is nothing, and tar has no word for it.
        return Ok(());
    }
    let name = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    if metadata.nlink() > 1 && !metadata.is_dir() {
        let first = links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.to_owned());
        if first != name {
            let mut header = Header::new_gnu();
            header.set_metadata_in_mode(&metadata, HeaderMode::Complete);
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            return builder.append_link(&mut header, name, first);
        }
    }
    append_attributes(builder, path, &kind)?;
    if kind.is_dir() { builder.append_dir(name, path) } else { builder.append_path_with_name(path, name) }
}

/// Extended attributes, as GNU tar and bsdtar write them: `SCHILY.xattr.` and the name in a pax header.
fn append_attributes(builder: &mut Builder<impl Write>, path: &Path, kind: &fs::FileType) -> io::Result<()> {
    if !(kind.is_dir() || kind.is_file()) {
        return Ok(());
    }
    let mut attributes = Vec::new();
    for name in list_attributes(path)? {
        // What a security module thinks of a file is its own host's business.
        if name == "security.selinux" || name.starts_with("system.") || name.starts_with("trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..])?;
        value.truncate(length);
        attributes.push((format!("SCHILY.xattr.{name}"), value));
    }
    if attributes.is_empty() {
        return Ok(());
    }
    builder.append_pax_extensions(attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
}

fn list_attributes(path: &Path) -> io::Result<Vec<String>> {
    let mut names = vec![0; 64 << 10];
    match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => names.truncate(length),
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    let name = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_survives_packing_and_unpacking() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("etc/deep")).unwrap();
        fs::write(path("etc/one"), "one").unwrap();
        fs::set_permissions(path("etc/one"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::hard_link(path("etc/one"), path("two")).unwrap();
        symlink("../etc/one", path("etc/deep/sym")).unwrap();
        let long = format!("etc/{}", "x".repeat(200));
        fs::write(path(&long), vec![7; 100_000]).unwrap();
        let attributes =
            rustix::fs::lsetxattr(path("two"), "user.note", b"hi", rustix::fs::XattrFlags::empty()).is_ok();

        let mut packed = Vec::new();
        write_directory(root.path(), &mut packed).unwrap();
        let again = tempfile::tempdir().unwrap();
        let mut archive = tar::Archive::new(packed.as_slice());
        archive.set_preserve_permissions(true);
        archive.set_unpack_xattrs(true);
        archive.unpack(again.path()).unwrap();

        let path = |name: &str| again.path().join(name);
        assert_eq!(fs::read(path("two")).unwrap(), b"one");
        let one = fs::metadata(path("etc/one")).unwrap();
        assert_eq!(one.mode() & 0o7777, 0o4750);
        assert_eq!(one.ino(), fs::metadata(path("two")).unwrap().ino());
        assert_eq!(fs::read_link(path("etc/deep/sym")).unwrap(), Path::new("../etc/one"));
        assert_eq!(fs::metadata(path(&long)).unwrap().len(), 100_000);
        if attributes {
            let mut value = [0; 8];
            assert_eq!(rustix::fs::lgetxattr(path("two"), "user.note", &mut value[..]).unwrap(), 2);
        }
        let mut same = Vec::new();
        write_directory(root.path(), &mut same).unwrap();
        assert!(packed == same);
    }
}
