//! The gate: whether frames pass the container's link.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, socket_with};

use crate::nftables::{self, Batch, Policy};

/// Whether frames pass a container's link, in both directions and of every protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// They pass.
    Open,
    /// None passes: the container's kernel sockets see nothing and their answers go nowhere.
    Closed,
}

impl Gate {
    fn policy(self) -> Policy {
        match self {
            Gate::Open => Policy::Accept,
            Gate::Closed => Policy::Drop,
        }
    }
}

/// The largest answer: an error message with the beginning of the request it is about.
const LARGEST_ANSWER: usize = 4096;
/// How many answers are looked at for one batch: leftovers of one that failed are among them.
const MOST_ANSWERS: usize = 64;

/// The way to a link's gate: a netlink socket of the link's network namespace, usable from any thread.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    socket: OwnedFd,
    /// The number of the next message.
    next: Mutex<u32>,
    link: &'static str,
}

impl Gatekeeper {
    /// Must be called inside the network namespace of `link`.
    pub(crate) fn new(link: &'static str) -> io::Result<Self> {
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        // Connected to the kernel, which is port 0.
        rustix::net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, next: Mutex::new(1), link })
    }

    /// Sets the gate; it has taken effect on return. A gate that does not exist yet is made.
    pub(crate) fn set(&self, gate: Gate) -> io::Result<()> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let change = nftables::change(gate.policy(), *next);
        *next = change.next();
        match self.commit(&change) {
            Err(Errno::NOENT) => {
                let load = nftables::load(self.link, gate.policy(), *next);
                *next = load.next();
                Ok(self.commit(&load)?)
            }
            result => Ok(result?),
        }
    }

    /// Sends a batch and reads what the kernel says to each of its messages. The kernel has answered before `send`
    /// returns, so nothing here waits.
    fn commit(&self, batch: &Batch) -> Result<(), Errno> {
        rustix::net::send(&self.socket, batch.bytes(), SendFlags::empty())?;
        let mut missing = batch.expected().to_vec();
        let mut failure = None;
        let mut datagram = [0; LARGEST_ANSWER];
        let range = batch.next().wrapping_sub(batch.expected()[0]) + 1;
        for _ in 0..MOST_ANSWERS {
            if missing.is_empty() {
                break;
            }
            let (length, _) = match rustix::net::recv(&self.socket, &mut datagram, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) if failure.is_some() => break,
                result => result?,
            };
            for answer in nftables::answers(&datagram[..length]) {
                missing.retain(|number| *number != answer.number);
                // The batch's begin and end are answered too when the kernel refuses the whole.
                let ours = batch.next().wrapping_sub(answer.number) <= range;
                if answer.errno != 0 && ours {
                    failure = failure.or(Some(Errno::from_raw_os_error(answer.errno)));
                }
            }
        }
        match failure {
            Some(errno) => Err(errno),
            None if missing.is_empty() => Ok(()),
            None => Err(Errno::BADMSG),
        }
    }
}
