//! Overlay mounts (the kernel's `filesystems/overlayfs.rst`).

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// A mount that could not be made, removed or looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} {}", target.display())]
pub struct MountError {
    pub(crate) attempt: &'static str,
    pub(crate) target: PathBuf,
    pub(crate) source: io::Error,
}

/// The directories of an overlay. All exist; `upper` and `work` lie on one file system.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// What is seen below, and never written: an image's root.
    pub lower: &'a Path,
    /// Where all changes go.
    pub upper: &'a Path,
    /// An empty directory for the kernel's own use.
    pub work: &'a Path,
}

impl Overlay<'_> {
    /// Mounts the overlay on the directory `target`.
    ///
    /// The features that would tie the upper layer to this machine's lower one are off: it makes sense on another
    /// machine over an equal lower layer.
    ///
    /// # Errors
    /// When the kernel refuses; also when the paths together are longer than a page.
    pub fn mount(&self, target: &Path) -> Result<(), MountError> {
        let mut options = b"index=off,metacopy=off,redirect_dir=off".to_vec();
        for (key, path) in [("lowerdir", self.lower), ("upperdir", self.upper), ("workdir", self.work)] {
            options.extend(format!(",{key}=").bytes());
            options.extend(escape(path.as_os_str().as_bytes()));
        }
        let mounted = std::ffi::CString::new(options).map_err(io::Error::from).and_then(|options| {
            // Devices are in the container's own /dev; one that came with an image must open nothing.
            let flags = MountFlags::NODEV;
            Ok(rustix::mount::mount("overlay", target, "overlay", flags, Some(options.as_c_str()))?)
        });
        mounted.map_err(|source| MountError { attempt: "mount an overlay on", target: target.to_owned(), source })
    }
}

/// A path as an option's value: commas end an option and colons a lower layer unless a backslash stands before them.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.len());
    for byte in path {
        if matches!(byte, b'\\' | b':' | b',') {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    escaped
}

/// Shows the directory `source` at the directory `target`; devices in it open nothing.
///
/// # Errors
/// When the kernel refuses. Nothing is left mounted then.
pub fn bind(source: &Path, target: &Path) -> Result<(), MountError> {
    let failed = |attempt| move |errno: Errno| MountError { attempt, target: target.to_owned(), source: errno.into() };
    rustix::mount::mount_bind(source, target).map_err(failed("show a directory at"))?;
    let remounted = rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::NODEV, c"");
    if remounted.is_err() {
        // The error that matters is the first one.
        let _ = unmount(target, true);
    }
    remounted.map_err(failed("set the flags of"))
}

/// Unmounts what is mounted on `target`; where nothing is mounted that is no error. `lazily`: it vanishes from the
/// tree at once, and ends when its last user has gone.
///
/// # Errors
/// When the mount is in use and not to be unmounted lazily, or the kernel refuses.
pub fn unmount(target: &Path, lazily: bool) -> Result<(), MountError> {
    let flags = if lazily { UnmountFlags::DETACH | UnmountFlags::NOFOLLOW } else { UnmountFlags::NOFOLLOW };
    match rustix::mount::unmount(target, flags) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(MountError { attempt: "unmount", target: target.to_owned(), source: errno.into() }),
    }
}

/// Whether something is mounted on `target`; not so when it does not exist.
///
/// # Errors
/// When the path cannot be looked at.
pub fn is_mounted(target: &Path) -> Result<bool, MountError> {
    match rustix::fs::statx(CWD, target, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(MountError { attempt: "look at", target: target.to_owned(), source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_escaped() {
        assert_eq!(escape(b"/a,b:c\\d/e"), b"/a\\,b\\:c\\\\d/e");
    }
}
