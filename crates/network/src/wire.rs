//! A container's network from its making to its removal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use drover_model::{Interface, Neighbour};
use drover_sys::namespace::{create_network, in_network, remove_network};
use drover_sys::packet::PacketSocket;

use crate::announcement;
use crate::gate::{Gate, Gatekeeper};
use crate::link::{self, LINK};
use crate::neighbour;
use rtnetlink::Handle;

/// The namespace of the calling thread.
pub(crate) const HERE: &str = "/proc/thread-self/ns/net";

/// Something that could not be done to a container's network.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The node has no such link.
    #[error("cannot find the uplink {uplink} on this node")]
    NoUplink {
        /// The name that was looked for.
        uplink: String,
    },
    /// The kernel refused a step.
    #[error("cannot {attempt} for {}", netns.display())]
    Step {
        /// The step, as a verb.
        attempt: &'static str,
        /// The path of the network namespace.
        netns: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A container's network namespace, pinned at a path, with or without a link to the outside.
///
/// It is only a way to reach it: dropping it changes nothing, [`remove`] ends the network. Keep it while downtime
/// counts: the kernel takes some ten milliseconds to close its packet socket (`synchronize_net`).
#[derive(Debug)]
pub struct Wire {
    netns: PathBuf,
    end: Option<End>,
}

/// What is needed to set the gate and to announce without entering the namespace again.
#[derive(Debug)]
struct End {
    gatekeeper: Gatekeeper,
    packets: PacketSocket,
}

impl Wire {
    /// Makes a namespace pinned at `netns`, whose directory must exist, with loopback up; with an `interface` also a
    /// macvlan link on `uplink`, up, with its addresses and default routes, behind a gate in the given state.
    ///
    /// # Errors
    /// When there is something at `netns`, the uplink does not exist, or the kernel refuses; nothing is left then.
    pub fn create(netns: &Path, uplink: &str, interface: Option<&Interface>, gate: Gate) -> Result<Self, WireError> {
        let failed = |attempt, source| WireError::Step { attempt, netns: netns.to_owned(), source };
        create_network(netns).map_err(|error| failed("make a network namespace", error))?;
        let made = Self::furnish(netns, uplink, interface, gate);
        if made.is_err() {
            // The error that matters is the first one.
            let _ = remove(netns);
        }
        made
    }

    fn furnish(netns: &Path, uplink: &str, interface: Option<&Interface>, gate: Gate) -> Result<Self, WireError> {
        let failed = |attempt| move |source| WireError::Step { attempt, netns: netns.to_owned(), source };
        inside(netns, || {
            link::settle()?;
            link::with_rtnetlink(link::raise_loopback)
        })
        .map_err(failed("set up loopback"))?;
        let Some(interface) = interface else { return Ok(Self { netns: netns.to_owned(), end: None }) };

        let index = link::index_of(uplink).map_err(failed("look for the uplink"))?;
        let index = index.ok_or_else(|| WireError::NoUplink { uplink: uplink.to_owned() })?;
        // On a thread of its own, for the caller's may belong to a runtime.
        let made = File::open(netns).and_then(|namespace| {
            inside(Path::new(HERE), || {
                link::with_rtnetlink(async |handle| {
                    link::add_macvlan(handle, index, interface, namespace.as_fd()).await
                })
            })
        });
        made.map_err(failed("make the link"))?;

        let wire = Self::open(netns)?;
        wire.set_gate(gate)?;
        let configured = inside(netns, || match link::index_of(LINK)? {
            Some(index) => link::with_rtnetlink(async |handle| link::configure(handle, index, interface).await),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        configured.map_err(failed("set up addresses and routes"))?;
        Ok(wire)
    }

    /// Finds what [`Wire::create`] made, also by an earlier process.
    ///
    /// # Errors
    /// When no network namespace is pinned at `netns`.
    pub fn open(netns: &Path) -> Result<Self, WireError> {
        let end = inside(netns, || match link::index_of(LINK)? {
            Some(index) => Ok(Some(End { gatekeeper: Gatekeeper::new(LINK)?, packets: PacketSocket::sending(index)? })),
            None => Ok(None),
        });
        let failed = |source| WireError::Step { attempt: "open the network", netns: netns.to_owned(), source };
        Ok(Self { netns: netns.to_owned(), end: end.map_err(failed)? })
    }

    /// The path at which the namespace is pinned.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Opens or closes the gate; it has taken effect on return. Without a link there is nothing to do.
    ///
    /// # Errors
    /// When the kernel refuses; the gate is as it was.
    pub fn set_gate(&self, gate: Gate) -> Result<(), WireError> {
        let Some(end) = &self.end else { return Ok(()) };
        let attempt = match gate {
            Gate::Open => "open the gate",
            Gate::Closed => "close the gate",
        };
        end.gatekeeper.set(gate).map_err(|source| WireError::Step { attempt, netns: self.netns.clone(), source })
    }

    /// Whom the interface knows on its link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>, WireError> {
        self.on_link("list the neighbours", async |handle, index| neighbour::list(handle, index).await)
    }

    /// Makes the interface know them, so that its first packets need not ask.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_neighbours(&self, neighbours: &[Neighbour]) -> Result<(), WireError> {
        self.on_link("add neighbours", async |handle, index| neighbour::add(handle, index, neighbours).await)
    }

    /// Tells the neighbours, and the switches on the way to them, that the interface's addresses are here. The gate
    /// must be open: it holds these frames back too.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn announce(&self, interface: &Interface) -> Result<(), WireError> {
        let Some(end) = &self.end else { return Ok(()) };
        announcement::announce(&end.packets, interface).map_err(|source| WireError::Step {
            attempt: "announce the addresses",
            netns: self.netns.clone(),
            source,
        })
    }

    /// Runs requests that concern the link inside the namespace; without a link there is nothing to do.
    fn on_link<T: Default + Send>(
        &self,
        attempt: &'static str,
        requests: impl AsyncFnOnce(Handle, u32) -> Result<T, rtnetlink::Error> + Send,
    ) -> Result<T, WireError> {
        if self.end.is_none() {
            return Ok(T::default());
        }
        let done = inside(&self.netns, || match link::index_of(LINK)? {
            Some(index) => link::with_rtnetlink(async |handle| requests(handle, index).await),
            None => Ok(T::default()),
        });
        done.map_err(|source| WireError::Step { attempt, netns: self.netns.clone(), source })
    }
}

/// Ends the network that is pinned at `netns`: its link is gone at once, even while a process is left inside. Nothing
/// there is no error.
///
/// # Errors
/// When the kernel refuses; the call may be repeated.
pub fn remove(netns: &Path) -> Result<(), WireError> {
    let failed = |attempt| move |source| WireError::Step { attempt, netns: netns.to_owned(), source };
    let emptied = inside(netns, || match link::index_of(LINK)? {
        Some(index) => link::with_rtnetlink(async |handle| link::delete(handle, index).await),
        None => Ok(()),
    });
    match emptied {
        // No file, or a file that is no namespace: left over from a creation or a removal that was cut short.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {}
        result => result.map_err(failed("remove the link"))?,
    }
    remove_network(netns).map_err(failed("remove the network namespace"))
}

fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    in_network(netns, work)?
}
