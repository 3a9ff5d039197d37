//! The switch and the links of the hosts: all of it in namespaces, nothing in the caller's.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use drover_model::Bandwidth;
use drover_sys::launch::in_fresh_network;
use drover_sys::namespace::in_network;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{BridgeStpState, InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::mount::mount_bind;

use crate::error::StepError;
use crate::plan::{BRIDGE_MAC, HostPlan, PREFIX_V4, PREFIX_V6};

/// The name of the switch's namespace.
pub(crate) const SWITCH: &str = "switch";
const BRIDGE: &str = "br0";
/// The link of every host.
const UPLINK: &str = "eth0";

/// A link of the lab that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A file, a namespace or a program refused.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The kernel refused a change of its network configuration.
    #[error("cannot {0}")]
    Netlink(&'static str, #[source] rtnetlink::Error),
    /// A link that should be there is not.
    #[error("cannot find link {0}")]
    NoLink(&'static str),
    /// `tc` refused.
    #[error("cannot set the link rate: tc said {0:?}")]
    Rate(String),
}

impl NetworkError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Step(step) if step.kind() == std::io::ErrorKind::NotFound => {
                Some("the lab needs `tc` (package iproute2): run scripts/install-base.sh (make lab-base)".into())
            }
            Self::Rate(_) => Some("the kernel may lack tbf (CONFIG_NET_SCH_TBF): use --link none".into()),
            _ => None,
        }
    }
}

/// Makes a network namespace that the file `path` keeps.
pub(crate) fn make_namespace(path: &Path) -> Result<(), NetworkError> {
    File::create(path).map_err(StepError::at("create", path))?;
    in_fresh_network(|| mount_bind("/proc/thread-self/ns/net", path))
        .map_err(StepError::at("make network namespace", path))?
        .map_err(StepError::at("keep network namespace", path))?;
    Ok(())
}

/// Makes the bridge in the switch's namespace.
pub(crate) fn make_switch(switch: &Path) -> Result<(), NetworkError> {
    on_netlink(switch, async |netlink| {
        let bridge = LinkBridge::new(BRIDGE)
            .address(BRIDGE_MAC.0.to_vec())
            .forward_delay(0)
            .stp_state(BridgeStpState::Disabled)
            // Neighbour discovery of IPv6 is multicast; with snooping and no querier it may be lost.
            .mcast_snooping(false)
            .build();
        netlink.link().add(bridge).execute().await.map_err(|e| NetworkError::Netlink("make the bridge", e))
    })
}

/// Links a host with the switch: a port named after the host there, `eth0` with the host's addresses here.
pub(crate) fn plug(switch: &Path, namespace: &Path, host: &HostPlan) -> Result<(), NetworkError> {
    let inside = File::open(namespace).map_err(StepError::at("open", namespace))?;
    on_netlink(switch, async |netlink| {
        let bridge = index(netlink, BRIDGE).await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(UPLINK.to_owned())
            .address(host.mac.0.to_vec())
            .setns_by_fd(inside.as_raw_fd())
            .build();
        let port = LinkVeth::new(host.name.as_str(), UPLINK)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .up()
            .build();
        netlink.link().add(port).execute().await.map_err(|e| NetworkError::Netlink("make the port of a host", e))
    })?;
    on_netlink(namespace, async |netlink| {
        let loopback = index(netlink, "lo").await?;
        let uplink = index(netlink, UPLINK).await?;
        address(netlink, uplink, host.v4.into(), PREFIX_V4).await?;
        if Path::new("/proc/sys/net/ipv6").exists() {
            address(netlink, uplink, host.v6.into(), PREFIX_V6).await?;
        }
        for link in [loopback, uplink] {
            let up = LinkUnspec::new_with_index(link).up().build();
            netlink.link().change(up).execute().await.map_err(|e| NetworkError::Netlink("set a link up", e))?;
        }
        Ok(())
    })
}

async fn index(netlink: &Handle, name: &'static str) -> Result<u32, NetworkError> {
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(Some(link)) => Ok(link.header.index),
        Ok(None) => Err(NetworkError::NoLink(name)),
        Err(error) => Err(NetworkError::Netlink("look for a link", error)),
    }
}

async fn address(netlink: &Handle, link: u32, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
    let mut request = netlink.address().add(link, address, prefix);
    if address.is_ipv6() {
        // The lab's addresses are its own: nobody needs to wait until a duplicate has not answered.
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request.execute().await.map_err(|e| NetworkError::Netlink("give a host its address", e))
}

/// Runs `work` with a netlink socket of the namespace that `namespace` keeps.
fn on_netlink<T: Send>(
    namespace: &Path,
    work: impl AsyncFnOnce(&Handle) -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let failed = || StepError::at("use the network of", namespace);
    in_network(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed())?;
        runtime.block_on(async {
            let (connection, netlink, _) = rtnetlink::new_connection().map_err(failed())?;
            tokio::spawn(connection);
            work(&netlink).await
        })
    })
    .map_err(failed())?
}

/// Sets the rate of a host's link in both directions, or takes the limit away.
pub(crate) fn set_rate(
    switch: &Path,
    namespace: &Path,
    host: &HostPlan,
    rate: Option<Bandwidth>,
) -> Result<(), NetworkError> {
    tc(namespace, &rate_arguments(UPLINK, rate))?;
    tc(switch, &rate_arguments(host.name.as_str(), rate))
}

/// How long a packet may wait for its turn before the queue drops.
const LATENCY: &str = "50ms";
/// The smallest bucket: a full GSO packet must fit.
const SMALLEST_BURST: u64 = 128 << 10;

fn rate_arguments(link: &str, rate: Option<Bandwidth>) -> Vec<String> {
    let words = match rate {
        None => format!("qdisc del dev {link} root"),
        Some(Bandwidth(bits)) => {
            // 4 ms of traffic: what passes between two ticks of a slow clock.
            let burst = (bits / 8 / 250).max(SMALLEST_BURST);
            format!("qdisc replace dev {link} root tbf rate {bits}bit burst {burst}b latency {LATENCY}")
        }
    };
    words.split(' ').map(str::to_owned).collect()
}

/// Runs `tc` in a namespace: rtnetlink knows no tbf.
fn tc(namespace: &Path, arguments: &[String]) -> Result<(), NetworkError> {
    let run = || Command::new("tc").args(arguments).env("LC_ALL", "C").output();
    let output = in_network(namespace, run)
        .map_err(StepError::at("use the network of", namespace))?
        .map_err(StepError::of("run", "tc"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // Nothing to delete is as good as deleted.
    let nothing = arguments.get(1).is_some_and(|word| word == "del") && said.contains("handle of zero");
    if output.status.success() || nothing { Ok(()) } else { Err(NetworkError::Rate(said)) }
}

/// Tries to reach an agent from inside a namespace.
pub(crate) fn reaches(namespace: &Path, address: SocketAddr, patience: Duration) -> bool {
    in_network(namespace, || TcpStream::connect_timeout(&address, patience).is_ok()).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_four_milliseconds_and_never_less_than_a_full_packet() {
        let words = |rate: &str| rate_arguments("n1", Some(rate.parse().unwrap())).join(" ");
        assert_eq!(words("1gbit"), "qdisc replace dev n1 root tbf rate 1000000000bit burst 500000b latency 50ms");
        assert_eq!(words("1mbit"), "qdisc replace dev n1 root tbf rate 1000000bit burst 131072b latency 50ms");
        assert_eq!(rate_arguments("eth0", None).join(" "), "qdisc del dev eth0 root");
    }
}
