//! Extended attributes of files in an open directory, also of those that cannot be opened.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Extended attributes, name and value.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The kernel's bounds on the list of names and on a value (xattr(7)).
const LARGEST_LIST: usize = 64 << 10;
const LARGEST_VALUE: usize = 64 << 10;

/// A path that leads to `name` in `directory` whatever happens to the directory's own path (proc_pid_fd(5)). There are
/// no system calls that take a directory's descriptor and a name in kernels before 6.13.
fn reach(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend(name);
    path
}

/// All extended attributes of `name` in `directory`, itself and not what it may link to, ascending by name.
pub(crate) fn read(directory: impl AsFd, name: &[u8]) -> Result<Xattrs, Errno> {
    let path = reach(directory, name);
    let length = match rustix::fs::llistxattr_query(path.as_slice()) {
        // The file system has none.
        Err(Errno::NOTSUP) | Ok(0) => return Ok(Vec::new()),
        result => result?,
    };
    // Names may have been added meanwhile.
    let mut list = vec![0; (length + 4096).min(LARGEST_LIST)];
    let length = rustix::fs::llistxattr(path.as_slice(), list.as_mut_slice())?;
    let mut found = Vec::new();
    let mut value = vec![0; LARGEST_VALUE];
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::lgetxattr(path.as_slice(), name, value.as_mut_slice()) {
            Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort();
    Ok(found)
}

/// Sets extended attributes of `name` in `directory`, itself and not what it may link to.
pub(crate) fn write(directory: impl AsFd, name: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Errno> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let path = reach(directory, name);
    xattrs.iter().try_for_each(|(name, value)| {
        rustix::fs::lsetxattr(path.as_slice(), name.as_slice(), value, XattrFlags::empty())
    })
}

/// Removes an extended attribute; one that is not there is no error.
pub(crate) fn remove(directory: impl AsFd, name: &[u8], xattr: &[u8]) -> Result<(), Errno> {
    match rustix::fs::lremovexattr(reach(directory, name).as_slice(), xattr) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(errno) => Err(errno),
    }
}
