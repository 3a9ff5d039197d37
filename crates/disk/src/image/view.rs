//! Looking into an image of several layers as if they were one.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use super::staging::VIEW;
use super::{Image, ImageError, ImageStore};
use crate::MountError;
use crate::overlay::{Overlay, unmount};
use crate::place::open_top;

/// An image's root, to be read from only.
#[derive(Debug)]
pub struct View(OwnedFd);

impl View {
    /// A path to it that holds for as long as this does, for this process alone.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl ImageStore {
    /// Looks into an image. Nothing of that is left behind: the mount, where one is needed, is on no path by then.
    ///
    /// # Errors
    /// When the layers cannot be opened or mounted.
    pub fn view(&self, image: &Image) -> Result<View, ImageError> {
        let open = |path: &PathBuf| open_top(path).map_err(|errno| ImageError::store("open", path)(errno.into()));
        if let [tree] = image.trees.as_slice() {
            return open(tree).map(View);
        }
        let staging = self.stage()?;
        let place = staging.path().join(VIEW);
        std::fs::create_dir(&place).map_err(ImageError::store("make", &place))?;
        Overlay { lower: &image.trees, above: None }.mount(&place)?;
        let opened = open(&place);
        let unmounted: Result<(), MountError> = unmount(&place, true);
        unmounted?;
        opened.map(View)
    }
}
