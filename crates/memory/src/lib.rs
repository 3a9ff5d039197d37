//! The memory pipeline: pages leave CRIU on the source, cross as a page stream, and become images on the target.
//!
//! Today all pages cross while the container is frozen: CRIU's dump is the reader, its restore the placer. The stream
//! between them is ours, and is where rounds, compression and a store slot in.

mod filler;
mod image;
mod mappings;
mod pieces;
mod rounds;
mod server;
mod store;
mod stream;
mod tracker;

pub use filler::{FillError, Filled, Filler};
pub use image::{ImageError, receive};
pub use rounds::{Covered, Last, RoundDone, RoundError, Rounds};
pub use server::{Served, ServerError, serve};
pub use store::{KEEP, StoreError, Stored, ZERO, store};
pub use stream::{Object, Record, StreamError, StreamReader, StreamWriter};
pub use tracker::{TrackError, Tracker, probe};
