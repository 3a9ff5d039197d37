//! Making, starting, stopping and removing containers, and what happens when their program ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drover_api::RunRequest;
use drover_container::shim::{Request, Shim, ShimError, ShimSpec};
use drover_model::{Caller, ContainerState, Explained};
use drover_network::Gate;
use tokio::sync::OwnedMutexGuard;

use crate::container::{Container, SHIMS_CGROUP, Stored, cgroup_path};
use crate::error::{NodeError, failure};
use crate::journal::Mark;
use crate::node::{Inner, blocking, now};
use crate::place;
use crate::volumes::Fate;

/// The first pause before a restart; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A program that ran this long is taken to have started well: the count of restarts begins anew.
const WELL: Duration = Duration::from_secs(10);

/// How long it takes at most until it is known that a program has ended whose shim is gone already.
const JUST_ENDED: Duration = Duration::from_secs(5);

/// The status of a program whose own is not known.
const KILLED: i32 = 137;
/// The stack of a thread that waits for a shim; its receive buffer is on the heap.
const WATCH_STACK: usize = 128 << 10;

impl Inner {
    pub(crate) fn shim_spec(&self, container: &Container) -> ShimSpec {
        let process = container.spec().process;
        ShimSpec {
            id: container.id.clone(),
            layout: container.layout.clone(),
            run: self.config.run.clone(),
            terminal: process.terminal,
            stdin_open: process.stdin_open,
            cgroup_base: self.config.cgroup_base.clone(),
            cgroup: cgroup_path(&container.id),
            shims_cgroup: SHIMS_CGROUP.to_owned(),
        }
    }

    /// Makes a container and starts it; one that does not start leaves nothing behind.
    pub(crate) async fn run(
        self: &Arc<Self>,
        request: RunRequest,
        caller: Caller,
    ) -> Result<Arc<Container>, NodeError> {
        if let Some(Explained { reason, hint }) = self.drain.refusal(&self.config.name) {
            let reason = format!("cannot make container {}: {reason}", request.name);
            return Err(NodeError::conflict(reason, &hint.unwrap_or_default()));
        }
        let inner = Arc::clone(self);
        let (container, made) = blocking(move || inner.create(request, &caller)).await?;
        let _operation = self.hold(&container).await?;
        if let Err(why) = self.launch(&container).await {
            let (inner, own) = (Arc::clone(self), Arc::clone(&container));
            let removed =
                blocking(move || place::unmake(&own, &inner, Fate::Stay).map(|()| inner.volumes.forget(&made)));
            let removed = removed.await;
            if let Err(error) = removed {
                tracing::warn!(container = %container.spec().name, %error, "leftovers of a container that did not start");
            }
            self.registry.remove(&container.id);
            let spec = container.spec();
            let program = spec.process.args.first().map_or("", String::as_str);
            return Err(NodeError::program(program, &spec.name, &why.reason).unwrap_or(NodeError::Failed(why)));
        }
        drop(_operation);
        Ok(container)
    }

    /// Starts the container's program; its operation lock is held by the caller.
    pub(crate) async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Explained> {
        let (inner, own) = (Arc::clone(self), Arc::clone(container));
        let pid = blocking(move || inner.launch_blocking(&own)).await?;
        let started = now();
        let recorded = container.change(|stored| {
            stored.state = ContainerState::Running;
            stored.started_at = Some(started);
            stored.stopped = false;
        });
        if let Err(error) = recorded {
            // A program that runs while its record says that it does not would be started a second time.
            let (inner, own) = (Arc::clone(self), Arc::clone(container));
            blocking(move || inner.clean_up(&own)).await;
            return Err(failure("cannot write the container's record", &error));
        }
        container.set_pid(Some(pid));
        self.watch(container);
        Ok(())
    }

    fn launch_blocking(&self, container: &Container) -> Result<u32, Explained> {
        let spec = container.spec();
        let image = self.images.find(spec.image_digest.as_str());
        let image = image.map_err(|error| failure("cannot find the container's image", &error))?;
        // A node that was started anew has none of what must not survive that.
        std::fs::create_dir_all(&container.layout.run)
            .map_err(|error| failure("cannot make the container's directory", &error))?;
        place::make(container, &self.config.uplink, Gate::Open)?;
        place::mount_root(&container.layout, &image.trees)?;
        container.volumes.fill(&spec, &container.layout.rootfs())?;
        place::fill(&container.layout, &spec)?;
        let started = self.start_program(container);
        if started.is_err() {
            self.clean_up(container);
        }
        started
    }

    /// What was begun must not stand in the way of the next attempt.
    fn clean_up(&self, container: &Container) {
        if let Err(error) = place::end(container, true).and_then(|()| place::unmake_run(container, &self.runc)) {
            tracing::warn!(container = %container.spec().name, %error, "cannot clean up after a failed start");
        }
    }

    fn start_program(&self, container: &Container) -> Result<u32, Explained> {
        let spec = container.spec();
        let attempt = "cannot start the container";
        let failed = |error: ShimError| failure(attempt, &error);
        if let Some(interface) = &spec.interface {
            let wire = container.wire().map_err(|error| error.explained().clone())?;
            wire.announce(interface).map_err(|error| failure("cannot announce the container's address", &error))?;
        }
        self.runc
            .write_bundle(&spec, &container.layout, &cgroup_path(&container.id))
            .map_err(|error| failure(attempt, &error))?;
        match std::fs::remove_file(container.layout.exit()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failure(attempt, &error)),
            _ => {}
        }
        let shim = Shim::start(&self.config.program, &self.shim_spec(container)).map_err(failed)?;
        shim.order(&Request::Create).map_err(failed)?;
        shim.order(&Request::Start).map_err(failed)?;
        shim.state().map_err(failed)?.0.ok_or_else(|| Explained { reason: attempt.into(), hint: None })
    }

    /// Follows the container until its program ends, and then does what its restart policy says.
    pub(crate) fn watch(self: &Arc<Self>, container: &Arc<Container>) {
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        let stop = self.closing.subscribe();
        tokio::spawn(async move {
            let begun = std::time::Instant::now();
            let shim = container.shim();
            let mut stop = stop;
            // A thread of its own: a node has more containers than the runtime has threads for what blocks.
            let (over, ended) = tokio::sync::oneshot::channel();
            let waiting = std::thread::Builder::new().name("watch".into()).stack_size(WATCH_STACK);
            let waiting = waiting.spawn(move || {
                // Whether it answers or is gone, something has ended.
                drop(shim.order(&Request::Wait));
                let _ = over.send(());
            });
            if let Err(error) = waiting {
                tracing::error!(%error, "cannot watch a container");
                return;
            }
            tokio::select! {
                _ = ended => {}
                _ = stop.changed() => return,
            }
            inner.ended(&container, begun.elapsed() >= WELL).await;
        });
    }

    async fn ended(self: &Arc<Self>, container: &Arc<Container>, ran_well: bool) {
        let _operation = container.operation.lock().await;
        // Moved away, removed, or restarted by somebody else: then its end is not ours to deal with.
        if !self.registry.has(container) || container.state() != ContainerState::Running {
            return;
        }
        let shim = container.shim();
        let lives = blocking(move || shim.state().is_ok_and(|(_, exit)| exit.is_none())).await;
        let status = match container.exit() {
            Some(status) => status,
            None if lives => return,
            None if container.lives() => {
                // Somebody killed the shim. What it kept is lost, but not the container.
                tracing::error!(container = %container.spec().name, "the container's shim is gone; it cannot be reached");
                return;
            }
            None => KILLED,
        };
        tracing::info!(container = %container.spec().name, status, "program ended");
        let own = Arc::clone(container);
        let inner = Arc::clone(self);
        let cleaned =
            blocking(move || place::end(&own, false).and_then(|()| place::unmake_run(&own, &inner.runc))).await;
        if let Err(error) = cleaned {
            tracing::warn!(container = %container.spec().name, %error, "cannot clean up after the program's end");
        }
        container.set_pid(None);
        let restarts = if ran_well { 0 } else { container.stored().restarts };
        let Stored { spec, stopped, .. } = container.stored();
        let again = !stopped && spec.restart.restarts_after_exit(status, restarts);
        if let Err(error) = container.change(|stored| stored.state = ContainerState::Exited { status }) {
            tracing::warn!(container = %spec.name, %error, "cannot write the container's record");
        }
        if again {
            self.restart_later(container, restarts);
        }
    }

    /// Starts a container again, which was restarted so often in a row; the pause before that grows.
    fn restart_later(self: &Arc<Self>, container: &Arc<Container>, restarts: u32) {
        let pause = FIRST_PAUSE.saturating_mul(1 << restarts.min(16)).min(LONGEST_PAUSE);
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            inner.restart(&container, restarts + 1).await;
        });
    }

    /// Its policy wants it to run, for the so many-th time: it is started, and again if that fails, for what is in its
    /// way may go, such as a network that the kernel has not let go of yet. Its operation lock is held by the caller.
    pub(crate) async fn launch_by_policy(self: &Arc<Self>, container: &Arc<Container>, restarts: u32) {
        let launched = match container.change(|stored| stored.restarts = restarts) {
            Ok(()) => self.launch(container).await,
            Err(error) => Err(failure("cannot write the container's record", &error)),
        };
        let Err(why) = launched else { return };
        let spec = container.spec();
        let again = spec.restart.restarts_after_exit(KILLED, restarts);
        tracing::warn!(container = %spec.name, %why, again, "cannot restart");
        if again {
            self.restart_later(container, restarts);
        }
    }

    // Boxed, for `launch` watches, watching ends in a restart, and a restart launches.
    fn restart<'a>(
        self: &'a Arc<Self>,
        container: &'a Arc<Container>,
        restarts: u32,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let _operation = container.operation.lock().await;
            let stored = container.stored();
            // It may have left and come back meanwhile, as another one.
            if !self.registry.has(container) || stored.stopped || !matches!(stored.state, ContainerState::Exited { .. })
            {
                return tracing::debug!(container = %stored.spec.name, "a restart is not wanted any more");
            }
            self.launch_by_policy(container, restarts).await;
        })
    }

    pub(crate) async fn start(self: &Arc<Self>, wanted: &str) -> Result<Arc<Container>, NodeError> {
        let container = self.registry.find(wanted)?;
        let _operation = self.hold(&container).await?;
        match container.state() {
            ContainerState::Created | ContainerState::Exited { .. } => {
                container
                    .change(|stored| stored.restarts = 0)
                    .map_err(|error| NodeError::failed("cannot write the container's record", &error))?;
                self.launch(&container).await.map_err(NodeError::Failed)?;
                drop(_operation);
                Ok(container)
            }
            state => {
                let name = container.spec().name;
                Err(NodeError::conflict(format!("cannot start container {name}: it is {state}"), ""))
            }
        }
    }

    pub(crate) async fn stop(&self, wanted: &str, patience: Duration) -> Result<Arc<Container>, NodeError> {
        const TERM: i32 = 15;
        const KILL: i32 = 9;
        let container = self.registry.find(wanted)?;
        {
            let _operation = self.hold(&container).await?;
            container
                .change(|stored| stored.stopped = true)
                .map_err(|error| NodeError::failed("cannot write the container's record", &error))?;
        }
        let mut patience = patience;
        let mut unheard = false;
        let softly = container.spec().stop_signal.unwrap_or(TERM);
        for signal in [softly, KILL] {
            if container.state() != ContainerState::Running {
                break;
            }
            let shim = container.shim();
            // A shim that is gone means that the program has just ended, or that somebody has killed the shim.
            unheard = blocking(move || shim.order(&Request::Signal(signal))).await.is_err();
            let patience_now = if unheard { patience.min(JUST_ENDED) } else { patience };
            if tokio::time::timeout(patience_now, wait_for_end(&container)).await.is_ok() || unheard {
                break;
            }
            patience = Duration::from_secs(20);
        }
        match container.state() {
            ContainerState::Created | ContainerState::Exited { .. } => Ok(container),
            state => {
                // It stays as it was: its restart policy holds again, and it may move.
                let _ = container.change(|stored| stored.stopped = false);
                let reason = format!("cannot stop container {}: it is {state}", container.spec().name);
                let asleep = "a process in uninterruptible sleep (state D) cannot be killed";
                let alone =
                    "its shim is gone, so nobody can pass a signal on; it runs on until `drover rm --force` ends it";
                let hint = if unheard { alone } else { asleep };
                let hint = (state == ContainerState::Running).then(|| hint.to_owned());
                let waits = "it waits for a volume that is lost: `drover rm --force` ends it";
                let hint = if container.awaits().is_empty() { hint } else { Some(waits.to_owned()) };
                Err(NodeError::Failed(Explained { reason, hint }))
            }
        }
    }

    pub(crate) async fn kill(&self, wanted: &str, signal: i32) -> Result<(), NodeError> {
        let container = self.registry.find(wanted)?;
        let name = container.spec().name;
        if !(1..=64).contains(&signal) {
            return Err(NodeError::invalid(format!("cannot send signal {signal}: there is none"), "use 1 to 64"));
        }
        if container.state() != ContainerState::Running {
            let reason = format!("cannot signal container {name}: it is {}", container.state());
            return Err(NodeError::conflict(reason, ""));
        }
        let shim = container.shim();
        let sent = blocking(move || shim.order(&Request::Signal(signal)).map(drop)).await;
        sent.map_err(|error| NodeError::failed(&format!("cannot signal container {name}"), &error))
    }

    pub(crate) async fn remove(self: &Arc<Self>, wanted: &str, force: bool) -> Result<(), NodeError> {
        let container = self.registry.find(wanted)?;
        let _operation = self.hold(&container).await?;
        let name = container.spec().name;
        let over = matches!(container.state(), ContainerState::Created | ContainerState::Exited { .. });
        if !over && !force {
            let reason = format!("cannot remove container {name}: it is {}", container.state());
            let hint = match container.state() {
                ContainerState::Running => "stop it first, or use --force",
                // After a migration that failed it may be the only copy.
                _ => "look at `drover migrations` first; --force removes what may be the only copy",
            };
            return Err(NodeError::conflict(reason, hint));
        }
        let (inner, own) = (Arc::clone(self), Arc::clone(&container));
        let removed = blocking(move || place::end(&own, true).and_then(|()| place::unmake(&own, &inner, Fate::Stay)));
        let removed = removed.await;
        removed.map_err(NodeError::Failed)?;
        self.registry.remove(&container.id);
        container.show(ContainerState::Exited { status: KILLED });
        self.close_entries(&container);
        Ok(())
    }

    /// Nothing is left to be decided about a container that was removed here.
    fn close_entries(&self, container: &Container) {
        let open = self.journal().unfinished().into_iter().filter(|entry| entry.container == container.id);
        for entry in open {
            // The target may still have to be told.
            if entry.mark == Mark::Began {
                continue;
            }
            self.close_entry(entry);
        }
    }

    pub(crate) async fn wait(&self, wanted: &str) -> Result<i32, NodeError> {
        let container = self.registry.find(wanted)?;
        let mut changes = container.changes();
        loop {
            if let ContainerState::Exited { status } = container.state() {
                return Ok(status);
            }
            let gone = !self.registry.has(&container);
            if gone || changes.changed().await.is_err() {
                let reason = format!("cannot wait for container {wanted}: it is no longer on this node");
                return Err(NodeError::not_found(reason, "it was moved or removed"));
            }
        }
    }

    /// Waits until nobody else changes a container; nobody else does as long as what is given is held.
    pub(crate) async fn hold(&self, container: &Arc<Container>) -> Result<OwnedMutexGuard<()>, NodeError> {
        const MOMENT: Duration = Duration::from_secs(3);
        let name = container.spec().name;
        let held = tokio::time::timeout(MOMENT, Arc::clone(&container.operation).lock_owned()).await;
        let held = held.map_err(|_| {
            let reason = format!("cannot change container {name}: something else is changing it");
            NodeError::conflict(reason, "a migration, start or removal is under way; see `drover migrations`")
        })?;
        // It may have left while this waited.
        if self.registry.has(container) {
            return Ok(held);
        }
        let reason = format!("cannot change container {name}: it is not on this node any more");
        Err(NodeError::conflict(reason, "`drover ps -a` shows where it is, if it was not removed"))
    }
}

async fn wait_for_end(container: &Container) {
    let mut changes = container.changes();
    while container.state() == ContainerState::Running {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Where this program is.
pub(crate) fn own_program() -> std::io::Result<std::path::PathBuf> {
    let program = std::env::current_exe()?;
    // A binary that was replaced while it ran.
    let name = program.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or(program.clone(), |name| Path::new(name).to_owned()))
}
