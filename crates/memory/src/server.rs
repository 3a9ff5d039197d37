//! The page server that CRIU's dump sends memory to: a socket in the same process as the link, no TCP between.
//!
//! Source of the protocol: CRIU's `criu/page-xfer.c`, version 4.2 and newer (a header of 32 bytes, numbers in the
//! machine's order). Over an AF_UNIX socket the dump does not wait for a corked TCP connection at the end (215 ms).

use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use drover_model::PageCount;

use crate::record::{MAX_RUN, Object, PRESENT};
use crate::stream::StreamWriter;

/// What was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Pages with content.
    pub pages: PageCount,
}

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// CRIU's socket broke.
    #[error("cannot read pages from criu")]
    Read(#[source] io::Error),
    /// The page stream refused.
    #[error("cannot send pages")]
    Send(#[source] io::Error),
    /// CRIU sent what its protocol does not know.
    #[error("criu sent an unknown page command {command:#x}")]
    Command {
        /// The command.
        command: u32,
    },
}

const HEADER: usize = 32;
const PARENT: u32 = 5;
const OPEN: u32 = 4;
const ADD: u32 = 6;
const CLOSE: u32 = 0x1023;
const FORCE_CLOSE: u32 = 0x1024;
/// How much is copied at once, in bytes.
const GULP: usize = 1 << 20;

/// Serves one dump: every page that CRIU sends on `socket` goes to `out` as a page stream. Returns when CRIU closes.
///
/// # Errors
/// When either side breaks or CRIU sends what its protocol does not know.
pub fn serve(socket: OwnedFd, out: impl Write) -> Result<Served, ServerError> {
    let mut criu = UnixStream::from(socket);
    let mut stream = StreamWriter::new(BufWriter::with_capacity(GULP, out)).map_err(ServerError::Send)?;
    let mut buffer = vec![0; GULP];
    loop {
        let header = Header::read(&mut criu).map_err(ServerError::Read)?;
        match header.command & 0xffff {
            OPEN => {
                let object = header.object().ok_or(ServerError::Command { command: header.command })?;
                stream.object(object).map_err(ServerError::Send)?;
                // There is no parent image here.
                criu.write_all(&[0]).map_err(ServerError::Read)?;
            }
            PARENT => criu.write_all(&0_i32.to_ne_bytes()).map_err(ServerError::Read)?,
            ADD => add(&header, &mut criu, &mut stream, &mut buffer)?,
            CLOSE | FORCE_CLOSE => {
                let (pages, _) = stream.end().map_err(ServerError::Send)?;
                criu.write_all(&0_i32.to_ne_bytes()).map_err(ServerError::Read)?;
                return Ok(Served { pages });
            }
            _ => return Err(ServerError::Command { command: header.command }),
        }
    }
}

/// Passes on pages that stand side by side, in runs of bounded length.
fn add(
    header: &Header,
    criu: &mut UnixStream,
    stream: &mut StreamWriter<impl Write>,
    buffer: &mut [u8],
) -> Result<(), ServerError> {
    let flags = header.command >> 16;
    let (mut address, mut left) = (header.address, header.pages);
    while left > 0 {
        let pages = u32::try_from(left.min(u64::from(MAX_RUN))).unwrap_or(MAX_RUN);
        stream.run(flags, address, pages).map_err(ServerError::Send)?;
        let mut bytes = if flags & PRESENT == 0 { 0 } else { u64::from(pages) * PageCount::PAGE };
        while bytes > 0 {
            let most = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            let length = criu.read(&mut buffer[..most]).map_err(ServerError::Read)?;
            if length == 0 {
                return Err(ServerError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            stream.content().write_all(&buffer[..length]).map_err(ServerError::Send)?;
            bytes -= length as u64;
        }
        address += u64::from(pages) * PageCount::PAGE;
        left -= u64::from(pages);
    }
    Ok(())
}

/// `struct page_server_iov`: command and flags, padding, pages, address, destination.
struct Header {
    command: u32,
    pages: u64,
    address: u64,
    destination: u64,
}

impl Header {
    fn read(criu: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; HEADER];
        criu.read_exact(&mut bytes)?;
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let command = u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
        Ok(Self { command, pages: long(8), address: long(16), destination: long(24) })
    }

    /// The destination is an id with its kind in the lowest byte.
    fn object(&self) -> Option<Object> {
        let id = self.destination >> 8;
        match self.destination & 0xff {
            1 => Some(Object::Process(id)),
            2 => Some(Object::Shared(id)),
            _ => None,
        }
    }
}
