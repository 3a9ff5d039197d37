//! The framed stream of `attach` and `exec`: one byte of kind, four bytes of length (big-endian), the payload.
//!
//! | kind | direction | payload                                         |
//! |------|-----------|-------------------------------------------------|
//! | 0x00 | input     | standard input                                  |
//! | 0x01 | input     | empty: standard input has ended                 |
//! | 0x02 | input     | rows and columns, `u16` big-endian each         |
//! | 0x10 | output    | standard output, or the terminal                |
//! | 0x11 | output    | standard error                                  |
//! | 0x12 | output    | exit status, `i32` big-endian; the last frame   |
//! | 0x13 | output    | why the session broke, UTF-8; the last frame    |

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{LogStream, SessionInput, SessionOutput};

/// The longest payload in bytes; a longer one is refused before anything is allocated for it.
pub const LONGEST_PAYLOAD: usize = 1 << 20;
/// The length of kind and length.
const HEADER: usize = 5;

const STDIN: u8 = 0x00;
const STDIN_CLOSED: u8 = 0x01;
const RESIZE: u8 = 0x02;
const STDOUT: u8 = 0x10;
const STDERR: u8 = 0x11;
const EXITED: u8 = 0x12;
const FAILED: u8 = 0x13;

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is too long.
    #[error("a frame announces {0} bytes of payload; at most {LONGEST_PAYLOAD} are allowed")]
    TooLong(usize),
    /// The kind does not exist in this direction.
    #[error("a frame has the unknown kind {0:#04x}")]
    UnknownKind(u8),
    /// The payload's length does not fit the kind.
    #[error("a frame of kind {kind:#04x} cannot have {length} bytes of payload")]
    WrongLength {
        /// The kind.
        kind: u8,
        /// The length of the payload in bytes.
        length: usize,
    },
}

/// A stream that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It broke.
    #[error("cannot read the stream")]
    Read(#[source] io::Error),
    /// It carries something else.
    #[error("cannot understand the stream")]
    Frame(#[from] FrameError),
}

/// A message that a stream carries in one direction.
pub trait Message: Sized {
    /// The kind and the payload.
    fn to_parts(&self) -> (u8, Vec<u8>);
    /// The message of this kind with this payload.
    ///
    /// # Errors
    /// When there is none.
    fn from_parts(kind: u8, payload: Vec<u8>) -> Result<Self, FrameError>;
}

impl Message for SessionInput {
    fn to_parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Stdin(data) => (STDIN, data.clone()),
            Self::StdinClosed => (STDIN_CLOSED, Vec::new()),
            Self::Resize { rows, columns } => (RESIZE, [rows.to_be_bytes(), columns.to_be_bytes()].concat()),
        }
    }

    fn from_parts(kind: u8, payload: Vec<u8>) -> Result<Self, FrameError> {
        match (kind, payload.as_slice()) {
            (STDIN, _) => Ok(Self::Stdin(payload)),
            (STDIN_CLOSED, []) => Ok(Self::StdinClosed),
            (RESIZE, &[a, b, c, d]) => {
                Ok(Self::Resize { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) })
            }
            (STDIN_CLOSED | RESIZE, _) => Err(FrameError::WrongLength { kind, length: payload.len() }),
            _ => Err(FrameError::UnknownKind(kind)),
        }
    }
}

impl Message for SessionOutput {
    fn to_parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Output(LogStream::Stdout, data) => (STDOUT, data.clone()),
            Self::Output(LogStream::Stderr, data) => (STDERR, data.clone()),
            Self::Exited(status) => (EXITED, status.to_be_bytes().to_vec()),
            Self::Failed(reason) => (FAILED, reason.as_bytes().to_vec()),
        }
    }

    fn from_parts(kind: u8, payload: Vec<u8>) -> Result<Self, FrameError> {
        match (kind, payload.as_slice()) {
            (STDOUT, _) => Ok(Self::Output(LogStream::Stdout, payload)),
            (STDERR, _) => Ok(Self::Output(LogStream::Stderr, payload)),
            (EXITED, &[a, b, c, d]) => Ok(Self::Exited(i32::from_be_bytes([a, b, c, d]))),
            (EXITED, _) => Err(FrameError::WrongLength { kind, length: payload.len() }),
            (FAILED, text) => Ok(Self::Failed(String::from_utf8_lossy(text).into_owned())),
            _ => Err(FrameError::UnknownKind(kind)),
        }
    }
}

/// The frame of a message.
///
/// # Errors
/// When its payload is too long.
pub fn encode(message: &impl Message) -> Result<Vec<u8>, FrameError> {
    let (kind, payload) = message.to_parts();
    if payload.len() > LONGEST_PAYLOAD {
        return Err(FrameError::TooLong(payload.len()));
    }
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// The first message in `bytes` and how many bytes it took; none when more bytes are needed.
///
/// # Errors
/// When the bytes are no frame.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<Option<(M, usize)>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let (kind, length) = parse_header(*header)?;
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    Ok(Some((M::from_parts(kind, payload.to_vec())?, HEADER + length)))
}

fn parse_header([kind, a, b, c, d]: [u8; HEADER]) -> Result<(u8, usize), FrameError> {
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > LONGEST_PAYLOAD { Err(FrameError::TooLong(length)) } else { Ok((kind, length)) }
}

/// Writes one message and flushes. Not to be dropped half-way: a part of a frame would be left on the stream.
///
/// # Errors
/// When the stream broke or the payload is too long.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    let frame = encode(message).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Reads one message; none at an end between frames. Not to be dropped half-way: a part of a frame would be lost.
///
/// # Errors
/// When the stream broke, also in the middle of a frame, or carries no frames.
pub async fn read<M: Message>(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<M>, StreamError> {
    let mut header = [0; HEADER];
    if stream.read(&mut header[..1]).await.map_err(StreamError::Read)? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await.map_err(StreamError::Read)?;
    let (kind, length) = parse_header(header)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.map_err(StreamError::Read)?;
    Ok(Some(M::from_parts(kind, payload)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Vec<SessionInput> {
        let resize = SessionInput::Resize { rows: 24, columns: 0x1234 };
        vec![SessionInput::Stdin(b"ls\n".to_vec()), SessionInput::Stdin(vec![]), resize, SessionInput::StdinClosed]
    }

    fn outputs() -> Vec<SessionOutput> {
        vec![
            SessionOutput::Output(LogStream::Stdout, vec![0, 255, 10]),
            SessionOutput::Output(LogStream::Stderr, b"oh".to_vec()),
            SessionOutput::Exited(-1),
            SessionOutput::Failed("the node stops".into()),
        ]
    }

    #[test]
    fn messages_survive_encoding_and_decoding() {
        for input in inputs() {
            let frame = encode(&input).unwrap();
            assert_eq!(decode(&frame), Ok(Some((input, frame.len()))));
        }
        for output in outputs() {
            let frame = encode(&output).unwrap();
            assert_eq!(decode(&frame), Ok(Some((output, frame.len()))));
        }
    }

    #[test]
    fn every_part_of_a_frame_asks_for_more() {
        let frame = encode(&SessionOutput::Exited(3)).unwrap();
        for end in 0..frame.len() {
            assert_eq!(decode::<SessionOutput>(&frame[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn hostile_lengths_are_refused_by_the_header_alone() {
        for length in [LONGEST_PAYLOAD as u32 + 1, u32::MAX] {
            let mut header = vec![STDIN];
            header.extend_from_slice(&length.to_be_bytes());
            assert_eq!(decode::<SessionInput>(&header), Err(FrameError::TooLong(length as usize)));
        }
        assert!(encode(&SessionInput::Stdin(vec![0; LONGEST_PAYLOAD + 1])).is_err());
        assert!(encode(&SessionInput::Stdin(vec![0; LONGEST_PAYLOAD])).is_ok());
    }

    #[test]
    fn frames_of_the_other_direction_and_of_wrong_length_are_refused() {
        assert_eq!(decode::<SessionInput>(&[EXITED, 0, 0, 0, 0]), Err(FrameError::UnknownKind(EXITED)));
        assert_eq!(decode::<SessionOutput>(&[STDIN, 0, 0, 0, 0]), Err(FrameError::UnknownKind(STDIN)));
        for (kind, length) in [(STDIN_CLOSED, 1), (RESIZE, 3), (RESIZE, 5)] {
            let mut frame = vec![kind, 0, 0, 0, length];
            frame.resize(HEADER + usize::from(length), 0);
            let expected = FrameError::WrongLength { kind, length: length.into() };
            assert_eq!(decode::<SessionInput>(&frame), Err(expected));
        }
        assert!(decode::<SessionOutput>(&[EXITED, 0, 0, 0, 2, 0, 0]).is_err());
    }

    #[tokio::test]
    async fn a_stream_carries_messages_and_ends_between_frames() {
        let (mut near, mut far) = tokio::io::duplex(7);
        let writer = tokio::spawn(async move {
            for output in outputs() {
                write(&mut near, &output).await.unwrap();
            }
        });
        for output in outputs() {
            assert_eq!(read(&mut far).await.unwrap(), Some(output));
        }
        writer.await.unwrap();
        assert_eq!(read::<SessionOutput>(&mut far).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_error() {
        let mut bytes: &[u8] = &[STDOUT, 0, 0, 0, 9, 1, 2];
        assert!(matches!(read::<SessionOutput>(&mut bytes).await, Err(StreamError::Read(_))));
    }
}
