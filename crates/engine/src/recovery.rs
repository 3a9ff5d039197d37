//! What a node does when it is opened: it takes up the containers that run, and what was under way.

use std::sync::{Arc, Mutex};

use drover_model::{ContainerId, ContainerState, Mode, RestartPolicy, Settings};
use drover_protocol::{Ownership, Past, Source, SourceInput};

use crate::arrival::Arrival;
use crate::clock::moment;
use crate::container::{Container, Stored, lock};
use crate::departure::Departure;
use crate::journal::{Decided, Entry, Mark};
use crate::node::{Inner, blocking, now, since};
use crate::place;
use crate::recall::recall;
use crate::receive::take_up_arrival;

impl Inner {
    pub(crate) async fn recover(self: &Arc<Self>) {
        let unfinished = self.journal().unfinished();
        let inner = Arc::clone(self);
        let known = blocking(move || {
            let known = inner.read_containers();
            // Before any of them is taken up: what is not taken up with them is unmounted.
            known.iter().for_each(|container| inner.volumes.adopt(&container.spec(), &container.layout));
            inner.volumes.shared.sweep();
            drover_container::criu::remove_all_left();
            known
        });
        let known = known.await;
        for container in known {
            // An older entry that was never closed must not decide about a container that has come back since.
            let newest = self.journal().newest(&container.id);
            let entry = newest.as_ref().filter(|newest| unfinished.contains(newest));
            self.take_up(&container, entry).await;
        }
        for entry in unfinished {
            if entry.mark == Mark::Began {
                self.report_undone(&entry);
                // This concerns the target, whatever has become of the container here since.
                tokio::spawn(recall(Arc::clone(self), entry));
                continue;
            }
            if self.journal().newest(&entry.container).is_some_and(|newest| newest != entry) {
                // It has come or gone since: only the last line was not written.
                self.close_entry(entry);
                continue;
            }
            let container = self.registry.of_id(&entry.container);
            self.finish(entry, container).await;
        }
    }

    fn read_containers(&self) -> Vec<Arc<Container>> {
        let directory = self.config.state.join("containers");
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut containers = Vec::new();
        for entry in entries {
            let path = entry.path().join("container.json");
            let stored: Option<Stored> = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            let container = stored.and_then(|stored| self.new_container(stored).ok());
            match container {
                Some(container) if self.registry.insert(&container).is_ok() => containers.push(container),
                _ => tracing::warn!(path = %path.display(), "cannot take up a container; its files are left alone"),
            }
        }
        containers
    }

    /// A container that runs is watched again; one that does not is restarted if its policy says so.
    async fn take_up(self: &Arc<Self>, container: &Arc<Container>, entry: Option<&Entry>) {
        let name = container.spec().name;
        let shim = container.shim();
        let state = blocking(move || shim.state()).await;
        let runs = matches!(state, Ok((Some(_), None)));
        if let Ok((pid, _)) = &state {
            container.set_pid(*pid);
        }
        match Self::ownership(container, entry) {
            // Dealt with by `finish`.
            Ownership::Leaves | Ownership::Awaits | Ownership::Accepted | Ownership::GivenBack => {
                // A target that had been told already has let it go.
                let frozen = container.cgroup.is_frozen().unwrap_or(true);
                container.show(if frozen { ContainerState::Frozen } else { ContainerState::Running });
            }
            Ownership::Discarded => {
                tracing::info!(container = %name, "an arrival that was not promised is discarded");
                let (inner, own) = (Arc::clone(self), Arc::clone(container));
                blocking(move || Arrival::recovered(&inner, own).discard()).await;
            }
            Ownership::Stays if runs => {
                tracing::info!(container = %name, "container goes on");
                let own = Arc::clone(container);
                let inner = Arc::clone(self);
                // Whoever froze it is gone without a decision.
                let thawed = blocking(move || {
                    let mut departure = Departure::new(inner, own, Settings::default());
                    let thawed = departure.thaw();
                    departure.clean_up();
                    thawed
                })
                .await;
                if let Err(error) = thawed {
                    tracing::error!(container = %name, %error, "container cannot be thawed");
                }
                self.watch(container);
            }
            Ownership::Stays if state.is_err() && container.cgroup.is_populated().unwrap_or(false) => {
                tracing::error!(container = %name, "the container's shim is gone; it cannot be reached");
            }
            Ownership::Stays => {
                let _operation = container.operation.lock().await;
                self.restart_by_policy(container).await;
            }
        }
    }

    /// Whose a container is, by what the journal says last of it.
    fn ownership(container: &Container, entry: Option<&Entry>) -> Ownership {
        // What says that it has ended was written since the node was started, as everything below `run` was.
        let ended = container.exit().is_some() && container.layout.run.exists();
        // Without a shim, too, processes can be let go.
        let alive = container.lives() || ended;
        Ownership::of(entry.map(|entry| entry.mark), container.state() == ContainerState::Arriving, alive)
    }

    /// The container goes on here, where it was frozen: it is thawed, or what has no processes any more begins anew.
    pub(crate) async fn take_back(
        self: &Arc<Self>,
        container: &Arc<Container>,
        departure: Arc<Mutex<Departure>>,
    ) -> SourceInput {
        let own = Arc::clone(container);
        let thawed = blocking(move || own.lives().then(|| lock(&departure).thaw()));
        match thawed.await {
            Some(Ok(())) => SourceInput::Thawed,
            Some(Err(why)) => SourceInput::ThawFailed(why),
            None => {
                self.restart_by_policy(container).await;
                SourceInput::Thawed
            }
        }
    }

    /// Starts a container whose processes are gone again, if that is its policy. Nobody else may change it meanwhile.
    async fn restart_by_policy(self: &Arc<Self>, container: &Arc<Container>) {
        let Stored { spec, state, stopped, restarts, .. } = container.stored();
        let status = match (container.exit(), state) {
            (Some(status), _) | (None, ContainerState::Exited { status }) => status,
            // It ran, and neither it nor its shim is there: the node went down.
            (None, _) => 137,
        };
        let (inner, own) = (Arc::clone(self), Arc::clone(container));
        let cleaned =
            blocking(move || place::end(&own, true).and_then(|()| place::unmake_run(&own, &inner.runc))).await;
        let again = match spec.restart {
            RestartPolicy::Always => true,
            policy => !stopped && policy.restarts_after_exit(status, restarts),
        };
        let changed = container.change(|stored| {
            stored.state = ContainerState::Exited { status };
            stored.stopped &= !again;
        });
        if let Err(error) = cleaned.map_err(|why| why.reason).and(changed.map_err(|error| error.to_string())) {
            tracing::warn!(container = %spec.name, %error, "cannot clean up after a container");
        }
        if again {
            self.launch_by_policy(container, restarts).await;
        }
    }

    /// Sees a migration through that a stopped agent left behind.
    async fn finish(self: &Arc<Self>, entry: Entry, container: Option<Arc<Container>>) {
        match (entry.mark, container) {
            (Mark::Commit, Some(container)) => self.tell_commit(entry, container),
            (Mark::Promised | Mark::Accepted, Some(container)) => {
                let ownership = Self::ownership(&container, Some(&entry));
                let arrival = Arrival::recovered(self, container);
                tokio::spawn(take_up_arrival(Arc::clone(self), entry, arrival, ownership));
            }
            // It was destroyed or discarded, and only the last line was not written.
            (_, None) if !self.has_files(&entry.container) => drop(self.close_entry(entry)),
            (mark, _) => {
                tracing::warn!(migration = %entry.migration, ?mark, "a migration of a container that cannot be read");
            }
        }
    }

    /// Nothing is left to be done about it. Gives whether that is written.
    pub(crate) fn close_entry(&self, entry: Entry) -> bool {
        let mark = entry.mark.closed();
        let closed = self.journal().append(Entry { mark, ..entry });
        if let Err(error) = &closed {
            tracing::warn!(%error, "cannot close an entry of the journal");
        }
        closed.is_ok()
    }

    /// Whether anything of a container is here.
    pub(crate) fn has_files(&self, container: &ContainerId) -> bool {
        self.config.state.join("containers").join(container.as_str()).exists()
    }

    /// Tells the target that the container is its own, however long that takes.
    pub(crate) fn tell_commit(self: &Arc<Self>, entry: Entry, container: Arc<Container>) {
        let Some(peer) = self.peer(&entry.peer) else {
            tracing::error!(migration = %entry.migration, peer = %entry.peer, "the target is no longer a peer");
            return;
        };
        let Ok(operation) = Arc::clone(&container.operation).try_lock_owned() else { return };
        let own = self.config.name.clone();
        // An entry of an older agent does not tell: perhaps memory follows, and then the target will have wishes.
        let Decided { mode, began_at, at } =
            entry.decided.unwrap_or_else(|| Decided { mode: Mode::PostCopy, began_at: now(), at: now() });
        let past = Past { mode, began: since(&began_at), decided: since(&at) };
        let machine = Source::recovered(moment(), own, peer.name.clone(), entry.migration.clone(), past);
        self.lead(container, peer, (entry.migration, began_at), machine, operation, Vec::new());
    }
}
