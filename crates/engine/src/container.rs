//! A container on this node: what is known of it, durably, and its mechanisms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_container::Layout;
use drover_container::criu::Sleepers;
use drover_container::shim::{Exit, Shim};
use drover_model::{
    Bytes, ContainerId, ContainerName, ContainerRecord, ContainerSpec, ContainerState, ContainerStats, Follows,
    NodeName, VolumeName,
};
use drover_network::Wire;
use drover_sys::cgroup::{Cgroup, CgroupError, Hierarchies};
use drover_sys::durable;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::NodeError;
use crate::volumes::Volumes;

/// What is kept on disk of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub spec: ContainerSpec,
    pub state: ContainerState,
    /// How often it has moved.
    pub generation: u64,
    /// How often its restart policy has started it again.
    pub restarts: u32,
    pub started_at: Option<String>,
    /// Whether a user stopped it: then only `always` starts it again.
    pub stopped: bool,
}

/// A container. Its parts are changed only by whoever holds `operation`.
#[derive(Debug)]
pub(crate) struct Container {
    pub id: ContainerId,
    pub layout: Layout,
    pub cgroup: Cgroup,
    pub volumes: Arc<Volumes>,
    /// Of its specification, what others are compared with: it never changes, and is read without waiting for a disk.
    name: ContainerName,
    addresses: Vec<IpNet>,
    stored: Mutex<Stored>,
    wire: Mutex<Option<Arc<Wire>>>,
    pid: Mutex<Option<u32>>,
    /// One at a time: start, stop, remove, migrate.
    pub operation: Arc<tokio::sync::Mutex<()>>,
    /// Shared by the programs that were executed in it from outside; alone is who freezes it, for they cannot travel.
    pub executions: Arc<tokio::sync::RwLock<()>>,
    changed: watch::Sender<()>,
    /// What its threads do, as of before the first move that interrupted them and was given up.
    sleepers: Mutex<Sleepers>,
    follows: Mutex<Option<Follows>>,
    /// Shared volumes that are lost.
    awaits: Mutex<BTreeSet<VolumeName>>,
}

/// A lock that is never poisoned for good: what it guards is whole whenever it is free.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A container's control group beneath the node's base, the same in every hierarchy.
pub(crate) fn cgroup_path(id: &ContainerId) -> String {
    format!("/drover/{id}")
}

/// The control group of all shims.
pub(crate) const SHIMS_CGROUP: &str = "drover/shims";

impl Container {
    pub fn new(
        layout: Layout,
        hierarchies: &Hierarchies,
        volumes: Arc<Volumes>,
        stored: Stored,
    ) -> Result<Arc<Self>, CgroupError> {
        let id = stored.spec.id.clone();
        Ok(Arc::new(Self {
            cgroup: Cgroup::at(hierarchies, cgroup_path(&id).trim_start_matches('/'))?,
            id,
            layout,
            volumes,
            name: stored.spec.name.clone(),
            addresses: stored.spec.interface.as_ref().map(|own| own.addresses.clone()).unwrap_or_default(),
            stored: Mutex::new(stored),
            wire: Mutex::default(),
            pid: Mutex::default(),
            operation: Arc::default(),
            executions: Arc::default(),
            sleepers: Mutex::default(),
            follows: Mutex::default(),
            awaits: Mutex::default(),
            changed: watch::Sender::new(()),
        }))
    }

    pub fn stored(&self) -> Stored {
        lock(&self.stored).clone()
    }

    pub fn spec(&self) -> ContainerSpec {
        lock(&self.stored).spec.clone()
    }

    pub fn name(&self) -> ContainerName {
        self.name.clone()
    }

    /// Its addresses, if it has a network.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// Whether it has processes, frozen or not.
    pub fn runs(&self) -> bool {
        matches!(self.state(), ContainerState::Running | ContainerState::Frozen)
    }

    /// Whether any of its processes is there; true as long as nobody can tell. A node that was started anew has neither
    /// its group nor anything else of it that does not outlast the node.
    pub fn lives(&self) -> bool {
        let gone = !self.cgroup.exists() && !self.layout.run.exists();
        !gone && self.cgroup.is_populated().unwrap_or(true)
    }

    /// What it uses.
    pub fn stats(&self) -> Result<ContainerStats, CgroupError> {
        let (usage, limit) = (self.cgroup.stats()?, self.cgroup.memory_limit()?);
        let memory_limit = limit.map(Bytes);
        Ok(ContainerStats { cpu_ns: usage.cpu_ns, memory: Bytes(usage.memory), memory_limit, pids: usage.pids })
    }

    pub fn state(&self) -> ContainerState {
        lock(&self.stored).state
    }

    /// Changes what is known, on disk first: what is told is durable.
    pub fn change(&self, change: impl FnOnce(&mut Stored)) -> io::Result<()> {
        let mut stored = lock(&self.stored);
        let mut new = stored.clone();
        change(&mut new);
        write_record(&self.layout, &new)?;
        *stored = new;
        drop(stored);
        self.changed.send_replace(());
        Ok(())
    }

    /// Changes the state that is told, not the one on disk: frozen and arriving do not outlive the agent.
    pub fn show(&self, state: ContainerState) {
        lock(&self.stored).state = state;
        self.changed.send_replace(());
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Looks at what its threads do, before something interrupts them.
    pub fn look_at_sleepers(&self) -> Sleepers {
        let mut sleepers = lock(&self.sleepers);
        sleepers.look(&self.cgroup.pids().unwrap_or_default());
        sleepers.clone()
    }

    pub fn shim(&self) -> Shim {
        Shim::at(self.layout.socket())
    }

    pub fn pid(&self) -> Option<u32> {
        *lock(&self.pid)
    }

    pub fn set_pid(&self, pid: Option<u32>) {
        *lock(&self.pid) = pid;
    }

    /// Its network, kept open: closing it takes milliseconds.
    pub fn wire(&self) -> Result<Arc<Wire>, NodeError> {
        let mut wire = lock(&self.wire);
        if let Some(wire) = &*wire {
            return Ok(Arc::clone(wire));
        }
        let opened = Wire::open(&self.layout.netns())
            .map_err(|error| NodeError::failed("cannot reach the container's network", &error))?;
        Ok(Arc::clone(wire.insert(Arc::new(opened))))
    }

    pub fn set_wire(&self, new: Option<Wire>) {
        *lock(&self.wire) = new.map(Arc::new);
    }

    /// The status that the shim left, if the program has ended.
    pub fn exit(&self) -> Option<i32> {
        let exit: Exit = serde_json::from_slice(&fs::read(self.layout.exit()).ok()?).ok()?;
        Some(exit.status)
    }

    pub fn record(&self, node: &NodeName) -> ContainerRecord {
        let stored = self.stored();
        let runs = matches!(stored.state, ContainerState::Running | ContainerState::Frozen);
        ContainerRecord {
            spec: stored.spec,
            state: stored.state,
            node: node.clone(),
            pid: self.pid().filter(|_| runs),
            generation: stored.generation,
            restarts: stored.restarts,
            started_at: stored.started_at,
            follows: lock(&self.follows).clone(),
            awaits: lock(&self.awaits).iter().cloned().collect(),
        }
    }

    /// Shared volumes that are lost: it stands still until there are none.
    pub fn awaits(&self) -> MutexGuard<'_, BTreeSet<VolumeName>> {
        lock(&self.awaits)
    }

    /// Memory that is on another node alone.
    pub fn follows(&self) -> MutexGuard<'_, Option<Follows>> {
        lock(&self.follows)
    }
}

fn write_record(layout: &Layout, stored: &Stored) -> io::Result<()> {
    durable::replace(&layout.record(), &serde_json::to_vec_pretty(stored)?)
}

/// So many digits of an id are enough to mean it.
const LEAST_BEGINNING: usize = 4;

/// The containers of a node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
}

impl Registry {
    /// Adds a container if nothing stands against it.
    pub fn insert(&self, container: &Arc<Container>) -> Result<(), NodeError> {
        let mut containers = lock(&self.containers);
        let name = &container.name;
        if containers.contains_key(&container.id) {
            let reason = format!("cannot make container {name}: its id is known here already");
            return Err(NodeError::conflict(reason, ""));
        }
        for other in containers.values() {
            if other.name == *name {
                let reason = format!("cannot make container {name}: the name is taken on this node");
                return Err(NodeError::conflict(reason, "choose another name, or remove that container"));
            }
            let has = |mine: &&IpNet| other.addresses.iter().any(|theirs| theirs.addr() == mine.addr());
            if let Some(taken) = container.addresses.iter().find(has) {
                // Not whose: not everybody may know of the other.
                let reason = format!("cannot make container {name}: another one here has {}", taken.addr());
                return Err(NodeError::conflict(reason, "choose another address with --ip"));
            }
        }
        containers.insert(container.id.clone(), Arc::clone(container));
        Ok(())
    }

    pub fn remove(&self, id: &ContainerId) {
        lock(&self.containers).remove(id);
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    /// By its id, whatever else has that for a name.
    pub fn of_id(&self, id: &ContainerId) -> Option<Arc<Container>> {
        lock(&self.containers).get(id).cloned()
    }

    /// Whether this very container is here: one that has left and come back since is another.
    pub fn has(&self, container: &Arc<Container>) -> bool {
        self.of_id(&container.id).is_some_and(|known| Arc::ptr_eq(&known, container))
    }

    /// By id, name, or the beginning of an id that is no other's. The whole id first: what was decided about one by its id must
    /// not be done to another one that has it for a name.
    pub fn find(&self, wanted: &str) -> Result<Arc<Container>, NodeError> {
        self.find_among(wanted, |_| true)
    }

    /// The same among some of them; the others do not exist.
    pub fn find_among(&self, wanted: &str, exists: impl Fn(&Container) -> bool) -> Result<Arc<Container>, NodeError> {
        let containers = lock(&self.containers);
        let known = || containers.values().filter(|container| exists(container));
        let by_id = known().find(|container| container.id.as_str() == wanted);
        if let Some(found) = by_id.or_else(|| known().find(|container| container.name.as_str() == wanted)) {
            return Ok(Arc::clone(found));
        }
        let begins = |id: &str| wanted.len() >= LEAST_BEGINNING && id.starts_with(wanted);
        let mut begun = known().filter(|container| begins(container.id.as_str()));
        match (begun.next(), begun.next()) {
            (Some(found), None) => Ok(Arc::clone(found)),
            (Some(_), Some(_)) => Err(NodeError::conflict(
                format!("cannot tell which container {wanted:?} means: several ids begin so"),
                "give more of the id",
            )),
            _ => Err(NodeError::no_container(wanted)),
        }
    }
}
