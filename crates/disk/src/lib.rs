//! The files of containers: images by digest, layers that travel, overlays and tmpfs.
//!
//! An image ([`ImageStore`]) is what the OCI image specification calls one; its layers are trees, each here once. A
//! container's root is an overlay ([`Overlay`]) whose lower layers are those of an image and whose upper layer travels with
//! it, as a *layer stream* ([`layer`]): the same tree always gives the same bytes. Files that outlive a
//! container are in volumes ([`VolumeStore`]).
//!
//! Everything here blocks.
//!
//! Invariants:
//! - nothing that is read from a tar or a stream is written outside of the directory that was given, whatever it says;
//! - an image is visible only when it is complete, on disk, and has the digest that it is called by;
//! - every length that comes from outside is bounded before memory is taken for it.

pub mod delta;
mod image;
pub mod layer;
mod overlay;
mod place;
mod tmpfs;
mod volume;
mod xattr;

pub use image::{
    Choice, Difference, Draft, Fetch, Image, ImageError, ImageStore, LARGEST_CONFIG, Lacking, MOST_LAYERS, Packed,
    Partial, Pruned, Share, View, architecture, decompress,
};
pub use layer::LayerError;
pub use overlay::{Above, MountError, Overlay, bind, is_mounted, unmount};
pub use tmpfs::mount_tmpfs;
pub use volume::{
    Claim, FileSystem, ProofError, Shared, SharedError, Token, Volume, VolumeError, VolumeStore, mount_in, mounted_at,
    recognise,
};
