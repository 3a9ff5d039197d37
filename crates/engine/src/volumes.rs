//! The volumes of a node, and how containers come to what is mounted in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drover_api::CreateVolumeRequest;
use drover_container::Layout;
use drover_disk::{Claim, MountError, Volume, VolumeError, VolumeStore, bind, is_mounted, mount_tmpfs, unmount};
use drover_model::{
    ContainerId, ContainerSpec, Driver, Explained, Mount, MountKind, VolumeMount, VolumeName, VolumeRecord, VolumeSpec,
};

use crate::error::{NodeError, failure};
use crate::node::{Inner, Node, blocking, now};

/// How many mounts a container may have beside its root.
const MOST_MOUNTS: usize = 64;

/// The volumes of a node.
#[derive(Debug)]
pub(crate) struct Volumes {
    store: VolumeStore,
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

fn refusal(attempt: &str, error: &VolumeError) -> NodeError {
    let why = refused(attempt, error);
    match error {
        VolumeError::Unknown(_) => NodeError::NotFound(why),
        VolumeError::Exists(_) | VolumeError::Taken(_) | VolumeError::Kind(_) => NodeError::Conflict(why),
        _ => NodeError::Failed(why),
    }
}

impl Volumes {
    /// Opens them in the node's directory `state`.
    pub fn open(state: &Path) -> Result<Self, VolumeError> {
        let (store, unread) = VolumeStore::open(&state.join("volumes"))?;
        for path in unread {
            tracing::warn!(path = %path.display(), "cannot take up a volume; its files are left alone");
        }
        Ok(Self { store })
    }

    fn locals(spec: &ContainerSpec) -> Vec<VolumeName> {
        spec.volumes.iter().filter_map(Mount::local).cloned().collect()
    }

    /// Makes the local volumes of a container its own; gives the names of those that did not exist.
    pub fn claim(&self, spec: &ContainerSpec, claim: Claim) -> Result<Vec<VolumeName>, Explained> {
        let claimed = self.store.claim(&spec.id, &Self::locals(spec), claim, &now());
        claimed.map_err(|error| refused("cannot have the container's volumes", &error))
    }

    /// Makes what the container mounts stand ready. It may be repeated.
    pub fn ready(&self, spec: &ContainerSpec, layout: &Layout) -> Result<(), Explained> {
        let attempt = "cannot mount the container's volumes";
        self.claim(spec, Claim::Starts)?;
        for (index, mount) in spec.volumes.iter().enumerate() {
            let place = layout.volume(index);
            fs::create_dir_all(&place).map_err(|error| failure(attempt, &error))?;
            self.mount(mount, &place).map_err(|error| failure(attempt, &error))?;
        }
        Ok(())
    }

    fn mount(&self, mount: &Mount, place: &Path) -> Result<(), MountError> {
        if is_mounted(place)? {
            return Ok(());
        }
        match &mount.kind {
            MountKind::Local { volume } => bind(&self.store.data(volume), place),
            MountKind::Tmpfs { size, mode } => mount_tmpfs(place, *size, *mode),
        }
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

    /// Unmounts what stands ready. It may be repeated.
    pub fn unready(&self, layout: &Layout) -> Result<(), MountError> {
        let places = fs::read_dir(layout.volumes()).into_iter().flatten().flatten().map(|entry| entry.path());
        places.into_iter().try_for_each(|place| unmount(&place, true))
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

    /// The volumes that travel with a container, and whether they are in memory.
    pub fn travelling(&self, spec: &ContainerSpec, layout: &Layout) -> Vec<(PathBuf, bool)> {
        let travelling = spec.volumes.iter().enumerate().filter(|(_, mount)| mount.travels());
        let place = |(index, mount): (usize, &Mount)| match &mount.kind {
            // Not where it is mounted: files cannot be put aside across mounts.
            MountKind::Local { volume } => (self.store.data(volume), false),
            MountKind::Tmpfs { .. } => (layout.volume(index), true),
        };
        travelling.map(place).collect()
    }

    /// The files of a container's local volumes.
    pub fn files(&self, spec: &ContainerSpec) -> Vec<PathBuf> {
        Self::locals(spec).iter().map(|name| self.store.data(name)).collect()
    }

    /// What shall be mounted in a container, parents before what lies in them.
    pub fn specify(
        &self,
        volumes: Vec<VolumeMount>,
        tmpfs: Vec<drover_model::TmpfsMount>,
    ) -> Result<Vec<Mount>, NodeError> {
        let mut mounts = Vec::new();
        for VolumeMount { volume, destination, read_only } in volumes {
            mounts.push(Mount { destination, read_only, kind: MountKind::Local { volume } });
        }
        for mount in tmpfs {
            mount.check().map_err(|error| NodeError::invalid(error.to_string(), ""))?;
            let kind = MountKind::Tmpfs { size: mount.size, mode: mount.mode };
            mounts.push(Mount { destination: mount.destination, read_only: false, kind });
        }
        if mounts.len() > MOST_MOUNTS {
            let reason = format!("a container has at most {MOST_MOUNTS} mounts, not {}", mounts.len());
            return Err(NodeError::invalid(reason, "mount one volume with several directories in it"));
        }
        mounts.sort_by(|a, b| a.destination.cmp(&b.destination));
        for pair in mounts.windows(2) {
            if let [first, second] = pair
                && first.destination == second.destination
            {
                let reason = format!("two mounts have the same place, {}", first.destination);
                return Err(NodeError::invalid(reason, "give each a place of its own"));
            }
        }
        let mut names: Vec<&VolumeName> = mounts.iter().filter_map(Mount::local).collect();
        names.sort();
        if let Some([name, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(NodeError::invalid(format!("volume {name} is mounted twice"), "mount it once"));
        }
        Ok(mounts)
    }
}

impl Inner {
    fn volume_record(&self, volume: Volume) -> VolumeRecord {
        let name = &volume.spec.name;
        let containers = self.registry.all();
        let uses = |spec: &ContainerSpec| spec.volumes.iter().any(|mount| mount.local() == Some(name));
        let used_by = containers.iter().map(|container| container.spec()).filter(uses).map(|spec| spec.name).collect();
        let path = match volume.spec.driver {
            Driver::Local => Some(self.volumes.store.data(name).display().to_string()),
        };
        VolumeRecord { spec: volume.spec, node: self.config.name.clone(), used_by, path }
    }
}

impl Node {
    /// All volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeRecord> {
        self.inner.volumes.store.all().into_iter().map(|volume| self.inner.volume_record(volume)).collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn volume(&self, name: &VolumeName) -> Result<VolumeRecord, NodeError> {
        let volume = self.inner.volumes.store.find(name).map_err(|error| refusal("cannot show the volume", &error))?;
        Ok(self.inner.volume_record(volume))
    }

    /// Declares a volume.
    ///
    /// # Errors
    /// When there is one of this name.
    pub async fn create_volume(&self, request: CreateVolumeRequest) -> Result<VolumeRecord, NodeError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let CreateVolumeRequest { name, driver } = request;
            let attempt = format!("cannot create volume {name}");
            let spec = VolumeSpec { name, driver, created_at: now() };
            let volume = inner.volumes.store.create(spec).map_err(|error| refusal(&attempt, &error))?;
            Ok(inner.volume_record(volume))
        })
        .await
    }

    /// Removes a volume that no container uses, with the files of a local one.
    ///
    /// # Errors
    /// When there is none, or a container uses it.
    pub async fn remove_volume(&self, name: &VolumeName) -> Result<(), NodeError> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        blocking(move || {
            let attempt = format!("cannot remove volume {name}");
            let volume = inner.volumes.store.find(&name).map_err(|error| refusal(&attempt, &error))?;
            if let Some(user) = inner.volume_record(volume).used_by.first() {
                let reason = format!("{attempt}: container {user} uses it");
                return Err(NodeError::conflict(reason, "remove the containers that use it first"));
            }
            inner.volumes.store.remove(&name).map_err(|error| refusal(&attempt, &error))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let state = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(state.path()).unwrap();
        (state, volumes)
    }

    fn places(volumes: &Volumes, named: &[&str], tmpfs: &[&str]) -> Result<Vec<String>, String> {
        let named = named.iter().map(|text| text.parse().unwrap()).collect();
        let tmpfs = tmpfs.iter().map(|text| text.parse().unwrap()).collect();
        let mounts = volumes.specify(named, tmpfs).map_err(|error| error.explained().reason.clone())?;
        Ok(mounts.into_iter().map(|mount| mount.destination.to_string()).collect())
    }

    #[test]
    fn parents_are_mounted_before_what_lies_in_them() {
        let (_state, volumes) = volumes();
        let places = places(&volumes, &["b:/srv/data", "a:/srv"], &["/srv/data/cache", "/opt"]).unwrap();
        assert_eq!(places, ["/opt", "/srv", "/srv/data", "/srv/data/cache"]);
    }

    #[test]
    fn mounts_that_contradict_each_other_are_refused() {
        let (_state, volumes) = volumes();
        assert!(places(&volumes, &["a:/srv", "b:/srv"], &[]).unwrap_err().contains("same place"));
        assert!(places(&volumes, &["a:/srv"], &["/srv"]).unwrap_err().contains("same place"));
        assert!(places(&volumes, &["a:/srv", "a:/opt"], &[]).unwrap_err().contains("twice"));
        let many: Vec<String> = (0..65).map(|number| format!("/m{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(places(&volumes, &[], &many).unwrap_err().contains("at most 64"));
    }
}
