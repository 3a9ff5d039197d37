//! The memory pipeline: pages are read on the source while their processes run, cross as a page stream into a store on the
//! target, and are brought from there into the restored processes.
//!
//! What cannot be followed leaves CRIU's dump through a page server, crosses in the same format while the container is
//! frozen, and becomes images that CRIU's restore reads.

mod arrived;
mod compare;
mod filler;
mod image;
mod mappings;
mod objects;
mod pieces;
mod rounds;
mod server;
mod shared;
mod store;
mod stream;
mod tracker;

pub use arrived::{Arrived, PlaceError, Placed};
pub use filler::{FillError, Filled, Filler};
pub use image::{ImageError, receive};
pub use rounds::{Covered, Last, Rest, RoundDone, RoundError, Rounds};
pub use server::{Served, ServerError, serve};
pub use store::{KEEP, StoreError, Stored, ZERO, store};
pub use stream::{Description, Object, Record, StreamError, StreamReader, StreamWriter};
pub use tracker::{TrackError, Tracker};
