//! The frames that announce an address or ask who has it, as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    let checksum = icmpv6_checksum(address, ALL_NODES, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(message);
    frame
}

/// An ARP probe (RFC 5227, section 2.1.1): who has `address`? It tells nobody that the sender might.
pub(crate) fn arp_probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = gratuitous_arp(mac, address, Arp::Request);
    frame[SENDER_IPV4..SENDER_IPV4 + 4].fill(0);
    frame
}

/// A neighbour solicitation of the unspecified address (RFC 4862, section 5.4.2): who has `address`?
pub(crate) fn neighbour_probe(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    const SOLICITATION: u16 = 24;
    let octets = address.octets();
    // The solicited-node multicast address (RFC 4291, section 2.7.1) and its Ethernet address.
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(octets[13]), last_two(octets));
    let mut frame = ethernet([0x33, 0x33, 0xff, octets[13], octets[14], octets[15]], mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(SOLICITATION.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    // Type 135, code 0, checksum to be filled in, reserved.
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(octets);
    let checksum = icmpv6_checksum(Ipv6Addr::UNSPECIFIED, group, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(message);
    frame
}

fn last_two(octets: [u8; 16]) -> u16 {
    u16::from_be_bytes([octets[14], octets[15]])
}

/// Where an ARP message over Ethernet has its sender's MAC and IPv4 address.
const SENDER_MAC: usize = 22;
const SENDER_IPV4: usize = 28;

/// The address that the sender of a frame says it has, and the sender's MAC: from an ARP message, or from a neighbour
/// advertisement.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    const ADVERTISED: usize = 62;
    let octets = |at: usize, length: usize| frame.get(at..at + length);
    let mac = |at: usize| Some(Mac(octets(at, 6)?.try_into().ok()?));
    match u16::from_be_bytes(octets(12, 2)?.try_into().ok()?) {
        ETHERTYPE_ARP => {
            let address: [u8; 4] = octets(SENDER_IPV4, 4)?.try_into().ok()?;
            Some((Ipv4Addr::from(address).into(), mac(SENDER_MAC)?))
        }
        ETHERTYPE_IPV6 if frame.get(20) == Some(&ICMPV6) && frame.get(54) == Some(&136) => {
            let address: [u8; 16] = octets(ADVERTISED, 16)?.try_into().ok()?;
            Some((Ipv6Addr::from(address).into(), mac(6)?))
        }
        _ => None,
    }
}

/// The checksum over the pseudo header (RFC 8200, section 8.1) and the message.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut data = Vec::with_capacity(40 + message.len());
    data.extend(source.octets());
    data.extend(destination.octets());
    data.extend((message.len() as u32).to_be_bytes());
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
    fn a_probe_claims_nothing_and_an_announcement_its_address() {
        let address = Ipv4Addr::new(10, 0, 0, 50);
        let probe = arp_probe(MAC, address);
        assert_eq!(probe[38..], address.octets());
        assert_eq!(claim(&probe), Some((Ipv4Addr::UNSPECIFIED.into(), MAC)));
        assert_eq!(claim(&gratuitous_arp(MAC, address, Arp::Reply)), Some((address.into(), MAC)));
        let address: Ipv6Addr = "fd00::50".parse().unwrap();
        assert_eq!(claim(&neighbour_advertisement(MAC, address)), Some((address.into(), MAC)));
        assert_eq!(claim(&neighbour_probe(MAC, address)), None);
        assert_eq!(claim(&[0; 20]), None);
    }

    #[test]
    fn a_solicitation_goes_to_those_whose_address_ends_alike() {
        let frame = neighbour_probe(MAC, "fd00::12:3456".parse().unwrap());
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(frame[38..54], group.octets());
        let pseudo = [&frame[22..54], &[0, 0, 0, 24, 0, 0, 0, 58][..], &frame[54..]].concat();
        assert_eq!(ones_complement_sum(&pseudo), 0xffff);
    }

    #[test]
    fn the_sum_follows_the_example_of_rfc_1071() {
        assert_eq!(ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
