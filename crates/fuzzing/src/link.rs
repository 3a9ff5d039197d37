//! The link between two nodes: frames, messages, pieces of layers.

use std::io::Read;

use drover_engine::LayerReader;
use drover_protocol::{FRAME_HEADER, FrameHeader, MAX_DATA, ToSource, ToTarget, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest piece of a layer that is taken, in bytes.
const PIECE: usize = 512 << 10;

/// How long a layer may be, in bytes.
const MOST: u64 = 8 << 20;

/// Cuts bytes into frames as a link does, and reads a layer of them.
pub fn frame(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut whole = false;
    while let Some((header, behind)) = rest.split_first_chunk::<FRAME_HEADER>() {
        let Ok(header) = FrameHeader::decode(*header) else { break };
        assert_eq!(FrameHeader::decode(header.encode()), Ok(header));
        assert!(header.length() <= MAX_DATA);
        let Some((_payload, behind)) = behind.split_at_checked(header.length() as usize) else { break };
        (rest, whole) = (behind, true);
    }
    let mut layer = LayerReader::new(bytes, MOST).expect("memory for an unpacker");
    let mut read = 0;
    let mut buffer = vec![0; 64 << 10];
    let ended = loop {
        match layer.read(&mut buffer) {
            Ok(0) => break true,
            Ok(length) => read += length,
            Err(_) => break false,
        }
    };
    // Each piece stands behind eight bytes.
    assert!(read as u64 <= MOST && read <= bytes.len() / 8 * PIECE, "{read} bytes of a layer out of {}", bytes.len());
    whole || ended
}

/// Decodes messages of both directions, each of which comes back as it was sent.
pub fn message(bytes: &[u8]) -> bool {
    comes_back::<ToTarget>(bytes) | comes_back::<ToSource>(bytes)
}

fn comes_back<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = decode::<M>(bytes) else { return false };
    let sent = encode(&message);
    assert_eq!(decode::<M>(&sent).expect("what was encoded is a message"), message);
    true
}
