//! What makes nodes and users one cluster: the authority, its document, tokens to join with, and the files of each node.
//!
//! Invariants:
//! - A key is made where it is used, and never leaves that machine. Files that hold one have mode 0600 from their making.
//! - A document is believed when the authority's key has signed it, and replaces none that is newer.
//! - A token is known by its hash alone, works once, and not after its time.

mod authority;
mod directory;
mod document;
mod error;
mod request;
mod token;
mod trust;

pub use authority::Authority;
pub use directory::{Directory, write_private};
pub use document::{believe, endorse};
pub use error::ClusterError;
pub use request::KeyRequest;
pub use token::{Token, TokenBook, fresh_enrolment};
pub use trust::{JOIN_PROTOCOL, joining, joining_server};
