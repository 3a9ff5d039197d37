//! The addresses of a container: those that were asked for, or one of the node's pool, if nobody has them yet.

use std::collections::HashSet;
use std::net::IpAddr;

use drover_api::RunRequest;
use drover_model::{ContainerId, Interface, Mac};
use drover_network::taken;
use ipnet::IpNet;

use crate::Pool;
use crate::error::NodeError;
use crate::node::Inner;

/// How many addresses of a pool are looked at.
const LOOKED_AT: usize = 1 << 16;
/// How many of them the network is asked about at once: beyond these the pool is as good as used up.
const ASKED_AT_ONCE: usize = 16;
const CHOOSE: &str = "choose another address with --ip";

impl Inner {
    pub(crate) fn interface(&self, request: &RunRequest, id: &ContainerId) -> Result<Option<Interface>, NodeError> {
        let pool = self.config.pool.as_ref();
        let mut addresses = Vec::new();
        for text in &request.addresses {
            addresses.push(self.address(text)?);
        }
        if addresses.is_empty() {
            match pool {
                Some(pool) => addresses.push(self.free_address(pool)?),
                None => return Ok(None),
            }
        } else {
            self.refuse_taken(&addresses)?;
        }
        let mut gateways = request.gateways.clone();
        if gateways.is_empty() {
            gateways.extend(pool.and_then(|pool| pool.gateway));
        }
        Ok(Some(Interface { mac: request.mac.unwrap_or_else(|| mac_of(id)), addresses, gateways }))
    }

    /// `ADDRESS[/PREFIX]`; without a prefix length the pool's, if the address is in its network.
    fn address(&self, text: &str) -> Result<IpNet, NodeError> {
        let invalid = || NodeError::invalid(format!("{text:?} is no address"), "use --ip 10.0.0.5/24, or fd00::5/64");
        let network = self.config.pool.as_ref().and_then(|pool| IpNet::new(pool.range.addr(), pool.prefix).ok());
        let address: IpNet = if text.contains('/') {
            text.parse().map_err(|_| invalid())?
        } else {
            let address: IpAddr = text.parse().map_err(|_| invalid())?;
            let Some(network) = network.filter(|network| network.contains(&address)) else {
                let reason = format!("cannot tell the network of address {text}");
                return Err(NodeError::invalid(reason, "give its prefix length, as in 10.0.0.5/24"));
            };
            IpNet::new(address, network.prefix_len()).map_err(|_| invalid())?
        };
        match unusable(address) {
            Some(why) => Err(NodeError::invalid(format!("no container can have address {text}: it is {why}"), CHOOSE)),
            None => Ok(address),
        }
    }

    /// Whoever has an address of the node, of a peer or of anybody on the network loses it to a container that is given
    /// the same one.
    fn refuse_taken(&self, addresses: &[IpNet]) -> Result<(), NodeError> {
        let addresses: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
        if let Some(peer) = self.config.peers().iter().find(|peer| addresses.contains(&peer.address.ip())) {
            let reason = format!("cannot give the container address {}: node {} has it", peer.address.ip(), peer.name);
            return Err(NodeError::conflict(reason, CHOOSE));
        }
        let pool = self.config.pool.as_ref();
        if let Some(gateway) = pool.and_then(|pool| pool.gateway).filter(|gateway| addresses.contains(gateway)) {
            let reason = format!("cannot give the container address {gateway}: the gateway has it");
            return Err(NodeError::conflict(reason, CHOOSE));
        }
        match self.asked(&addresses)?.first() {
            Some(address) => {
                let reason = format!("cannot give the container address {address}: somebody on the network has it");
                Err(NodeError::conflict(reason, CHOOSE))
            }
            None => Ok(()),
        }
    }

    fn asked(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, NodeError> {
        taken(&self.config.uplink, addresses)
            .map_err(|error| NodeError::failed("cannot give the container an address", &error))
    }

    /// An address of the pool that nobody has, beginning at a random one: containers that moved away keep theirs, and
    /// one that is frozen does not answer, so the lowest free one is the likeliest to be in use elsewhere.
    fn free_address(&self, pool: &Pool) -> Result<IpNet, NodeError> {
        let own = self.registry.all();
        let mut known: HashSet<IpAddr> = own.iter().flat_map(|own| own.addresses()).map(IpNet::addr).collect();
        known.extend(self.config.peers().iter().map(|peer| peer.address.ip()));
        known.extend(pool.gateway);
        let hosts: Vec<IpAddr> = pool.range.hosts().take(LOOKED_AT).collect();
        let begin = rand::random::<u32>() as usize;
        let candidates = (0..hosts.len()).map(|i| hosts[begin.wrapping_add(i) % hosts.len()]);
        let usable = |host: &IpAddr| IpNet::new(*host, pool.prefix).is_ok_and(|net| unusable(net).is_none());
        let candidates = candidates.filter(|host| !known.contains(host) && usable(host));
        let candidates: Vec<IpAddr> = candidates.take(ASKED_AT_ONCE).collect();
        let answered = self.asked(&candidates)?;
        let free = candidates.into_iter().find(|host| !answered.contains(host));
        let none = || NodeError::conflict("cannot give the container an address: the pool is used up", "use --ip");
        IpNet::new(free.ok_or_else(none)?, pool.prefix).map_err(|_| none())
    }
}

/// What an address is that no host can have.
fn unusable(address: IpNet) -> Option<&'static str> {
    let ip = address.addr();
    match address {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpNet::V4(net) if net.prefix_len() < 31 && net.addr() == net.network() => Some("that of the whole network"),
        IpNet::V4(net) if net.prefix_len() < 31 && net.addr() == net.broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

/// A locally administered address made from the container's id.
fn mac_of(id: &ContainerId) -> Mac {
    let digits = id.as_str().as_bytes();
    let octet = |index: usize| {
        let pair = digits.get(2 * index..2 * index + 2).and_then(|pair| std::str::from_utf8(pair).ok());
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0)
    };
    Mac([0x02, octet(0), octet(1), octet(2), octet(3), octet(4)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_host_can_have_are_known() {
        let why = |text: &str| unusable(text.parse().unwrap());
        assert_eq!(why("10.0.0.5/24"), None);
        assert_eq!(why("10.0.0.0/24"), Some("that of the whole network"));
        assert_eq!(why("10.0.0.255/24"), Some("the broadcast address"));
        assert_eq!(why("10.0.0.0/31"), None);
        assert_eq!(why("127.0.0.1/8"), Some("a loopback address"));
        assert_eq!(why("0.0.0.0/0"), Some("the unspecified address"));
        assert_eq!(why("224.0.0.1/4"), Some("a multicast address"));
        assert_eq!(why("fd00::/64"), None);
    }

    #[test]
    fn a_mac_is_local_and_made_from_the_id() {
        let id: ContainerId = "0a1b2c3d4e5f".parse().unwrap();
        assert_eq!(mac_of(&id).to_string(), "02:0a:1b:2c:3d:4e");
    }
}
