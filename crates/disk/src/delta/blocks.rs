//! Blocks of records, packed as the link bears it.

use std::io::{self, Read, Write};
use std::time::Instant;

use bytes::Bytes;
use drover_model::Compression;
use drover_packing::{Algorithm, Chooser, Outlet, Packer, Unpacker, room_for};

/// Records are gathered up to this length, in bytes.
const BLOCK: usize = 256 << 10;
/// The longest block that is accepted, in bytes.
const LONGEST: usize = 2 * BLOCK;
const HEADER: usize = 9;

/// The writing end.
#[derive(Debug)]
pub(super) struct Blocks<O> {
    out: O,
    chooser: Chooser,
    packer: Packing,
    buffer: Vec<u8>,
    /// Bytes that were given to the outlet.
    pub sent: u64,
}

struct Packing(Packer);

impl std::fmt::Debug for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packing")
    }
}

impl<O: Outlet> Blocks<O> {
    pub fn new(out: O, compression: Compression) -> io::Result<Self> {
        let packer = Packing(Packer::new()?);
        Ok(Self { out, chooser: Chooser::new(compression, 1), packer, buffer: Vec::with_capacity(BLOCK), sent: 0 })
    }

    /// Sends bytes as they are, before the first block.
    pub fn send_raw(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.sent += bytes.len() as u64;
        self.out.send(bytes.into())
    }

    pub fn outlet(&mut self) -> &mut O {
        &mut self.out
    }

    fn emit(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let length = self.buffer.len();
        let algorithm = self.chooser.choose(self.out.rate());
        let mut block = vec![0; HEADER + if algorithm == Algorithm::None { length } else { room_for(length) }];
        let begun = Instant::now();
        let packed = self.packer.0.pack(algorithm, &self.buffer, &mut block[HEADER..]);
        self.chooser.learn(algorithm, length, packed.unwrap_or(length), begun.elapsed());
        let (algorithm, packed) = match packed {
            Some(packed) => (algorithm, packed),
            None => {
                block[HEADER..HEADER + length].copy_from_slice(&self.buffer);
                (Algorithm::None, length)
            }
        };
        block.truncate(HEADER + packed);
        block[0] = algorithm as u8;
        block[1..5].copy_from_slice(&(length as u32).to_le_bytes());
        block[5..9].copy_from_slice(&(packed as u32).to_le_bytes());
        self.buffer.clear();
        self.sent += block.len() as u64;
        self.out.send(Bytes::from(block))
    }
}

impl<O: Outlet> Write for Blocks<O> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BLOCK {
            self.emit()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.emit()
    }
}

/// The reading end.
pub(super) struct Unblocked<R> {
    input: R,
    unpacker: Unpacker,
    packed: Vec<u8>,
    block: Vec<u8>,
    read: usize,
}

impl<R: Read> Unblocked<R> {
    pub fn new(input: R) -> io::Result<Self> {
        Ok(Self { input, unpacker: Unpacker::new()?, packed: Vec::new(), block: Vec::new(), read: 0 })
    }

    /// Bytes as they are, before the first block.
    pub fn raw(&mut self) -> &mut R {
        &mut self.input
    }

    fn next(&mut self) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut header = [0; HEADER];
        self.input.read_exact(&mut header)?;
        let length =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (length, packed) = (length(1), length(5));
        let algorithm = Algorithm::from_wire(header[0]).ok_or_else(invalid)?;
        if length == 0 || length > LONGEST || packed > room_for(LONGEST) {
            return Err(invalid());
        }
        self.block.resize(length, 0);
        self.read = 0;
        if algorithm == Algorithm::None {
            return if packed == length { self.input.read_exact(&mut self.block) } else { Err(invalid()) };
        }
        self.packed.resize(packed, 0);
        self.input.read_exact(&mut self.packed)?;
        self.unpacker.unpack(algorithm, &self.packed, &mut self.block).map_err(|_| invalid())
    }
}

impl<R: Read> Read for Unblocked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.read == self.block.len() {
            self.next()?;
        }
        let length = into.len().min(self.block.len() - self.read);
        into[..length].copy_from_slice(&self.block[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}
