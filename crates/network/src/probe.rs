//! Asking the network whether somebody has an address already.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use drover_model::Mac;
use drover_sys::namespace::in_network;
use drover_sys::packet::PacketSocket;

use crate::announcement::patiently;
use crate::frame::{arp_probe, claim, neighbour_probe};
use crate::link;
use crate::wire::HERE;

/// How often an address is asked for, and how long an answer may take each time. A neighbour on a local network answers
/// within a millisecond; one that is busy gets a second chance.
const PROBES: usize = 2;
const PATIENCE: Duration = Duration::from_millis(40);
/// The longest frame that is looked at.
const LONGEST: usize = 2048;

/// The network could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The node has no such link.
    #[error("cannot find the uplink {0} on this node")]
    NoUplink(String),
    /// The kernel refused.
    #[error("cannot ask the network behind {0} who has an address")]
    Kernel(String, #[source] io::Error),
}

/// Those of `addresses` that this machine has itself, or that somebody on the network behind `uplink` says to have.
///
/// Whoever is frozen, or away for the moment, says nothing: an address that is not among them may still be somebody's.
///
/// # Errors
/// When the uplink does not exist or the kernel refuses.
pub fn taken(uplink: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, ProbeError> {
    // One answer for each says enough.
    let found = asked(uplink, addresses, |found| addresses.iter().all(|address| is_held(found, address)))?;
    Ok(addresses.iter().filter(|address| is_held(&found, address)).copied().collect())
}

/// Everybody who says to have one of `addresses`: this machine itself (no Ethernet address), and whoever answers on the
/// network behind `uplink`. It always takes as long as an answer may take.
///
/// # Errors
/// When the uplink does not exist or the kernel refuses.
pub fn holders(uplink: &str, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, Option<Mac>)>, ProbeError> {
    asked(uplink, addresses, |_| false)
}

type Holder = (IpAddr, Option<Mac>);

fn is_held(found: &[Holder], address: &IpAddr) -> bool {
    found.iter().any(|(held, _)| held == address)
}

fn asked(
    uplink: &str,
    addresses: &[IpAddr],
    enough: impl Fn(&[Holder]) -> bool + Send,
) -> Result<Vec<Holder>, ProbeError> {
    let failed = |error| ProbeError::Kernel(uplink.to_owned(), error);
    // On a thread of its own, for the caller's may belong to a runtime.
    let found = in_network(Path::new(HERE), || -> io::Result<Option<Vec<Holder>>> {
        let Some(index) = link::index_of(uplink)? else { return Ok(None) };
        let (mac, own) = link::with_rtnetlink(async |handle| link::identity(handle, index).await)?;
        let own = addresses.iter().filter(|address| own.contains(address));
        let mut found: Vec<Holder> = own.map(|address| (*address, None)).collect();
        // Without an Ethernet address, as on a tunnel, nobody can be asked.
        if let Some(mac) = mac {
            ask(index, mac, addresses, &mut found, enough)?;
        }
        Ok(Some(found))
    });
    let found = found.and_then(|found| found).map_err(failed)?;
    found.ok_or_else(|| ProbeError::NoUplink(uplink.to_owned()))
}

fn ask(
    link: u32,
    mac: Mac,
    addresses: &[IpAddr],
    found: &mut Vec<Holder>,
    enough: impl Fn(&[Holder]) -> bool,
) -> io::Result<()> {
    let socket = PacketSocket::listening(link)?;
    let mut frame = [0; LONGEST];
    for _ in 0..PROBES {
        for address in addresses.iter().filter(|address| !is_held(found, address)) {
            let probe = match address {
                IpAddr::V4(address) => arp_probe(mac, *address),
                IpAddr::V6(address) => neighbour_probe(mac, *address),
            };
            patiently(|| socket.send(&probe))?;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || enough(found) {
                break;
            }
            let length = match socket.receive(&mut frame, left) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some((address, whose)) = claim(&frame[..length])
                && whose != mac
                && addresses.contains(&address)
                && !found.contains(&(address, Some(whose)))
            {
                found.push((address, Some(whose)));
            }
        }
        if addresses.iter().all(|address| is_held(found, address)) {
            break;
        }
    }
    Ok(())
}
