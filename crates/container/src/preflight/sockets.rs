//! Sockets that cannot be dumped, by asking the socket itself (`pidfd_getfd(2)`).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use drover_model::Finding;
use drover_sys::process::peer_of;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::Looked;

/// Protocols of internet sockets that CRIU dumps (`can_dump_ipproto` in CRIU's `sk-inet.c`): any, TCP, UDP, UDP-Lite.
const PROTOCOLS: [u32; 4] = [0, 6, 17, 136];
/// What others are called.
const NAMES: [(u32, &str); 5] = [(1, "ICMP"), (33, "DCCP"), (58, "ICMPv6"), (132, "SCTP"), (262, "Multipath TCP")];

/// A copy of a descriptor of another process.
fn copy(pid: u32, number: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    pidfd_getfd(process, RawFd::try_from(number).ok()?, PidfdGetfdFlags::empty()).ok()
}

pub(super) fn look(one: &Looked, number: u32, all: &BTreeSet<u32>) -> Option<Finding> {
    let socket = copy(one.pid, number)?;
    let place = Some(format!("descriptor {number}"));
    let family = sockopt::socket_domain(&socket).ok()?;
    if family == AddressFamily::UNIX {
        // Whoever listens has no other end.
        let peer = foreign_peer(&socket, all)?;
        let reason = format!("it is connected by a UNIX socket to process {peer} outside of the container");
        return Some(one.blocks(
            "unix_peer",
            place,
            reason,
            "have it close the connection: the other end cannot travel",
        ));
    }
    let reason = unsupported(family, sockopt::socket_type(&socket).ok()?, protocol(&socket))?;
    Some(one.blocks("socket", place, reason, "have the program close it, or move it by stopping it"))
}

fn protocol(socket: impl AsFd) -> u32 {
    sockopt::socket_protocol(socket).ok().flatten().map_or(0, |protocol| protocol.as_raw().get())
}

/// Why a socket of this kind cannot be dumped, if it cannot.
fn unsupported(family: AddressFamily, kind: SocketType, protocol: u32) -> Option<String> {
    match family {
        AddressFamily::INET | AddressFamily::INET6 if kind == SocketType::RAW || PROTOCOLS.contains(&protocol) => None,
        AddressFamily::INET | AddressFamily::INET6 => {
            let name = NAMES.iter().find(|(number, _)| *number == protocol).map(|(_, name)| (*name).to_owned());
            let name = name.unwrap_or_else(|| format!("protocol {protocol}"));
            Some(format!("it has a socket of {name} open, which CRIU cannot dump"))
        }
        AddressFamily::UNIX | AddressFamily::NETLINK | AddressFamily::PACKET => None,
        other => Some(format!("it has a socket of the family {} open, which CRIU cannot dump", other.as_raw())),
    }
}

/// The process that made the other end of a connection, if it lives and is none of the container's.
fn foreign_peer(socket: impl AsFd, all: &BTreeSet<u32>) -> Option<u32> {
    peer_of(socket).ok()?.filter(|peer| !all.contains(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_may_go_and_what_criu_does_not_know_is_named() {
        let inet = |kind, protocol| unsupported(AddressFamily::INET, kind, protocol);
        assert_eq!(inet(SocketType::STREAM, 6), None);
        assert_eq!(inet(SocketType::RAW, 1), None);
        assert!(inet(SocketType::STREAM, 132).unwrap().contains("SCTP"));
        assert!(inet(SocketType::DGRAM, 1).unwrap().contains("ICMP"));
        assert!(unsupported(AddressFamily::VSOCK, SocketType::STREAM, 0).unwrap().contains("40"));
        assert_eq!(unsupported(AddressFamily::NETLINK, SocketType::RAW, 0), None);
    }
}
