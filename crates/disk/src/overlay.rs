//! Overlay mounts (the kernel's `filesystems/overlayfs.rst`).

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
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

/// The directories of an overlay. All exist.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// What is seen below, and never written: the trees of an image's layers, the topmost first.
    pub lower: &'a [PathBuf],
    /// Where changes go; without, nothing can be changed, and there are two layers at least.
    pub above: Option<Above<'a>>,
}

/// Where an overlay's changes go. Both directories lie on one file system.
#[derive(Debug, Clone, Copy)]
pub struct Above<'a> {
    /// All changes.
    pub upper: &'a Path,
    /// An empty directory for the kernel's own use.
    pub work: &'a Path,
}

/// The longest options in bytes: a page with its final zero.
const LONGEST_OPTIONS: usize = 4095;

impl Overlay<'_> {
    /// Mounts the overlay on the directory `target`.
    ///
    /// The features that would tie the upper layer to this machine's lower ones are off: it makes sense on another
    /// machine over equal lower layers. What a lower layer says about where its files really are is not followed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount(&self, target: &Path) -> Result<(), MountError> {
        let mut options = self.options(self.lower);
        // Many layers fit by the shortest names that there are. What the table of mounts tells then is of little use.
        let mut open = Vec::new();
        if options.len() > LONGEST_OPTIONS {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            for path in self.lower {
                let opened = rustix::fs::open(path, flags, Mode::empty());
                open.push(opened.map_err(|errno| failed("open", path)(errno.into()))?);
            }
            let short = open.iter().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
            options = self.options(&short.collect::<Vec<_>>());
        }
        let mounted = std::ffi::CString::new(options).map_err(io::Error::from).and_then(|options| {
            // Devices are in the container's own /dev; one that came with an image must open nothing.
            let flags = MountFlags::NODEV;
            Ok(rustix::mount::mount("overlay", target, "overlay", flags, Some(options.as_c_str()))?)
        });
        mounted.map_err(failed("mount an overlay on", target))
    }

    fn options(&self, lower: &[PathBuf]) -> Vec<u8> {
        let lower: Vec<_> = lower.iter().map(|path| escape(path.as_os_str().as_bytes())).collect();
        let mut options =
            [b"redirect_dir=nofollow,metacopy=off,index=off,lowerdir=".as_slice(), &lower.join(&b':')].concat();
        if let Some(Above { upper, work }) = self.above {
            for (key, path) in [("upperdir", upper), ("workdir", work)] {
                options.extend(format!(",{key}=").bytes());
                options.extend(escape(path.as_os_str().as_bytes()));
            }
        }
        options
    }
}

fn failed(attempt: &'static str, target: &Path) -> impl FnOnce(io::Error) -> MountError {
    move |source| MountError { attempt, target: target.to_owned(), source }
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
