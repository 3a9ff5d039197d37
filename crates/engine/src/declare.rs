//! Declaring volumes, and what a container's user asks for in terms of them.

use std::sync::Arc;

use drover_api::CreateVolumeRequest;
use drover_disk::Volume;
use drover_model::{
    Action, Caller, ContainerSpec, Driver, Mount, MountKind, TmpfsMount, VolumeMount, VolumeName, VolumeRecord,
    VolumeSpec,
};

use crate::error::NodeError;
use crate::node::{Inner, Node, blocking, now};
use crate::volumes::{Volumes, refusal};

/// How many mounts a container may have beside its root.
const MOST_MOUNTS: usize = 64;

impl Volumes {
    /// What shall be mounted in a container, parents before what lies in them. Of shared volumes only those that the caller
    /// sees; who may have a local one is found out when it is claimed.
    pub fn specify(
        &self,
        volumes: Vec<VolumeMount>,
        tmpfs: Vec<TmpfsMount>,
        caller: &Caller,
    ) -> Result<Vec<Mount>, NodeError> {
        let mut mounts = Vec::new();
        for VolumeMount { volume, destination, read_only } in volumes {
            let known = self.store.find(&volume).map(|volume| volume.spec);
            let kind = match known {
                Ok(spec) if spec.driver != Driver::Local => {
                    if !caller.sees(Action::LookAtVolume, spec.owner.as_ref()) {
                        let hint = "ask an administrator to declare it with you as its owner";
                        return Err(NodeError::conflict(format!("volume {volume} on this node is not yours"), hint));
                    }
                    MountKind::Shared { volume }
                }
                _ => MountKind::Local { volume },
            };
            mounts.push(Mount { destination, read_only, kind });
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
        for (outer, mount) in mounts.iter().enumerate().filter(|(_, mount)| mount.shared().is_some()) {
            let within = format!("{}/", mount.destination);
            if let Some(inner) = mounts[outer..].iter().find(|inner| inner.destination.as_str().starts_with(&within)) {
                // It would go with the volume when that is lost.
                let reason = format!("{} lies in a shared volume", inner.destination);
                return Err(NodeError::invalid(reason, "mount it beside the shared volume"));
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
        let shows = |mount: &Mount| mount.local() == Some(name) || mount.shared() == Some(name);
        let uses = |spec: &ContainerSpec| spec.volumes.iter().any(shows);
        let used_by = containers.iter().map(|container| container.spec()).filter(uses).map(|spec| spec.name).collect();
        let path = match volume.spec.driver {
            Driver::Local => Some(self.volumes.store.data(name)),
            _ => self.volumes.shared.mounted(name),
        };
        let path = path.map(|path| path.display().to_string());
        let lost = self.volumes.shared.all().into_iter().find(|attached| &attached.spec.name == name);
        let lost = lost.and_then(|attached| attached.lost);
        VolumeRecord { spec: volume.spec, node: self.config.name.clone(), used_by, path, lost }
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
            let CreateVolumeRequest { name, driver, source, options, when_lost, owner } = request;
            let attempt = format!("cannot create volume {name}");
            let spec = VolumeSpec { name, driver, source, options, when_lost, created_at: now(), owner };
            spec.check().map_err(|error| NodeError::invalid(format!("{attempt}: {error}"), ""))?;
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
    use std::path::Path;

    use drover_sys::cgroup::{Cgroup, Hierarchies};

    use super::*;

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let state = tempfile::tempdir().unwrap();
        let groups = Hierarchies::detect(Path::new("/"), "/").unwrap();
        let programs = Cgroup::at(&groups, "drover/shims").unwrap();
        let volumes = Volumes::open(state.path(), &state.path().join("run"), programs).unwrap();
        (state, volumes)
    }

    fn places(volumes: &Volumes, named: &[&str], tmpfs: &[&str]) -> Result<Vec<String>, String> {
        let caller = Caller::User { name: "me".parse().unwrap(), role: drover_model::Role::Admin };
        let named = named.iter().map(|text| text.parse().unwrap()).collect();
        let tmpfs = tmpfs.iter().map(|text| text.parse().unwrap()).collect();
        let mounts = volumes.specify(named, tmpfs, &caller).map_err(|error| error.explained().reason.clone())?;
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
        let mut shared = VolumeSpec::local("s".parse().unwrap(), String::new());
        (shared.driver, shared.source) = (Driver::Bind, "/srv".into());
        volumes.store.create(shared).unwrap();
        assert!(places(&volumes, &["s:/srv"], &["/srv/cache"]).unwrap_err().contains("lies in a shared volume"));
        assert_eq!(places(&volumes, &["s:/srv", "s:/opt"], &["/srv-b"]).unwrap().len(), 3);
        let many: Vec<String> = (0..65).map(|number| format!("/m{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(places(&volumes, &[], &many).unwrap_err().contains("at most 64"));
    }
}
