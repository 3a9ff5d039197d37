//! Compression by need: what crosses a link, memory or files, is packed in blocks as the link and the processors bear it.
//!
//! [`Chooser`] decides for each block, [`Packer`] packs it, [`Unpacker`] unpacks what a peer sent; an [`Outlet`] is where it
//! goes, and knows how fast that is.

mod choose;
mod outlet;
mod pack;

pub use choose::{Chooser, LinkRate};
pub use outlet::Outlet;
pub use pack::{Algorithm, Broken, Packer, Unpacker, room_for};
