//! The frames that announce an address, as bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use drover_model::Mac;

const BROADCAST: [u8; 6] = [0xff; 6];
/// The Ethernet address of all IPv6 nodes on a link (RFC 2464, section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// All IPv6 nodes on a link (RFC 4291, section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
/// The length of the ICMPv6 message: header and target address, and one option of 8 bytes.
const ADVERTISEMENT: u16 = 32;

/// The two forms of a gratuitous ARP message; some neighbours heed only one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arp {
    /// A request for one's own address (RFC 5227, section 3: the form of an announcement).
    Request = 1,
    /// A reply that nobody asked for.
    Reply = 2,
}

fn ethernet(destination: [u8; 6], source: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + 40 + usize::from(ADVERTISEMENT));
    frame.extend(destination);
    frame.extend(source.0);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// A gratuitous ARP message (RFC 826) to everyone: `address` is at `mac`.
pub(crate) fn gratuitous_arp(mac: Mac, address: Ipv4Addr, form: Arp) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, form as u8]);
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend(match form {
        Arp::Request => [0; 6],
        Arp::Reply => BROADCAST,
    });
    frame.extend(address.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861, section 4.4) with the override flag, to all nodes: `address` is at
/// `mac`.
pub(crate) fn neighbour_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    // Version 6; hop limit 255, without which receivers drop it.
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(ADVERTISEMENT.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());

    let mut message = Vec::with_capacity(usize::from(ADVERTISEMENT));
    // Type 136, code 0, checksum to be filled in, flags: override.
    message.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    message.extend(address.octets());
    // Option: target link-layer address, one unit of 8 bytes.
    message.extend([2, 1]);
    message.extend(mac.0);
    let checksum = icmpv6_checksum(address, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(message);
    frame
}

/// The checksum over the pseudo header (RFC 8200, section 8.1) and the message.
fn icmpv6_checksum(source: Ipv6Addr, message: &[u8]) -> u16 {
    let mut data = Vec::with_capacity(40 + message.len());
    data.extend(source.octets());
    data.extend(ALL_NODES.octets());
    data.extend(u32::from(ADVERTISEMENT).to_be_bytes());
    data.extend([0, 0, 0, ICMPV6]);
    data.extend(message);
    !ones_complement_sum(&data)
}

/// The sum of RFC 1071.
fn ones_complement_sum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0x1d, 0x70, 0, 0, 0x32]);

    #[test]
    fn a_gratuitous_request_asks_everyone_for_its_own_address() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(10, 0, 0, 50), Arp::Request);
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x1d, 0x70, 0, 0, 0x32, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // request
            2, 0x1d, 0x70, 0, 0, 0x32, 10, 0, 0, 50, // sender
            0, 0, 0, 0, 0, 0, 10, 0, 0, 50, // target
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_gratuitous_reply_differs_in_operation_and_target() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(10, 0, 0, 50), Arp::Reply);
        assert_eq!(frame[20..22], [0, 2]);
        assert_eq!(frame[32..38], [0xff; 6]);
        assert_eq!(frame[38..], [10, 0, 0, 50]);
    }

    #[test]
    fn an_advertisement_is_valid_and_overrides() {
        let address: Ipv6Addr = "fd00::50".parse().unwrap();
        let frame = neighbour_advertisement(MAC, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0x1d, 0x70, 0, 0, 0x32, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(frame[22..38], address.octets());
        assert_eq!(frame[38..54], ALL_NODES.octets());
        assert_eq!((frame[54], frame[55], frame[58]), (136, 0, 0x20));
        assert_eq!(frame[62..78], address.octets());
        assert_eq!(frame[78..], [2, 1, 2, 0x1d, 0x70, 0, 0, 0x32]);
        // A message with its checksum in place sums up to all ones.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58][..], &frame[54..]].concat();
        assert_eq!(ones_complement_sum(&pseudo), 0xffff);
    }

    #[test]
    fn the_sum_follows_the_example_of_rfc_1071() {
        assert_eq!(ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
