//! The memory pipeline: pages are read on the source while their processes run, cross as a page stream into a store on the
//! target, and are brought from there into the restored processes.
//!
//! What cannot be followed leaves CRIU's dump through a page server, crosses in the same format while the container is
//! frozen, and becomes images that CRIU's restore reads.

mod arrived;
mod buffers;
mod compare;
mod direct;
mod filler;
mod following;
mod hash;
mod image;
mod inflow;
mod last;
mod mappings;
mod objects;
mod outflow;
mod packers;
mod pages;
mod pieces;
mod reader;
mod recent;
mod record;
mod room;
mod rounds;
mod sent;
mod server;
mod shared;
mod store;
mod stored;
mod stream;
mod tracker;
#[cfg(test)]
mod transport;
mod window;
mod wishes;
mod writer;

pub use arrived::{Arrived, PlaceError, Placed};
pub use buffers::{Buffer, Buffers};
pub use filler::{FillError, Filled, Filler};
pub use following::{FollowError, answer, cut, dismiss_relays, listen_for_relays, relay};
pub use hash::Names;
pub use image::{ImageError, receive};
pub use inflow::Inflow;
pub use last::{Covered, Last, Rest};
pub use mappings::{followed_in, wiped_in};
pub use outflow::{Outflow, Sums, Verdict};
pub use record::{Description, Object, Record, Run};
pub use room::{MachineMemory, Room, RoomError};
pub use rounds::{RoundError, Rounds};
pub use server::{Served, ServerError, serve};
pub use store::{KEEP, StoreError, ZERO, store};
pub use stored::Stored;
pub use stream::{StreamError, StreamReader, StreamWriter};
pub use tracker::{Backend, Motion, TrackError, Tracker};
