//! Telling neighbours and switches where an address is now.

use std::io;
use std::net::IpAddr;

use drover_model::Interface;
use drover_sys::packet::PacketSocket;

use crate::frame::{Arp, gratuitous_arp, neighbour_advertisement};

/// How often each frame is sent: one may be lost.
const REPEATS: usize = 2;

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
    (0..REPEATS).try_for_each(|_| frames.iter().try_for_each(|frame| socket.send(frame)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
