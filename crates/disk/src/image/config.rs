//! How an image's program is started.

use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::ImageError;

/// The file at the top of an image's tree.
pub(super) const FILE: &str = "drover-image.json";
/// The largest such file in bytes.
const LARGEST: u64 = 1 << 20;

/// How an image's program is started: fields of `config` in the OCI image specification. All may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments after them, which a user may replace; the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment, `KEY=VALUE` each.
    pub env: Vec<String>,
    /// Working directory inside.
    pub working_dir: Option<String>,
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
}

/// Reads it from a tree; one without the file has the default.
pub(super) fn read(rootfs: &Path) -> Result<ImageConfig, ImageError> {
    let path = rootfs.join(FILE);
    let failed = |errno: Errno| ImageError::store("read", &path)(errno.into());
    // A link would lead out of the image, and a fifo keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(ImageConfig::default()),
        result => std::fs::File::from(result.map_err(failed)?),
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(failed(Errno::INVAL));
    }
    let mut json = Vec::new();
    file.take(LARGEST).read_to_end(&mut json).map_err(ImageError::store("read", &path))?;
    // `null` for an absent list is common in OCI images.
    let mut value: serde_json::Value = serde_json::from_slice(&json).map_err(ImageError::Config)?;
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
    }
    serde_json::from_value(value).map_err(ImageError::Config)
}
