//! Frames: how messages and streams share one link. Every length is bounded before anything is allocated.
//!
//! A frame is a header of six bytes and a payload. Header: kind (`u8`: 0 control, 1 data), stream (`u8`, 0 for
//! control), payload length (`u32`, big endian). A control payload is one JSON message; a data payload is a piece
//! of the stream's bytes. A data frame without payload ends its stream.

/// The size of a frame's header in bytes.
pub const FRAME_HEADER: usize = 6;
/// The longest control payload in bytes.
pub const MAX_CONTROL: u32 = 1 << 20;
/// The longest data payload in bytes.
pub const MAX_DATA: u32 = 1 << 20;

/// The byte streams that cross beside the messages. Each has a format of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stream {
    /// The layers of the image that the target lacks, one after the other.
    Image = 1,
    /// Memory pages, in the page stream's format.
    Memory = 6,
    /// CRIU's images and Drover's notes about them.
    Checkpoint = 7,
    /// Memory pages that cross in rounds, in the page stream's format.
    Pages = 8,
    /// Pages that follow the container, in the page stream's format.
    Following = 9,
    /// From the target to the source: which of them are wanted next, in the format of wishes.
    Wishes = 10,
    /// All trees of files that travel, in rounds: the upper layer, `/dev`, `/dev/shm`, the log, volumes.
    Files = 12,
    /// From the target to the source, before the first round: what it has of these trees already.
    Having = 13,
}

impl Stream {
    /// All of them.
    pub const ALL: [Stream; 8] = [
        Stream::Image,
        Stream::Memory,
        Stream::Checkpoint,
        Stream::Pages,
        Stream::Following,
        Stream::Wishes,
        Stream::Files,
        Stream::Having,
    ];
    /// The streams that must have ended before the container is restored.
    pub const AWAITED: [Stream; 4] = [Stream::Pages, Stream::Memory, Stream::Files, Stream::Checkpoint];

    fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| *stream as u8 == byte)
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameHeader {
    /// A message of this many bytes.
    Control(u32),
    /// A piece of a stream of this many bytes; none: the stream's end.
    Data(Stream, u32),
}

/// A frame that a well-behaved peer would not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Neither control nor data.
    #[error("unknown kind of frame: {0}")]
    Kind(u8),
    /// No such stream.
    #[error("unknown stream: {0}")]
    Stream(u8),
    /// Longer than allowed.
    #[error("frame of {length} bytes, at most {limit} are allowed")]
    Length {
        /// What the header said.
        length: u32,
        /// What is allowed.
        limit: u32,
    },
}

impl FrameHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(self) -> [u8; FRAME_HEADER] {
        let (kind, stream, length) = match self {
            Self::Control(length) => (0, 0, length),
            Self::Data(stream, length) => (1, stream as u8, length),
        };
        let [a, b, c, d] = length.to_be_bytes();
        [kind, stream, a, b, c, d]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// For an unknown kind or stream and for a length over the bound.
    pub fn decode(bytes: [u8; FRAME_HEADER]) -> Result<Self, FrameError> {
        let [kind, stream, a, b, c, d] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]);
        let (header, limit) = match kind {
            0 => (Self::Control(length), MAX_CONTROL),
            1 => (Self::Data(Stream::from_wire(stream).ok_or(FrameError::Stream(stream))?, length), MAX_DATA),
            other => return Err(FrameError::Kind(other)),
        };
        if length > limit { Err(FrameError::Length { length, limit }) } else { Ok(header) }
    }

    /// The payload's length in bytes.
    #[must_use]
    pub fn length(self) -> u32 {
        match self {
            Self::Control(length) | Self::Data(_, length) => length,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_six_bytes_decode_to_a_bounded_header_or_an_error(bytes: [u8; 6]) {
            if let Ok(header) = FrameHeader::decode(bytes) {
                prop_assert!(header.length() <= MAX_DATA.max(MAX_CONTROL));
                prop_assert_eq!(FrameHeader::decode(header.encode()), Ok(header));
            }
        }
    }

    #[test]
    fn a_frame_longer_than_the_bound_is_refused() {
        let bytes = FrameHeader::Control(MAX_CONTROL + 1).encode();
        assert!(matches!(FrameHeader::decode(bytes), Err(FrameError::Length { .. })));
    }
}
