//! Shared memory that no file system has a name for: shared anonymous mappings, memfds, segments of System V. The kernel
//! keeps all of it in one file system of its own, as files.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, fstat, memfd_create};

/// Which piece of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedFile {
    /// Its number in the kernel's file system; for a segment of System V it is the segment's id, and may be the number of
    /// something else as well.
    pub inode: u64,
    /// Whether it is a segment of System V.
    pub system_five: bool,
}

/// Says what a link below `/proc/PID/fd` or `/proc/PID/map_files` leads to, if it is shared memory, and the name that a
/// memfd must be given to look like it.
///
/// # Errors
/// When there is no such link.
pub fn identify(link: &Path) -> io::Result<Option<(SharedFile, OsString)>> {
    let path = std::fs::read_link(link)?;
    let Some((name, system_five)) = name(path.as_os_str().as_bytes()) else { return Ok(None) };
    let metadata = std::fs::metadata(link)?;
    let ours = metadata.dev() == device()?;
    Ok(ours.then(|| (SharedFile { inode: metadata.ino(), system_five }, OsString::from_vec(name.to_vec()))))
}

/// From the path that the kernel shows. No other file system can have one like it that is not deleted, too; the device
/// tells those apart.
fn name(path: &[u8]) -> Option<(&[u8], bool)> {
    let path = path.strip_suffix(b" (deleted)")?;
    match path.strip_prefix(b"/memfd:") {
        Some(name) => Some((name, false)),
        None if path == b"/dev/zero" => Some((path, false)),
        None => path.starts_with(b"/SYSV").then_some((path, true)),
    }
}

/// The device of the kernel's file system for shared memory.
fn device() -> io::Result<u64> {
    static DEVICE: OnceLock<u64> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(*device);
    }
    let probe = memfd_create("drover-probe", MemfdFlags::CLOEXEC)?;
    Ok(*DEVICE.get_or_init(|| fstat(&probe).map(|status| status.st_dev).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn shared_memory_is_known_by_its_path_and_device() {
        assert_eq!(name(b"/memfd:a b (deleted)"), Some((&b"a b"[..], false)));
        assert_eq!(name(b"/dev/zero (deleted)"), Some((&b"/dev/zero"[..], false)));
        assert_eq!(name(b"/SYSV0000002a (deleted)"), Some((&b"/SYSV0000002a"[..], true)));
        assert_eq!(name(b"/dev/zero"), None);
        assert_eq!(name(b"/home/SYSV (deleted)"), None);
        let file = memfd_create("x (deleted)", MemfdFlags::CLOEXEC).unwrap();
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let (shared, name) = identify(Path::new(&link)).unwrap().unwrap();
        assert_eq!((shared.inode, shared.system_five), (fstat(&file).unwrap().st_ino, false));
        assert_eq!(name, "x (deleted)");
        let file = tempfile();
        assert_eq!(identify(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))).unwrap(), None);
    }

    /// A file with a path like that of shared memory, in another file system.
    fn tempfile() -> std::fs::File {
        let path = std::env::temp_dir().join(format!("memfd:{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
