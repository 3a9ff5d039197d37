//! A container's network interface: the address and the MAC that travel with it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "02:1d:70:00:00:32")]
pub struct Mac(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: expected six pairs of hexadecimal digits with colons between them")]
pub struct InvalidMac;

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(InvalidMac)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| InvalidMac)?;
        }
        if parts.next().is_some() { Err(InvalidMac) } else { Ok(Self(octets)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The one interface of a container, `eth0` inside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// The Ethernet address, the same wherever the container runs.
    pub mac: Mac,
    /// Addresses with their prefix lengths, IPv4 and IPv6.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNet>,
    /// Default gateways, at most one of each family.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
}

/// Somebody on the link whose Ethernet address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_survives_printing_and_parsing() {
        let mac = Mac([2, 0x1d, 0x70, 0, 0, 0x32]);
        assert_eq!(mac.to_string(), "02:1d:70:00:00:32");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in ["", "02:1d:70:00:00", "02:1d:70:00:00:32:11", "2:1d:70:00:00:32", "gg:1d:70:00:00:32"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
