//! What speaks against a container that is offered, on the node that it would come to. Nothing is changed.

use std::io;
use std::net::IpAddr;

use drover_container::criu;
use drover_disk::Claim;
use drover_memory::MachineMemory;
use drover_model::{Bytes, Driver, Explained, Finding, Mac, Mode, Mount, Processor, Severity, TargetRoom};
use drover_protocol::Offer;
use drover_sys::probe;
use ipnet::IpNet;

use crate::crossing;
use crate::error::failure;
use crate::node::Inner;

/// The oldest CRIU that can dump connections on present kernels and read our page maps.
const OLDEST_CRIU: (u32, u32) = (4, 2);
/// Disk room that is left to the node, in bytes.
const SPARE: u64 = 64 << 20;
/// What can be done where memory is short.
const ANOTHER_NODE: &str = "choose another node, or free memory there";
/// No more addresses of a container are asked for: a peer may say that it has any number.
const MOST_ADDRESSES: usize = 16;
/// How many instructions are named that are missing.
const NAMED: usize = 6;

/// This machine's processor.
pub(crate) fn processor() -> Option<Processor> {
    std::fs::read_to_string("/proc/cpuinfo").ok().map(|text| Processor::read(&text))
}

impl Inner {
    /// Looks at what is offered; what is missing of its image takes `image` bytes on the disk.
    pub(crate) fn examine(&self, offer: &Offer, image: u64) -> Vec<Finding> {
        let blocks = |kind: &str, checked: Result<(), Explained>| {
            checked.err().map(|why| Finding::general(Severity::Blocks, kind, why))
        };
        let closed = self.drain.refusal(&self.config.name).map_or(Ok(()), Err);
        let blocking = [
            blocks("drained", closed),
            blocks("criu", check_criu(&offer.criu)),
            blocks("architecture", check_architecture(&offer.architecture)),
            blocks("processor", check_processor(offer.processor.as_ref(), processor().as_ref())),
            blocks("disk_room", self.check_disk(offer, image, self.copies.room_there_could_be())),
            blocks("memory_room", check_memory(offer)),
            blocks("name", self.check_name(offer)),
            blocks("volume", self.check_volumes(offer)),
            blocks("mode", check_mode(offer.settings.mode)),
        ];
        let warnings = [self.other_network(offer), few_processors(offer)];
        let warnings = warnings.into_iter().flatten().map(|(kind, why)| Finding::general(Severity::Warns, kind, why));
        blocking.into_iter().flatten().chain(warnings).collect()
    }

    /// The same for a source that asks before it moves anything.
    pub(crate) fn answer_check(&self, offer: &Offer) -> Vec<Finding> {
        let missing = crossing::room_for(&self.images, offer);
        let mut findings = match missing {
            Ok(image) => self.examine(offer, image),
            Err(why) => vec![Finding::general(Severity::Blocks, "image", why)],
        };
        findings.extend(self.address_in_use(offer));
        findings
    }

    /// What there is for a container that is offered. What cannot be seen is said to be nothing.
    pub(crate) fn room_for(&self, offer: &Offer) -> TargetRoom {
        TargetRoom {
            memory_available: Bytes(MachineMemory::look().map_or(0, |memory| memory.available)),
            disk_free: Bytes(self.copies.room_there_could_be().unwrap_or(0)),
            image: Bytes(crossing::room_for(&self.images, offer).unwrap_or(0)),
            copy: Bytes(self.copies.kept_of(&offer.spec.id)),
        }
    }

    /// Makes room on the disk for what comes, by removing copies of other containers' files where that is of use.
    pub(crate) fn make_room(&self, offer: &Offer, image: u64) -> Result<(), Explained> {
        let needed = offer.upper.saturating_add(image);
        self.check_disk(offer, image, self.copies.room_for(&offer.spec.id, needed.saturating_add(SPARE)))
    }

    fn check_disk(&self, offer: &Offer, image: u64, free: io::Result<u64>) -> Result<(), Explained> {
        let needed = offer.upper.saturating_add(image);
        let free = free.map_err(|error| failure("cannot see how much disk room is left", &error))?;
        if free >= needed.saturating_add(SPARE) {
            return if offer.settings.sync { self.copies.check() } else { Ok(()) };
        }
        let (needed, free) = (Bytes(needed), Bytes(free));
        let reason = format!("not enough disk room: the container's files need {needed} and {free} are free");
        Err(refused(reason, "free disk space on that node, or remove images with `drover image rm`"))
    }

    /// Its name and its id must be nobody else's here.
    fn check_name(&self, offer: &Offer) -> Result<(), Explained> {
        let spec = &offer.spec;
        // One of the same id is the container itself, that is being discarded; it is waited for.
        let other = self.registry.all().into_iter().find(|own| own.name() == spec.name && own.id != spec.id);
        match other {
            Some(_) => {
                let reason =
                    format!("the name is taken on node {}: it has another container {}", self.config.name, spec.name);
                Err(refused(reason, "remove that one, or choose another node"))
            }
            None => Ok(()),
        }
    }

    fn check_volumes(&self, offer: &Offer) -> Result<(), Explained> {
        for volume in offer.spec.volumes.iter().filter_map(Mount::shared) {
            match self.volumes.store.find(volume) {
                Err(_) => {
                    let reason = format!("node {} has no volume {volume}, which is a shared one", self.config.name);
                    let hint = format!("declare it there: `drover volume create {volume} --driver ... --source ...`");
                    return Err(refused(reason, &hint));
                }
                Ok(declared) if declared.spec.driver == Driver::Local => {
                    let reason = format!("volume {volume} is a local volume on node {}", self.config.name);
                    return Err(refused(reason, "volumes of one name must have one kind on all nodes"));
                }
                Ok(_) => {}
            }
        }
        self.volumes.may_claim(&offer.spec, Claim::Arrives)
    }

    /// Somebody else on this node's network has one of its addresses. The container itself has them, too.
    fn address_in_use(&self, offer: &Offer) -> Option<Finding> {
        let interface = offer.spec.interface.as_ref()?;
        let gateway = self.config.pool.as_ref().and_then(|pool| pool.gateway);
        let own = interface.addresses.iter().take(MOST_ADDRESSES).map(IpNet::addr);
        let addresses: Vec<_> = own.chain(gateway).collect();
        let holders = match drover_network::holders(&self.config.uplink, &addresses) {
            Ok(holders) => holders,
            Err(error) => {
                let why = failure("cannot see whether the container's addresses are free", &error);
                return Some(Finding::general(Severity::Warns, "address", why));
            }
        };
        // A router may answer for everybody (proxy ARP): then its word says nothing.
        let router = holders.iter().find(|(address, _)| Some(*address) == gateway).and_then(|(_, holder)| *holder);
        let other = |(address, holder): &&(IpAddr, Option<Mac>)| {
            Some(*address) != gateway && *holder != Some(interface.mac) && (holder.is_none() || *holder != router)
        };
        let (address, _) = holders.iter().find(other)?;
        let reason = format!("somebody on the network of node {} has address {address} already", self.config.name);
        let why = refused(reason, "an address can be at one place only: end its use there");
        Some(Finding::general(Severity::Blocks, "address", why))
    }

    /// Its addresses are not of the network that this node's containers are on: nobody there will find them.
    fn other_network(&self, offer: &Offer) -> Option<(&'static str, Explained)> {
        let pool = self.config.pool.as_ref()?;
        let network = IpNet::new(pool.range.addr(), pool.prefix).ok()?.trunc();
        let interface = offer.spec.interface.as_ref()?;
        let same_family = |address: &&IpNet| address.addr().is_ipv4() == network.addr().is_ipv4();
        let strange =
            interface.addresses.iter().filter(same_family).find(|address| !network.contains(&address.addr()))?;
        let (address, node) = (strange.addr(), &self.config.name);
        let reason = format!("its address {address} is not of network {network}, which containers on {node} are on");
        Some(("network", refused(reason, "make sure that packets for it are brought there")))
    }
}

/// This node's CRIU, `major.minor`, if it is new enough; `attempt` is what it is wanted for.
pub(crate) fn usable_criu(attempt: &str) -> Result<(u32, u32), Explained> {
    let (major, minor, _) = criu::version().map_err(|error| failure(attempt, &error))?;
    if (major, minor) < OLDEST_CRIU {
        let reason = format!("{attempt}: its criu {major}.{minor} is too old");
        return Err(refused(reason, &format!("install criu {}.{} or newer there", OLDEST_CRIU.0, OLDEST_CRIU.1)));
    }
    Ok((major, minor))
}

fn check_criu(theirs: &str) -> Result<(), Explained> {
    let attempt = "cannot restore containers on this node";
    let (major, minor) = usable_criu(attempt)?;
    let their_version = theirs.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    if their_version.is_none_or(|version: (u32, u32)| version > (major, minor)) {
        let reason = format!("{attempt}: the source's criu {theirs} is newer than its criu {major}.{minor}");
        return Err(refused(reason, "install the same version of criu on both nodes"));
    }
    Ok(())
}

fn check_architecture(theirs: &str) -> Result<(), Explained> {
    let ours = std::env::consts::ARCH;
    if theirs == ours {
        return Ok(());
    }
    Err(refused(format!("the container runs on {theirs}, this node is {ours}"), "choose another node"))
}

/// What a program has found out about its processor it relies on to its end.
fn check_processor(theirs: Option<&Processor>, ours: Option<&Processor>) -> Result<(), Explained> {
    let (Some(theirs), Some(ours)) = (theirs, ours) else { return Ok(()) };
    let lacking = theirs.lacking_in(ours);
    if lacking.is_empty() {
        return Ok(());
    }
    let more = lacking.len().saturating_sub(NAMED);
    let named = lacking[..lacking.len().min(NAMED)].join(", ");
    let named = if more > 0 { format!("{named} and {more} more") } else { named };
    let reason = format!(
        "the processor there ({}) lacks instructions that programs started on the source's may use: {named}",
        ours.model
    );
    Err(refused(reason, "choose a node with the same or a newer processor"))
}

fn check_memory(offer: &Offer) -> Result<(), Explained> {
    if offer.settings.sync {
        return Ok(());
    }
    let memory = MachineMemory::look().map_err(|error| failure("cannot see how much memory is left", &error))?;
    // The pages are held twice for a moment: in CRIU's images, and in the processes.
    if memory.available >= offer.memory.saturating_mul(2) {
        return Ok(());
    }
    let (held, available) = (Bytes(offer.memory), Bytes(memory.available));
    let reason = format!(
        "not enough memory: the container holds {held}, needs twice that for a moment, and {available} are available"
    );
    Err(refused(reason, ANOTHER_NODE))
}

fn check_mode(mode: Mode) -> Result<(), Explained> {
    if mode != Mode::PostCopy {
        return Ok(());
    }
    probe::userfaultfd_events().map_err(|error| {
        let why = failure("memory cannot follow a container to this node", &error);
        why.with_hint("choose another mode; `drover node features` shows what each node can do".to_owned())
    })
}

/// It may use more processors than there are.
fn few_processors(offer: &Offer) -> Option<(&'static str, Explained)> {
    let wanted = offer.spec.limits.cpu_millis?;
    let there = std::thread::available_parallelism().ok()?.get();
    let millis = u32::try_from(there).ok()?.saturating_mul(1000);
    let reason = format!("it may use {:.1} processors, and there are {there}", f64::from(wanted) / 1000.0);
    (wanted > millis).then(|| ("processors", refused(reason, "it will be slower there when it needs them all")))
}

fn refused(reason: String, hint: &str) -> Explained {
    Explained { reason, hint: Some(hint.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn processor(model: &str, instructions: &[&str]) -> Processor {
        let instructions: BTreeSet<String> = instructions.iter().map(|name| (*name).to_owned()).collect();
        Processor { model: model.to_owned(), instructions }
    }

    #[test]
    fn a_processor_that_lacks_instructions_is_refused_with_their_names() {
        let new = processor("New", &["avx2", "fpu", "sse2"]);
        let old = processor("Old", &["fpu", "sse2"]);
        assert!(check_processor(Some(&old), Some(&new)).is_ok());
        assert!(check_processor(None, Some(&old)).is_ok());
        let why = check_processor(Some(&new), Some(&old)).unwrap_err();
        assert!(why.reason.ends_with("may use: avx2"), "{}", why.reason);
        let many = processor("Many", &["a", "b", "c", "d", "e", "f", "g", "h"]);
        let why = check_processor(Some(&many), Some(&old)).unwrap_err();
        assert!(why.reason.ends_with("a, b, c, d, e, f and 2 more"), "{}", why.reason);
    }

    #[test]
    fn another_architecture_and_a_newer_criu_are_refused() {
        assert!(check_architecture(std::env::consts::ARCH).is_ok());
        assert!(check_architecture("riscv64").unwrap_err().reason.contains("riscv64"));
    }
}
