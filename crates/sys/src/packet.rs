//! Raw Ethernet frames through an `AF_PACKET` socket (packet(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// A socket that sends and receives whole Ethernet frames on one link of the network namespace it was made in.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    address: libc::sockaddr_ll,
}

impl PacketSocket {
    /// For sending alone, on the link with this index: it sees no frames.
    ///
    /// # Errors
    /// When the process may not make such a socket.
    pub fn sending(link: u32) -> io::Result<Self> {
        Self::new(link, 0)
    }

    /// For sending, and receiving every frame that the link receives or sends.
    ///
    /// # Errors
    /// When the process may not make such a socket or the link does not exist.
    pub fn listening(link: u32) -> io::Result<Self> {
        let socket = Self::new(link, libc::ETH_P_ALL as u16)?;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let address: *const libc::sockaddr_ll = &socket.address;
        // SAFETY: `address` points to a whole sockaddr_ll, whose size is given, and lives through the call.
        let result = unsafe { libc::bind(socket.fd.as_raw_fd(), address.cast(), size) };
        if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
    }

    fn new(link: u32, protocol: u16) -> io::Result<Self> {
        // Protocol 0: nothing is received until the socket is bound to one link.
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all bytes zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(link).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self { fd, address })
    }

    /// Sends one frame, Ethernet header included.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let address: *const libc::sockaddr_ll = &self.address;
        // SAFETY: `frame` is readable for its length, `address` points to a whole sockaddr_ll of the given size, and
        // both live through the call.
        let sent =
            unsafe { libc::sendto(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address.cast(), size) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one frame into `buffer`, cut off at its end, and gives its length.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when none came within `timeout`, which must not be zero.
    pub fn receive(&self, buffer: &mut [u8], timeout: Duration) -> io::Result<usize> {
        set_socket_timeout(self.fd.as_fd(), Timeout::Recv, Some(timeout))?;
        let (length, _) = rustix::net::recv(self.fd.as_fd(), buffer, RecvFlags::empty())?;
        Ok(length)
    }
}
