//! The volumes of a node, and how containers come to what is mounted in them.

use std::fs;
use std::path::{Path, PathBuf};

use drover_container::Layout;
use drover_disk::{
    Claim, MountError, Token, VolumeError, VolumeStore, bind, mount_tmpfs, mounted_at, recognise, unmount,
};
use drover_model::{
    ContainerId, ContainerSpec, Driver, Explained, MigrationId, Mount, MountKind, Sighting, VolumeName,
};
use drover_sys::cgroup::Cgroup;
use drover_sys::mounts::replace_mounts;

use crate::container::Container;
use crate::error::{NodeError, failure};
use crate::node::{fresh_id, now};
use crate::shared::{Attached, SharedVolumes, in_time};

/// The volumes of a node.
#[derive(Debug)]
pub(crate) struct Volumes {
    pub store: VolumeStore,
    pub shared: SharedVolumes,
}

/// What becomes of a container's local volumes when its place is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They stay, and belong to nobody.
    Stay,
    /// They go: the container has them elsewhere.
    Go,
}

fn refused(attempt: &str, error: &VolumeError) -> Explained {
    let why = failure(attempt, error);
    Explained { hint: error.hint().or(why.hint), ..why }
}

pub(crate) fn refusal(attempt: &str, error: &VolumeError) -> NodeError {
    let why = refused(attempt, error);
    match error {
        VolumeError::Unknown(_) => NodeError::NotFound(why),
        VolumeError::Exists(_) | VolumeError::Taken(_) | VolumeError::Foreign(_) | VolumeError::Kind(_) => {
            NodeError::Conflict(why)
        }
        _ => NodeError::Failed(why),
    }
}

impl Volumes {
    /// Opens them in the node's directories. Programs that serve volumes are in the group `programs`.
    pub fn open(state: &Path, run: &Path, programs: Cgroup) -> Result<Self, VolumeError> {
        let (store, unread) = VolumeStore::open(&state.join("volumes"))?;
        for path in unread {
            tracing::warn!(path = %path.display(), "cannot take up a volume; its files are left alone");
        }
        Ok(Self { store, shared: SharedVolumes::new(run, programs) })
    }

    fn locals(spec: &ContainerSpec) -> Vec<VolumeName> {
        spec.volumes.iter().filter_map(Mount::local).cloned().collect()
    }

    /// Makes the local volumes of a container its own; gives the names of those that did not exist.
    pub fn claim(&self, spec: &ContainerSpec, claim: Claim) -> Result<Vec<VolumeName>, Explained> {
        let claimed = self.store.claim(&spec.id, &Self::locals(spec), claim, spec.owner.as_ref(), &now());
        claimed.map_err(|error| refused("cannot have the container's volumes", &error))
    }

    /// Whether `claim` would be refused.
    pub fn may_claim(&self, spec: &ContainerSpec, claim: Claim) -> Result<(), Explained> {
        let may = self.store.may_claim(&spec.id, &Self::locals(spec), claim, spec.owner.as_ref());
        may.map_err(|error| refused("cannot have the container's volumes", &error))
    }

    /// Makes what the container mounts stand ready. It may be repeated.
    pub fn ready(&self, spec: &ContainerSpec, layout: &Layout) -> Result<(), Explained> {
        let attempt = "cannot mount the container's volumes";
        self.claim(spec, Claim::Starts)?;
        for (index, mount) in spec.volumes.iter().enumerate() {
            let place = layout.volume(index);
            fs::create_dir_all(&place).map_err(|error| failure(attempt, &error))?;
            // What a shared one shows may not answer: it is not asked.
            let shows = match mount.shared() {
                Some(volume) => Some(self.attach(volume, &spec.id)?),
                None => mount.local().map(|volume| self.store.data(volume)),
            };
            let mounted = match (&mount.kind, shows) {
                _ if mounted_at(&place).map_err(|error| failure(attempt, &error))?.is_some() => Ok(()),
                (MountKind::Tmpfs { size, mode }, _) => mount_tmpfs(&place, *size, *mode),
                (_, Some(shows)) => bind(&shows, &place),
                (_, None) => Ok(()),
            };
            mounted.map_err(|error| failure(attempt, &error))?;
        }
        Ok(())
    }

    fn attach(&self, volume: &VolumeName, container: &ContainerId) -> Result<PathBuf, Explained> {
        let declared = self.store.find(volume).map_err(|error| {
            let hint =
                format!("declare it on that node, too: `drover volume create {volume} --driver ... --source ...`");
            refused("cannot mount the container's volumes", &error).with_hint(hint)
        })?;
        if declared.spec.driver == Driver::Local {
            let reason =
                format!("cannot mount the container's volumes: volume {volume} is a local volume on this node");
            return Err(Explained { reason, hint: Some("volumes of one name must have one kind on all nodes".into()) });
        }
        self.shared.attach(&declared.spec, container)
    }

    /// Takes up what an earlier agent mounted for a container.
    pub fn adopt(&self, spec: &ContainerSpec, layout: &Layout) {
        for (index, mount) in spec.volumes.iter().enumerate() {
            if let Some(volume) = mount.shared()
                && let Ok(Some(shown)) = mounted_at(&layout.volume(index))
                && let Ok(declared) = self.store.find(volume)
            {
                self.shared.adopt(&declared.spec, &spec.id, &shown);
            }
        }
    }

    /// Has a container show a shared volume that has been mounted anew; nobody in it runs.
    pub fn renew(&self, container: &Container, volume: &VolumeName) -> Result<(), Explained> {
        let attempt = format!("cannot mount volume {volume} anew");
        let Some(Attached { shared, .. }) = self.shared.find(volume) else { return Ok(()) };
        let spec = container.spec();
        let places = spec.volumes.iter().enumerate().filter(|(_, mount)| mount.shared() == Some(volume));
        for (index, _) in places {
            let place = container.layout.volume(index);
            let shown = mounted_at(&place).map_err(|error| failure(&attempt, &error))?;
            if shown.as_ref() == Some(&shared.file_system) {
                continue;
            }
            // Inside first: what stands ready tells what is to be replaced there, should this have to be repeated.
            if let (Some(shown), Some(pid)) = (shown, container.pid()) {
                replace_mounts(pid, shown.key(), &shared.place).map_err(|error| failure(&attempt, &error))?;
            }
            let bound = unmount(&place, true).and_then(|()| bind(&shared.place, &place));
            bound.map_err(|error| failure(&attempt, &error))?;
        }
        Ok(())
    }

    /// Marks the shared volumes of a container, so that the target of a move can tell whether it has the same.
    pub fn mark(&self, spec: &ContainerSpec, migration: &MigrationId) -> Result<Vec<Token>, Explained> {
        let mut tokens: Vec<Token> = Vec::new();
        for volume in spec.volumes.iter().filter_map(Mount::shared) {
            if tokens.iter().any(|token| &token.sighting.volume == volume) {
                continue;
            }
            let attempt = format!("cannot mark volume {volume}");
            let Some(place) = self.shared.mounted(volume) else {
                return Err(Explained { reason: format!("{attempt}: it is not mounted"), hint: None });
            };
            let (name, migration, content) = (volume.clone(), migration.clone(), fresh_id::<16>());
            let marked = in_time(&attempt.clone(), move || {
                let token = Token::leave(&place, &name, &migration, content);
                token.map_err(|error| Explained { hint: error.hint(), ..failure(&attempt, &error) })
            });
            tokens.push(marked?);
        }
        Ok(tokens)
    }

    /// Looks whether the shared volumes that stand ready for a container are those that its source sees.
    pub fn recognise(
        &self,
        spec: &ContainerSpec,
        sightings: &[Sighting],
        migration: &MigrationId,
    ) -> Result<(), Explained> {
        let attempt = "cannot have the container's volumes";
        for mount in &spec.volumes {
            let Some(volume) = mount.shared() else { continue };
            let sighting = sightings.iter().find(|sighting| &sighting.volume == volume).cloned();
            let (Some(sighting), Some(place)) = (sighting, self.shared.mounted(volume)) else {
                let reason = format!("{attempt}: the source says nothing of volume {volume}");
                return Err(Explained { reason, hint: None });
            };
            let (migration, writes) = (migration.clone(), !mount.read_only);
            in_time(attempt, move || {
                let seen = recognise(&place, &sighting, &migration, writes);
                seen.map_err(|error| Explained { hint: error.hint(), ..failure(attempt, &error) })
            })?;
            tracing::info!(%volume, "the source sees the same file system");
        }
        Ok(())
    }

    /// Has written out what the container has written to shared volumes: the target reads it from the server.
    pub fn sync(&self, spec: &ContainerSpec) -> Result<(), Explained> {
        for volume in spec.volumes.iter().filter_map(Mount::shared) {
            let Some(place) = self.shared.mounted(volume) else { continue };
            let attempt = format!("cannot write out volume {volume}");
            in_time(&attempt.clone(), move || {
                let synced = fs::File::open(place).and_then(|top| Ok(rustix::fs::syncfs(top)?));
                synced.map_err(|error| failure(&attempt, &error))
            })?;
        }
        Ok(())
    }

    /// Fills the local volumes that nobody has used with what the image has in their places; the root is mounted.
    pub fn fill(&self, spec: &ContainerSpec, root: &Path) -> Result<(), Explained> {
        for mount in &spec.volumes {
            if let Some(name) = mount.local() {
                let filled = self.store.fill(name, root, &mount.destination);
                filled.map_err(|error| refused("cannot fill the container's volumes", &error))?;
            }
        }
        Ok(())
    }

    /// Unmounts what stands ready, and shared volumes that nobody else uses. It may be repeated.
    pub fn unready(&self, container: &ContainerId, layout: &Layout) -> Result<(), MountError> {
        let places = fs::read_dir(layout.volumes()).into_iter().flatten().flatten().map(|entry| entry.path());
        places.into_iter().try_for_each(|place| unmount(&place, true))?;
        self.shared.detach(container);
        Ok(())
    }

    /// What becomes of the local volumes of a container that is removed here. It may be repeated.
    pub fn leave(&self, container: &ContainerId, fate: Fate) -> Result<(), Explained> {
        let left = match fate {
            Fate::Stay => self.store.release(container),
            Fate::Go => self.store.remove_of(container),
        };
        left.map_err(|error| refused("cannot let go of the container's volumes", &error))
    }

    /// Removes volumes that were made for a container that did not start.
    pub fn forget(&self, names: &[VolumeName]) {
        for name in names {
            if let Err(error) = self.store.remove(name) {
                tracing::warn!(volume = %name, %error, "leftovers of a container that did not start");
            }
        }
    }

    /// Where the files are that travel with a container, with the name of the volume if they are not in memory.
    pub fn travelling(&self, spec: &ContainerSpec, layout: &Layout) -> Vec<(PathBuf, Option<VolumeName>)> {
        let place = |(index, mount): (usize, &Mount)| match &mount.kind {
            // Not where it is mounted: files cannot be put aside across mounts.
            MountKind::Local { volume } => Some((self.store.data(volume), Some(volume.clone()))),
            MountKind::Tmpfs { .. } => Some((layout.volume(index), None)),
            MountKind::Shared { .. } => None,
        };
        spec.volumes.iter().enumerate().filter_map(place).collect()
    }

    /// Whether a local volume is this container's.
    pub fn belongs(&self, volume: &VolumeName, container: &ContainerId) -> bool {
        self.store.find(volume).is_ok_and(|volume| volume.container.as_ref() == Some(container))
    }

    /// The files of a container's local volumes.
    pub fn files(&self, spec: &ContainerSpec) -> Vec<PathBuf> {
        Self::locals(spec).iter().map(|name| self.store.data(name)).collect()
    }
}
