//! A stream that comes in pieces: read piece by piece, and not copied where a piece can be handed on as it is.

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};

/// What has come of a stream, from pieces that may have to be waited for.
#[derive(Debug)]
pub struct Inflow<I> {
    pieces: I,
    piece: Bytes,
}

impl<I: Iterator<Item = Bytes>> Inflow<I> {
    /// Reads pieces; with the last one the stream ends.
    pub fn new(pieces: I) -> Self {
        Self { pieces, piece: Bytes::new() }
    }

    /// Whether nothing more comes; waits until that is known.
    pub fn is_over(&mut self) -> bool {
        while self.piece.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.piece = piece,
                None => return true,
            }
        }
        false
    }

    /// The next bytes, exactly so many: a part of a piece, or gathered where they come in several. The caller bounds
    /// their number.
    ///
    /// # Errors
    /// When the stream ends before.
    pub fn cut(&mut self, length: usize) -> io::Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        if self.is_over() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length <= self.piece.len() {
            return Ok(self.piece.split_to(length));
        }
        let mut gathered = BytesMut::zeroed(length);
        self.read_exact(&mut gathered)?;
        Ok(gathered.freeze())
    }

    /// Reads the rest over.
    pub fn drain(&mut self) {
        while !self.is_over() {
            self.piece = Bytes::new();
        }
    }
}

impl<I: Iterator<Item = Bytes>> Read for Inflow<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.is_over() {
            return Ok(0);
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece[..length]);
        self.piece.advance(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_however_they_were_cut() {
        let pieces = ["ab", "", "cdefg", "h"].map(Bytes::from);
        let mut inflow = Inflow::new(pieces.into_iter());
        assert_eq!(inflow.cut(1).unwrap(), "a");
        assert_eq!(inflow.cut(3).unwrap(), "bcd");
        assert_eq!(inflow.cut(0).unwrap(), "");
        assert_eq!(inflow.cut(2).unwrap(), "ef");
        let mut rest = String::new();
        inflow.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "gh");
        assert!(inflow.is_over() && inflow.cut(1).is_err());
    }

    #[test]
    fn what_is_left_can_be_read_over() {
        let mut inflow = Inflow::new(["ab", "cd"].map(Bytes::from).into_iter());
        inflow.cut(1).unwrap();
        inflow.drain();
        assert!(inflow.is_over());
    }
}
