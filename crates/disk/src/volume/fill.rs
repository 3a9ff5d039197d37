//! What an image has where a new volume is mounted comes into the volume, as other container engines have it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::fd::AsRawFd;
use std::path::Path;

use drover_model::{MountPoint, VolumeName};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{VolumeError, VolumeStore};
use crate::layer::{self, LayerError};

/// How much of the files is on its way at once, in bytes.
const PIECE: usize = 1 << 20;

impl VolumeStore {
    /// Copies what is at `destination` below `root` into a local volume that nobody has used and that is empty: files, owners,
    /// modes, attributes, those of the directory itself among them. From then on the volume counts as used.
    ///
    /// # Errors
    /// When the files cannot be read or written; it may be repeated.
    pub fn fill(&self, name: &VolumeName, root: &Path, destination: &MountPoint) -> Result<(), VolumeError> {
        if self.find(name)?.used {
            return Ok(());
        }
        let data = self.data(name);
        let source = inside(root, destination).map_err(VolumeError::store("look at", root))?;
        let mut entries = std::fs::read_dir(&data).map_err(VolumeError::store("read", &data))?;
        if let Some(source) = source
            && entries.next().is_none()
        {
            copy(&source, &data).map_err(|error| VolumeError::Fill { name: name.clone(), source: error })?;
        }
        self.mark_used(name)
    }
}

/// The directory there; its links are followed as a container would. None when there is no directory.
fn inside(root: &Path, destination: &MountPoint) -> io::Result<Option<File>> {
    let top = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(&top, destination.as_str(), flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(directory) => Ok(Some(directory.into())),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy(source: &File, data: &Path) -> Result<(), LayerError> {
    let (reading, writing) = io::pipe().map_err(LayerError::Read)?;
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(PIECE, writing);
            layer::pack(Path::new(&path), &mut out).map(drop)
        });
        let applied = layer::apply(data, &mut BufReader::with_capacity(PIECE, reading)).map(drop);
        let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (packed, applied) {
            // Whoever reads no more breaks the pipe of whoever writes.
            (Err(LayerError::Write(_)) | Ok(()), applied) => applied,
            (packed, _) => packed,
        }
    })
}
