//! Making the link inside the namespace: rtnetlink requests and kernel settings.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use drover_model::{Interface, Mac};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{LinkAttribute, MacVlanMode};
use rtnetlink::{Handle, LinkMacVlan, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

/// The name of a container's link, inside it.
pub(crate) const LINK: &str = "eth0";

/// What the settings in a container's namespace must be, below `/proc/sys/net`: an address that travels is not probed
/// again at each arrival, survives its link going down, and is not joined by others that a router offers.
const SETTINGS: [(&str, &str); 7] = [
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
];

/// The index of a link in the calling thread's namespace; absent: there is none of that name.
pub(crate) fn index_of(name: &str) -> io::Result<Option<u32>> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match netdevice::name_to_index(socket.as_fd(), name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes the settings of the calling thread's namespace. Those of IPv6 are skipped where the kernel has none.
pub(crate) fn settle() -> io::Result<()> {
    let root = Path::new("/proc/sys/net");
    let has_ipv6 = root.join("ipv6").exists();
    let applicable = SETTINGS.into_iter().filter(|(name, _)| has_ipv6 || !name.starts_with("ipv6/"));
    applicable.into_iter().try_for_each(|(name, value)| std::fs::write(root.join(name), value))
}

/// Runs rtnetlink requests in the calling thread's namespace. The thread must not belong to a runtime.
pub(crate) fn with_rtnetlink<T>(requests: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let result = requests(handle).await;
        connection.abort();
        result.map_err(into_io)
    })
}

/// The kernel's error number where there is one, so that callers can tell kinds apart.
fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// Makes the macvlan link on `uplink` of this namespace right inside the namespace of the container. It is down.
pub(crate) async fn add_macvlan(
    handle: Handle,
    uplink: u32,
    interface: &Interface,
    netns: BorrowedFd<'_>,
) -> Result<(), rtnetlink::Error> {
    let message = LinkMacVlan::new(LINK, uplink, MacVlanMode::Bridge)
        .address(interface.mac.0.to_vec())
        .setns_by_fd(netns.as_raw_fd())
        .build();
    handle.link().add(message).execute().await
}

/// Brings loopback up; always the first link of its namespace.
pub(crate) async fn raise_loopback(handle: Handle) -> Result<(), rtnetlink::Error> {
    handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await
}

/// Gives the link its addresses, brings it up, and adds the default routes.
pub(crate) async fn configure(handle: Handle, link: u32, interface: &Interface) -> Result<(), rtnetlink::Error> {
    for network in &interface.addresses {
        let mut request = handle.address().add(link, network.addr(), network.prefix_len());
        if network.addr().is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await?;
    }
    handle.link().set(LinkUnspec::new_with_index(link).up().build()).execute().await?;
    for gateway in &interface.gateways {
        let reachable = is_on_link(*gateway, &interface.addresses);
        let route = match *gateway {
            IpAddr::V4(gateway) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(link).gateway(gateway);
                if reachable { route.build() } else { route.onlink().build() }
            }
            IpAddr::V6(gateway) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(link).gateway(gateway);
                if reachable { route.build() } else { route.onlink().build() }
            }
        };
        handle.route().add(route).execute().await?;
    }
    Ok(())
}

/// Whether a gateway lies in the network of one of the addresses; otherwise the kernel must be told that it is there.
fn is_on_link(gateway: IpAddr, addresses: &[IpNet]) -> bool {
    let link_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
    link_local || addresses.iter().any(|network| network.contains(&gateway))
}

/// The MAC of the link with this index, and the addresses of all links.
pub(crate) async fn identity(handle: Handle, link: u32) -> Result<(Option<Mac>, Vec<IpAddr>), rtnetlink::Error> {
    let mut links = handle.link().get().match_index(link).execute();
    let mut mac = None;
    while let Some(message) = links.try_next().await? {
        mac = message.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(octets) => octets.try_into().ok().map(Mac),
            _ => None,
        });
    }
    let mut own = Vec::new();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        own.extend(message.attributes.into_iter().filter_map(|attribute| match attribute {
            AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(address),
            _ => None,
        }));
    }
    Ok((mac, own))
}

/// Removes the link, and with it the MAC from the uplink, at once rather than when the namespace ends.
pub(crate) async fn delete(handle: Handle, link: u32) -> Result<(), rtnetlink::Error> {
    handle.link().del(link).execute().await
}
