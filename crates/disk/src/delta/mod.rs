//! Trees of files that travel in rounds: what is in them crosses while programs write to it, and then what they wrote.
//!
//! [`Source`] looks at the trees and sends what the target does not have; [`receive`] makes the target's trees equal. Files
//! are compared by blocks of 4 KiB and their hashes: of a database that was changed in place the changed blocks cross.
//!
//! # What has changed
//! Every entry is looked at in each round, and only what the file system says was changed is read: by the change time
//! (`st_ctime`), the inode and the size. A directory whose change time stands is not even listed. That is sound where
//! watching files is not: of writes to an overlay's upper layer, through mappings, or by devices, fanotify and inotify say
//! nothing. Two things are seen to:
//! - A change time that is younger than 20 ms may stand still while the file changes again, where the file system counts
//!   in ticks: such an entry is looked at again in the next round.
//! - A page that is dirty and mapped is written to without a word. Pages are cleaned before they are read, so that the next
//!   write is noticed and changes the time ([`drover_sys::file::clean_pages`]).
//!
//! Of a large file the pages that may have changed are told by the kernel ([`drover_sys::written`]), and by a comparison of
//! where it lies on the disk (holes, files cloned over it). Where the kernel does not tell, all of the file is read.
//!
//! What a file that is new has in common with the layers of the container's image, which both nodes have, does not cross
//! either ([`Source::over`]): chunks of it are looked up by their names, and the target copies them.
//!
//! # The stream
//! All numbers are little-endian; paths, attributes and `bytes32` are those of the layer stream ([`crate::layer`]).
//! ```text
//! stream    = "DRVDELTA" u32:version block*
//! block     = u8:algorithm u32:length u32:packed length, packed bytes      records, packed as the link bears it
//! record    = 0x01                                    a round ends
//!           | 0x02                                    all ends
//!           | 0x03 u8:tree                            what follows is in this tree
//!           | 0x04 path                               remove this, and all in it
//!           | 0x05 path u64:slot                      put this file aside
//!           | 0x06 path u64:slot                      put it here
//!           | 0x07 path path                          make a hard link to the second
//!           | 0x08 u8:kind path attributes body       make it, or give it these attributes; no file
//!           | 0x09 path u64:size                      this file: make it, if it is none; then its content
//!           | 0x0a u64:offset bytes32                 write
//!           | 0x0b u64:offset u64:length              make a hole
//!           | 0x0c attributes                         give the file these
//!           | 0x0d u64:offset u16:layer path u64:from u32:length name
//!                                                     write what a file of the image's layer has from there on
//! ```

mod blocks;
mod chunks;
mod content;
mod hash;
mod have;
mod known;
mod plan;
mod receive;
mod record;
mod scan;
mod source;

pub use have::{Having, hear, tell};
pub use receive::{Place, receive};
pub use source::{Sent, Source, Tree};

#[cfg(test)]
mod tests;
