//! The neighbour table of a container: whom it knows on the link, by address and MAC.
//!
//! It travels. Without it the first packet after a move asks for the MAC while the gate is still closed, and the kernel
//! asks again only after a second.

use drover_model::{Mac, Neighbour};
use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};

/// The most neighbours that travel; a container that knows more asks for the others again.
const MOST: usize = 1024;

/// Those that `link` knows the MAC of.
pub(crate) async fn list(handle: Handle, link: u32) -> Result<Vec<Neighbour>, rtnetlink::Error> {
    let mut known = Vec::new();
    let mut messages = handle.neighbours().get().execute();
    while let Some(message) = messages.try_next().await? {
        if message.header.ifindex == link && known.len() < MOST {
            known.extend(neighbour(&message));
        }
    }
    Ok(known)
}

/// Makes `link` know them. They may be used at once and are checked by the kernel soon after.
pub(crate) async fn add(handle: Handle, link: u32, neighbours: &[Neighbour]) -> Result<(), rtnetlink::Error> {
    for neighbour in neighbours {
        let request = handle.neighbours().add(link, neighbour.address).link_layer_address(&neighbour.mac.0);
        request.state(NeighbourState::Stale).replace().execute().await?;
    }
    Ok(())
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let usable = [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Delay, NeighbourState::Probe];
    if !usable.contains(&message.header.state) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(inet)) => address = Some((*inet).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(inet)) => address = Some((*inet).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(Neighbour { address: address?, mac: mac? })
}
