//! Packets between agent and shim: a UNIX socket that keeps message boundaries, JSON for words, raw bytes for streams.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, connect, listen, recv, recvmsg, send, shutdown, socket_with,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest packet in bytes; below the default bound of the kernel's socket buffer.
const LONGEST: usize = 192 << 10;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<T> {
    /// Words.
    Word(T),
    /// A piece of stream 0 (standard input), 1 (output) or 2 (error).
    Bytes(u8, Vec<u8>),
}

/// One end of a connection. All calls block; any thread may use it.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// The first byte of a packet of words; those of streams begin with the stream's number.
const WORD: u8 = b'w';

impl Channel {
    /// The longest piece of a stream in one packet, in bytes.
    pub const PIECE: usize = 32 << 10;

    /// Connects to the shim that listens at `path`.
    ///
    /// # Errors
    /// When none does.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket })
    }

    /// Listens at `path`.
    ///
    /// # Errors
    /// When the path is taken or cannot be made.
    pub fn listen(path: &Path) -> io::Result<OwnedFd> {
        const BACKLOG: i32 = 64;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// The next connection to a listening socket.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn accept(listener: impl AsFd) -> io::Result<Self> {
        Ok(Self { socket: accept_with(listener, SocketFlags::CLOEXEC)? })
    }

    /// Gives up a `receive` after this long with `WouldBlock`; `None`: never.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.socket, Timeout::Recv, patience)?)
    }

    /// Sends words.
    ///
    /// # Errors
    /// When the other end is gone, or the words are too long for a packet.
    pub fn send(&self, word: &impl Serialize) -> io::Result<()> {
        let mut packet = vec![WORD];
        serde_json::to_writer(&mut packet, word)?;
        self.send_packet(&packet)
    }

    /// Sends a piece of a stream, at most `PIECE` bytes.
    ///
    /// # Errors
    /// When the other end is gone.
    pub fn send_bytes(&self, stream: u8, bytes: &[u8]) -> io::Result<()> {
        self.send_packet(&[&[stream], bytes].concat())
    }

    fn send_packet(&self, packet: &[u8]) -> io::Result<()> {
        if packet.len() > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        send(&self.socket, packet, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// What comes next; `None` when the other end has closed.
    ///
    /// # Errors
    /// When the socket breaks, the patience is over, or the packet makes no sense.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<Packet<T>>> {
        let mut buffer = vec![0; LONGEST];
        let (_, length) = loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        match buffer[..length.min(LONGEST)].split_first() {
            None => Ok(None),
            Some((&WORD, word)) => Ok(Some(Packet::Word(serde_json::from_slice(word)?))),
            Some((stream @ 0..=2, bytes)) => Ok(Some(Packet::Bytes(*stream, bytes.to_vec()))),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Wakes a thread that waits in `receive`: it hears that the other end has closed.
    pub fn close(&self) {
        // Fails only when the other end has gone already, which wakes it as well.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// The descriptor that comes over `stream`: how runc hands over the master of a terminal.
///
/// # Errors
/// When none comes.
pub(super) fn receive_descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
