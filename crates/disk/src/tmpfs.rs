//! File systems in memory.

use std::ffi::CString;
use std::io;
use std::path::Path;

use drover_model::Bytes;
use rustix::mount::MountFlags;

use crate::MountError;

/// Mounts a tmpfs of at most `size` on the directory `target`, whose top has the permission bits `mode`. Set-id bits
/// on it have no effect; devices do, for `/dev` is one.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_tmpfs(target: &Path, size: Bytes, mode: u32) -> Result<(), MountError> {
    let mounted = CString::new(format!("size={},mode={mode:o}", size.0)).map_err(io::Error::from).and_then(|options| {
        let flags = MountFlags::NOSUID;
        Ok(rustix::mount::mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str()))?)
    });
    mounted.map_err(|source| MountError { attempt: "mount a tmpfs on", target: target.to_owned(), source })
}
