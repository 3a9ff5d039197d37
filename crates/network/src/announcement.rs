//! Telling neighbours and switches where an address is now.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use drover_model::Interface;
use drover_sys::packet::PacketSocket;
use rustix::io::Errno;

use crate::frame::{Arp, gratuitous_arp, neighbour_advertisement};

/// How often each frame is sent: one may be lost.
const REPEATS: usize = 2;

/// How often a frame is tried again for which a link has no room, and the pause before each time. Links that stand on one
/// uplink pass broadcasts to each other: with a thousand of them, what the kernel puts in line for that is full now and then.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Sends until there is room.
pub(crate) fn patiently(mut send: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 1..ATTEMPTS {
        match send() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => std::thread::sleep(PAUSE),
            sent => return sent,
        }
    }
    send()
}

/// The frames that announce all addresses of an interface, each one once.
fn frames(interface: &Interface) -> Vec<Vec<u8>> {
    let mac = interface.mac;
    let mut frames = Vec::new();
    for network in &interface.addresses {
        match network.addr() {
            IpAddr::V4(address) => {
                frames.push(gratuitous_arp(mac, address, Arp::Request));
                frames.push(gratuitous_arp(mac, address, Arp::Reply));
            }
            IpAddr::V6(address) => frames.push(neighbour_advertisement(mac, address)),
        }
    }
    frames
}

/// Sends the announcement of every address, twice.
pub(crate) fn announce(socket: &PacketSocket, interface: &Interface) -> io::Result<()> {
    let frames = frames(interface);
    (0..REPEATS).try_for_each(|_| frames.iter().try_for_each(|frame| patiently(|| socket.send(frame))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a thousand containers on one node 74 did not start.
    #[test]
    fn a_link_without_room_is_waited_for_and_another_error_is_none_of_that() {
        let mut answers = [Errno::NOBUFS, Errno::NOBUFS].into_iter();
        let sent = patiently(|| answers.next().map_or(Ok(()), |errno| Err(errno.into())));
        assert!(sent.is_ok() && answers.next().is_none());
        let mut tries = 0;
        let down = patiently(|| {
            tries += 1;
            Err(Errno::NETDOWN.into())
        });
        assert_eq!((down.unwrap_err().raw_os_error(), tries), (Some(Errno::NETDOWN.raw_os_error()), 1));
    }

    #[test]
    fn every_address_is_announced() {
        let interface = Interface {
            mac: "02:1d:70:00:00:32".parse().unwrap(),
            addresses: vec!["10.0.0.50/24".parse().unwrap(), "fd00::50/64".parse().unwrap()],
            gateways: vec![],
        };
        let ethertypes: Vec<[u8; 2]> = frames(&interface).iter().map(|frame| [frame[12], frame[13]]).collect();
        assert_eq!(ethertypes, [[8, 6], [8, 6], [0x86, 0xdd]]);
    }
}
