//! What a lab of N hosts looks like: names, addresses and the agents' configurations. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use drover_model::{Mac, NodeName, Role};
use serde::Serialize;

/// The largest number of nodes: their addresses stay below the client's.
pub const LARGEST: u8 = 64;
/// The port of every agent.
const PORT: u16 = 7780;
/// The prefix length of the lab's IPv4 network, `10.77.0.0/16`.
pub(crate) const PREFIX_V4: u8 = 16;
/// The prefix length of the lab's IPv6 network, `fd77::/64`.
pub(crate) const PREFIX_V6: u8 = 64;
/// The last byte of the client's addresses.
const CLIENT: u8 = 100;
/// The bridge's fixed MAC: a bridge that takes its ports' MACs changes them when a port leaves, and peers stall.
pub(crate) const BRIDGE_MAC: Mac = Mac([0x02, 0x77, 0, 0, 0xff, 0x01]);

/// The users of a lab and their roles; the first is who uses it when nobody says otherwise.
pub(crate) const USERS: [(&str, Role); 5] = [
    ("user", Role::Admin),
    ("operator", Role::Operator),
    ("alice", Role::Owner),
    ("bob", Role::Owner),
    ("viewer", Role::Viewer),
];

/// The hosts of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The nodes, `n1` first, and then the client.
    pub hosts: Vec<HostPlan>,
}

/// One host of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    /// Its name, which is its host name and the name of its port on the switch.
    pub name: NodeName,
    /// 1 for `n1`; none for the client.
    pub number: Option<u8>,
    /// Its address in `10.77.0.0/16`.
    pub v4: Ipv4Addr,
    /// Its address in `fd77::/64`.
    pub v6: Ipv6Addr,
    /// The MAC of its `eth0`.
    pub mac: Mac,
}

impl Plan {
    /// The plan of a lab with `nodes` nodes, at most [`LARGEST`].
    #[must_use]
    pub fn of(nodes: u8) -> Self {
        let nodes = (1..=nodes.min(LARGEST)).map(|number| HostPlan::at(&format!("n{number}"), Some(number)));
        Self { hosts: nodes.chain([HostPlan::at("client", None)]).collect() }
    }

    /// The hosts that run agents.
    pub fn nodes(&self) -> impl Iterator<Item = &HostPlan> {
        self.hosts.iter().filter(|host| host.number.is_some())
    }

    /// The host called `name`.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| host.name.as_str() == name)
    }

    /// The host from which every agent can be reached.
    pub(crate) fn client(&self) -> &HostPlan {
        self.hosts.last().expect("a plan ends with its client")
    }

    /// `/etc/hosts` of every host.
    pub(crate) fn hosts_file(&self) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
        for host in &self.hosts {
            text.push_str(&format!("{} {}\n{} {}\n", host.v4, host.name, host.v6, host.name));
        }
        text
    }
}

impl HostPlan {
    fn at(name: &str, number: Option<u8>) -> Self {
        let last = number.map_or(CLIENT, |number| 10 + number);
        Self {
            name: name.parse().expect("a lab's host names are valid"),
            number,
            v4: Ipv4Addr::new(10, 77, 0, last),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into()),
            mac: Mac([0x02, 0x77, 0, 0, 0, last]),
        }
    }

    /// Where its agent listens.
    #[must_use]
    pub fn agent_address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), PORT)
    }

    /// `/etc/drover/agent.toml` of this node among the plan's.
    pub(crate) fn agent_config(&self, plan: &Plan) -> Option<String> {
        let number = self.number?;
        let config = AgentConfig {
            name: &self.name,
            listen: self.agent_address(),
            state: "/var/lib/drover",
            run: "/run/drover",
            uplink: "eth0",
            tls: Tls {
                ca: "/etc/drover/tls/ca.pem",
                cert: "/etc/drover/tls/node.pem",
                key: "/etc/drover/tls/node.key",
            },
            pool: Pool { range: format!("10.77.{number}.0/24"), prefix: PREFIX_V4 },
            peer: plan
                .nodes()
                .filter(|node| node.name != self.name)
                .map(|node| Peer { name: &node.name, address: node.agent_address() })
                .collect(),
            user: USERS.map(|(name, role)| User { name, role }),
        };
        Some(toml::to_string(&config).expect("strings and numbers are always TOML"))
    }
}

#[derive(Serialize)]
struct AgentConfig<'a> {
    name: &'a NodeName,
    listen: SocketAddr,
    state: &'a str,
    run: &'a str,
    uplink: &'a str,
    tls: Tls<'a>,
    pool: Pool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peer: Vec<Peer<'a>>,
    user: [User; USERS.len()],
}

#[derive(Serialize)]
struct Tls<'a> {
    ca: &'a str,
    cert: &'a str,
    key: &'a str,
}

#[derive(Serialize)]
struct Pool {
    range: String,
    prefix: u8,
}

#[derive(Serialize)]
struct Peer<'a> {
    name: &'a NodeName,
    address: SocketAddr,
}

#[derive(Serialize)]
struct User {
    name: &'static str,
    role: Role,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_largest_lab_has_no_address_twice() {
        let plan = Plan::of(LARGEST);
        assert_eq!(plan.hosts.len(), usize::from(LARGEST) + 1);
        assert_eq!(plan.hosts.iter().map(|host| host.v4).collect::<HashSet<_>>().len(), plan.hosts.len());
        assert_eq!(plan.hosts.iter().map(|host| host.mac).collect::<HashSet<_>>().len(), plan.hosts.len());
    }

    #[test]
    fn hosts_have_the_addresses_that_the_documentation_promises() {
        let plan = Plan::of(2);
        let addresses: Vec<_> =
            plan.hosts.iter().map(|h| (h.name.as_str(), h.v4.to_string(), h.v6.to_string())).collect();
        let expected =
            [("n1", "10.77.0.11", "fd77::b"), ("n2", "10.77.0.12", "fd77::c"), ("client", "10.77.0.100", "fd77::64")];
        assert_eq!(addresses, expected.map(|(name, v4, v6)| (name, v4.to_owned(), v6.to_owned())));
    }

    #[test]
    fn an_agent_knows_every_other_node_and_not_itself() {
        let plan = Plan::of(2);
        let expected = r#"name = "n2"
listen = "10.77.0.12:7780"
state = "/var/lib/drover"
run = "/run/drover"
uplink = "eth0"

[tls]
ca = "/etc/drover/tls/ca.pem"
cert = "/etc/drover/tls/node.pem"
key = "/etc/drover/tls/node.key"

[pool]
range = "10.77.2.0/24"
prefix = 16

[[peer]]
name = "n1"
address = "10.77.0.11:7780"

[[user]]
name = "user"
role = "admin"

[[user]]
name = "operator"
role = "operator"

[[user]]
name = "alice"
role = "owner"

[[user]]
name = "bob"
role = "owner"

[[user]]
name = "viewer"
role = "viewer"
"#;
        assert_eq!(plan.host("n2").unwrap().agent_config(&plan).unwrap(), expected);
        assert_eq!(plan.client().agent_config(&plan), None);
        assert!(!Plan::of(1).hosts[0].agent_config(&Plan::of(1)).unwrap().contains("peer"));
    }
}
