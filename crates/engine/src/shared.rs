//! Shared volumes that containers of this node use: each is mounted once, with the first of them, and unmounted with the
//! last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use drover_disk::{FileSystem, Shared, SharedError};
use drover_model::{ContainerId, Explained, VolumeName, VolumeSpec};
use drover_sys::cgroup::Cgroup;

use crate::container::lock;
use crate::error::failure;

/// How long a server may take for what would hold up a move.
const ANSWER: Duration = Duration::from_secs(10);

/// A shared volume that is mounted.
#[derive(Debug, Clone)]
pub(crate) struct Attached {
    pub spec: VolumeSpec,
    pub shared: Shared,
    /// Whoever uses it, whether it runs already or not.
    pub users: BTreeSet<ContainerId>,
    /// Why it cannot be reached.
    pub lost: Option<String>,
}

/// The shared volumes that are mounted.
#[derive(Debug)]
pub(crate) struct SharedVolumes {
    run: PathBuf,
    /// The group of programs that outlive the agent.
    programs: Cgroup,
    /// Held by whoever mounts or unmounts: that takes as long as a server does, and the list can be read meanwhile.
    changing: Mutex<()>,
    attached: Mutex<BTreeMap<VolumeName, Attached>>,
}

/// Does what may never come to an end, on a thread that is left behind then.
pub(crate) fn in_time<T: Send + 'static>(
    attempt: &str,
    work: impl FnOnce() -> Result<T, Explained> + Send + 'static,
) -> Result<T, Explained> {
    let (done, result) = mpsc::channel();
    let started = std::thread::Builder::new().name("volume".into()).spawn(move || drop(done.send(work())));
    started.map_err(|error| failure(attempt, &error))?;
    result.recv_timeout(ANSWER).unwrap_or_else(|_| {
        let reason = format!("{attempt}: its server does not answer within {} s", ANSWER.as_secs());
        Err(Explained { reason, hint: Some("`drover volume inspect` shows where it is".into()) })
    })
}

fn refused(name: &VolumeName, error: &SharedError) -> Explained {
    let why = failure(&format!("cannot mount volume {name}"), error);
    Explained { hint: error.hint().or(why.hint), ..why }
}

impl SharedVolumes {
    pub fn new(run: &Path, programs: Cgroup) -> Self {
        Self { run: run.join("volumes"), programs, changing: Mutex::default(), attached: Mutex::default() }
    }

    fn place(&self, name: &VolumeName) -> PathBuf {
        self.run.join(name.as_str())
    }

    /// Where a volume is mounted, when it is.
    pub fn mounted(&self, name: &VolumeName) -> Option<PathBuf> {
        self.find(name).map(|attached| attached.shared.place)
    }

    /// One of them.
    pub fn find(&self, name: &VolumeName) -> Option<Attached> {
        lock(&self.attached).get(name).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Attached> {
        lock(&self.attached).values().cloned().collect()
    }

    /// Mounts a volume for a container, unless it is mounted; gives where. It may be repeated.
    pub fn attach(&self, spec: &VolumeSpec, container: &ContainerId) -> Result<PathBuf, Explained> {
        let _changing = lock(&self.changing);
        if let Some(attached) = lock(&self.attached).get_mut(&spec.name) {
            if let Some(lost) = &attached.lost {
                let reason = format!("cannot mount volume {}: it is lost: {lost}", spec.name);
                return Err(Explained { reason, hint: Some("bring its server back first".into()) });
            }
            attached.users.insert(container.clone());
            return Ok(attached.shared.place.clone());
        }
        let shared = Shared::mount(spec, &self.place(&spec.name), &self.programs, None);
        let shared = shared.map_err(|error| refused(&spec.name, &error))?;
        tracing::info!(volume = %spec.name, driver = %spec.driver, "volume mounted");
        let place = shared.place.clone();
        let users = BTreeSet::from([container.clone()]);
        let attached = Attached { spec: spec.clone(), shared, users, lost: None };
        lock(&self.attached).insert(spec.name.clone(), attached);
        Ok(place)
    }

    /// Takes up what an earlier agent mounted for a container, which shows `shown`.
    pub fn adopt(&self, spec: &VolumeSpec, container: &ContainerId, shown: &FileSystem) {
        let mut all = lock(&self.attached);
        if !all.contains_key(&spec.name) {
            let shared = match Shared::find(spec, &self.place(&spec.name)) {
                Ok(shared) => shared,
                Err(error) => return tracing::warn!(volume = %spec.name, %error, "cannot take up a mounted volume"),
            };
            let attached = Attached { spec: spec.clone(), shared, users: BTreeSet::new(), lost: None };
            all.insert(spec.name.clone(), attached);
        }
        if let Some(attached) = all.get_mut(&spec.name) {
            attached.users.insert(container.clone());
            if &attached.shared.file_system != shown {
                // The agent ended before the container had it back.
                attached.lost = Some("it is mounted anew, and the container shows what was there before".into());
            }
        }
    }

    /// A container needs its volumes no more; those that nobody needs are unmounted. It may be repeated.
    pub fn detach(&self, container: &ContainerId) {
        let _changing = lock(&self.changing);
        let mut all = lock(&self.attached);
        all.retain(|name, attached| {
            if !attached.users.remove(container) || !attached.users.is_empty() {
                return true;
            }
            match Shared::unmount(&attached.shared.place) {
                Ok(()) => tracing::info!(volume = %name, "volume unmounted"),
                // The next agent sweeps it away.
                Err(error) => tracing::warn!(volume = %name, %error, "volume is still mounted"),
            }
            false
        });
    }

    /// Unmounts what nobody has taken up.
    pub fn sweep(&self) {
        let all = lock(&self.attached);
        for entry in std::fs::read_dir(&self.run).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().parse::<VolumeName>();
            if name.is_ok_and(|name| !all.contains_key(&name))
                && let Err(error) = Shared::unmount(&entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot unmount a volume that nobody uses");
            }
        }
    }

    /// Notes that a volume is lost; gives whether that is news.
    pub fn lose(&self, name: &VolumeName, why: &str) -> bool {
        let mut all = lock(&self.attached);
        all.get_mut(name).is_some_and(|attached| attached.lost.replace(why.to_owned()).is_none())
    }

    /// Mounts a volume that is lost anew. Its users still show what was there before.
    pub fn remount(&self, name: &VolumeName) -> Result<(), Explained> {
        let _changing = lock(&self.changing);
        let Some(Attached { spec, shared: before, .. }) = self.find(name) else { return Ok(()) };
        let shared = Shared::mount(&spec, &before.place, &self.programs, Some(&before));
        let shared = shared.map_err(|error| refused(name, &error))?;
        if let Some(attached) = lock(&self.attached).get_mut(name) {
            attached.shared = shared;
        }
        Ok(())
    }

    /// Notes that a volume is back.
    pub fn regain(&self, name: &VolumeName) {
        if let Some(attached) = lock(&self.attached).get_mut(name) {
            attached.lost = None;
        }
    }
}
