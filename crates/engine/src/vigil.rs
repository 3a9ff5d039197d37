//! Watching over shared volumes: what happens to containers when one is lost, and when it is back.
//!
//! A container shows what was mounted, and never the directory beneath: while a volume is lost its reads and writes fail or
//! wait, but nothing lands elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use drover_disk::Shared;
use drover_model::{ContainerId, ContainerState, Explained, VolumeName, WhenLost};

use crate::container::Container;
use crate::error::failure;
use crate::node::{Inner, blocking};
use crate::shared::Attached;

/// The pause between two looks at a volume.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a server may take to answer before its volume counts as lost.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the last process may take to stand still: one that waits for the volume does so when it is back.
const FREEZE: Duration = Duration::from_secs(1);
/// How long programs have to end whose volume is lost.
const STOP: Duration = Duration::from_secs(10);

/// A question to a volume's server, on a thread of its own: it may never be answered.
#[derive(Debug)]
struct Probe {
    asked: Instant,
    answer: Receiver<io::Result<()>>,
}

/// What is known of a volume.
#[derive(Debug, PartialEq, Eq)]
enum Health {
    /// Nothing new.
    Unknown,
    Well,
    /// Its server is silent, and may answer yet.
    Silent,
    /// It is gone.
    Gone(String),
}

impl Probe {
    fn begin(shared: &Shared) -> Option<Self> {
        let (sender, answer) = channel();
        let shared = shared.clone();
        let asking = std::thread::Builder::new().name("probe".into());
        asking.spawn(move || drop(sender.send(shared.probe()))).ok()?;
        Some(Self { asked: Instant::now(), answer })
    }

    fn look(&self, patience: Duration) -> Health {
        match self.answer.try_recv() {
            Ok(Ok(())) => Health::Well,
            Ok(Err(error)) => Health::Gone(error.to_string()),
            Err(TryRecvError::Disconnected) => Health::Gone("it cannot be looked at".into()),
            Err(TryRecvError::Empty) if self.asked.elapsed() > patience => Health::Silent,
            Err(TryRecvError::Empty) => Health::Unknown,
        }
    }
}

impl Inner {
    /// Watches over all shared volumes that are mounted, until the node closes.
    pub(crate) async fn watch_volumes(self: Arc<Self>) {
        let mut closing = self.closing.subscribe();
        let mut probes: BTreeMap<VolumeName, Probe> = BTreeMap::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = closing.changed() => return,
            }
            let attached = self.volumes.shared.all();
            probes.retain(|name, _| attached.iter().any(|attached| &attached.spec.name == name));
            for attached in attached {
                let name = attached.spec.name.clone();
                let health = probes.get(&name).map_or(Health::Unknown, |probe| probe.look(SILENCE));
                if !matches!(health, Health::Silent) && (health != Health::Unknown || !probes.contains_key(&name)) {
                    probes.extend(Probe::begin(&attached.shared).map(|probe| (name, probe)));
                }
                self.attend(attached, health).await;
            }
        }
    }

    async fn attend(self: &Arc<Self>, attached: Attached, health: Health) {
        let name = &attached.spec.name;
        match health {
            Health::Unknown => {}
            Health::Well if attached.lost.is_none() => {}
            Health::Well => {
                // Whoever was not held yet, for something else was under way, must not run while its mount is replaced.
                let why = attached.lost.clone().unwrap_or_default();
                if self.hold_users(&attached, &why).await {
                    self.resume_users(attached).await;
                }
            }
            Health::Silent => {
                self.hold_users(&attached, "its server does not answer").await;
            }
            Health::Gone(why) => {
                if !self.hold_users(&attached, &why).await || attached.spec.when_lost == WhenLost::Stop {
                    return;
                }
                let (inner, lost) = (Arc::clone(self), name.clone());
                // The next look tells whether it is well, and lets its users go on.
                if let Err(why) = blocking(move || inner.volumes.shared.remount(&lost)).await {
                    tracing::debug!(volume = %name, %why, "volume cannot be mounted anew yet");
                }
            }
        }
    }

    /// Does what was wished for when a volume is lost; whether it is done for all of its users.
    async fn hold_users(self: &Arc<Self>, attached: &Attached, why: &str) -> bool {
        let name = &attached.spec.name;
        if self.volumes.shared.lose(name, why) {
            tracing::warn!(volume = %name, why, what = attached.spec.when_lost.as_str(), "a shared volume is lost");
        }
        let mut all = true;
        for user in &attached.users {
            let Some(container) = self.registry.of_id(user) else { continue };
            all &= match attached.spec.when_lost {
                WhenLost::Freeze => self.hold_still(&container, name).await,
                WhenLost::Stop => self.stop_user(user, &container),
            };
        }
        all
    }

    /// Freezes a container until `volume` is back; not while something else is under way with it.
    async fn hold_still(&self, container: &Arc<Container>, volume: &VolumeName) -> bool {
        if container.awaits().contains(volume) {
            return true;
        }
        let Ok(_operation) = container.operation.try_lock() else { return false };
        match container.state() {
            ContainerState::Running => {}
            ContainerState::Frozen if !container.awaits().is_empty() => {}
            // Whatever does not run needs nothing; it is refused when it starts.
            _ => return true,
        }
        container.look_at_sleepers();
        let own = Arc::clone(container);
        let frozen = blocking(move || own.cgroup.freeze(FREEZE)).await;
        match frozen {
            // The order stands: who waits for the volume stands still when it gets an answer.
            Err(error) if error.kind() != io::ErrorKind::TimedOut => {
                tracing::error!(container = %container.spec().name, %error, "cannot freeze a container whose volume is lost");
                return false;
            }
            _ => {}
        }
        container.awaits().insert(volume.clone());
        container.show(ContainerState::Frozen);
        tracing::warn!(container = %container.spec().name, %volume, "container stands still until its volume is back");
        true
    }

    fn stop_user(self: &Arc<Self>, user: &ContainerId, container: &Arc<Container>) -> bool {
        if container.state() == ContainerState::Running && !container.stored().stopped {
            tracing::warn!(container = %container.spec().name, "container is stopped, for its volume is lost");
            let (inner, user) = (Arc::clone(self), user.clone());
            tokio::spawn(async move {
                if let Err(error) = inner.stop(user.as_str(), STOP).await {
                    tracing::error!(%error, "cannot stop a container whose volume is lost");
                }
            });
        }
        true
    }

    /// Lets those go on that waited for a volume.
    async fn resume_users(self: &Arc<Self>, attached: Attached) {
        let name = &attached.spec.name;
        let mut all = true;
        for user in &attached.users {
            let Some(container) = self.registry.of_id(user) else { continue };
            let Ok(_operation) = Arc::clone(&container.operation).try_lock_owned() else {
                all = false;
                continue;
            };
            let (inner, own, volume) = (Arc::clone(self), Arc::clone(&container), name.clone());
            if let Err(why) = blocking(move || inner.let_go_on(&own, &volume)).await {
                tracing::error!(container = %container.spec().name, %why, "a container cannot have its volume back");
                all = false;
            }
        }
        if all {
            self.volumes.shared.regain(name);
            tracing::info!(volume = %name, "a shared volume is back");
        }
    }

    fn let_go_on(&self, container: &Container, volume: &VolumeName) -> Result<(), Explained> {
        self.volumes.renew(container, volume)?;
        let still = {
            let mut awaits = container.awaits();
            !awaits.remove(volume) || !awaits.is_empty()
        };
        if still {
            return Ok(());
        }
        container.cgroup.thaw().map_err(|error| failure("cannot thaw the container", &error))?;
        container.show(ContainerState::Running);
        tracing::info!(container = %container.spec().name, %volume, "container goes on with its volume");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_well_gone_or_silent() {
        let probe = || {
            let (sender, answer) = channel();
            (sender, Probe { asked: Instant::now(), answer })
        };
        let (sender, waiting) = probe();
        assert_eq!(waiting.look(SILENCE), Health::Unknown);
        assert_eq!(waiting.look(Duration::ZERO), Health::Silent);
        sender.send(Ok(())).unwrap();
        assert_eq!(waiting.look(Duration::ZERO), Health::Well);
        let (sender, waiting) = probe();
        sender.send(Err(io::Error::other("not connected"))).unwrap();
        assert_eq!(waiting.look(SILENCE), Health::Gone("not connected".into()));
    }
}
