//! Where the pieces of a stream go.

use std::io;

use bytes::Bytes;

use crate::choose::LinkRate;

/// Where the pieces of a stream go.
pub trait Outlet {
    /// Sends the next piece; may block for as long as the receiver takes nothing.
    ///
    /// # Errors
    /// When nothing can be sent any more.
    fn send(&mut self, piece: Bytes) -> io::Result<()>;

    /// What is known of the link by now.
    fn rate(&self) -> LinkRate {
        LinkRate::default()
    }
}

impl Outlet for &mut Vec<u8> {
    fn send(&mut self, piece: Bytes) -> io::Result<()> {
        self.extend_from_slice(&piece);
        Ok(())
    }
}
