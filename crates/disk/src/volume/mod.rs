//! Volumes: what was declared on this node, and the files of local ones.
//!
//! ```text
//! ROOT/NAME/volume.json    what is known of it
//! ROOT/NAME/data/          the files of a local one
//! ROOT/.new-NAME           one that is being made
//! ROOT/.removed-NAME       one that is being removed
//! ```
//!
//! Shared volumes have no files here: [`Shared`] mounts them, and [`Token`] and [`recognise`] find out whether two nodes see
//! the same.
//!
//! A local volume belongs to one container at a time: who shares files with another container of its node cannot move
//! without it.

mod driver;
mod error;
mod fill;
mod mounted;
mod proof;
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drover_model::{ContainerId, Driver, UserName, VolumeName, VolumeSpec};
use serde::{Deserialize, Serialize};

pub use error::VolumeError;
pub use mounted::{FileSystem, at as mounted_at, parse as mount_in};
pub use proof::{ProofError, Token, recognise};
pub use shared::{Shared, SharedError};

/// The file that says what is known of a volume.
const RECORD: &str = "volume.json";
/// The directory with a local volume's files.
const DATA: &str = "data";

/// What is kept of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// What was declared.
    pub spec: VolumeSpec,
    /// The container that a local volume belongs to.
    pub container: Option<ContainerId>,
    /// Whether a container has used it: from then on nothing comes from an image any more.
    pub used: bool,
}

/// How a container comes to its local volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It starts here, and takes what is there.
    Starts,
    /// It is made here, and takes what is there if it is its own user's.
    StartsAmongOwn,
    /// It arrives here, and brings its own.
    Arrives,
}

/// The volumes of a node. Several threads may use them at once.
#[derive(Debug)]
pub struct VolumeStore {
    root: PathBuf,
    volumes: Mutex<BTreeMap<VolumeName, Volume>>,
}

impl VolumeStore {
    /// Opens the store in the directory `root`, which is made if it is missing. What was half made or half removed is swept
    /// away; a record that cannot be read is left alone, with its files, and given as a path.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(root: &Path) -> Result<(Self, Vec<PathBuf>), VolumeError> {
        // Nobody else looks into it: files of containers may have set-id bits.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(VolumeError::store("make", root))?;
        let (mut volumes, mut unread) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(root).map_err(VolumeError::store("read", root))? {
            let path = entry.map_err(VolumeError::store("read", root))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if name.starts_with(".new-") || name.starts_with(".removed-") {
                drover_sys::tree::remove(&path).map_err(VolumeError::store("remove", &path))?;
                continue;
            }
            let read = fs::read(path.join(RECORD)).ok().and_then(|text| serde_json::from_slice::<Volume>(&text).ok());
            match read.filter(|volume| volume.spec.name.as_str() == name) {
                Some(volume) => drop(volumes.insert(volume.spec.name.clone(), volume)),
                None => unread.push(path),
            }
        }
        Ok((Self { root: root.to_owned(), volumes: Mutex::new(volumes) }, unread))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, name: &VolumeName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Where the files of a local volume are.
    #[must_use]
    pub fn data(&self, name: &VolumeName) -> PathBuf {
        self.place(name).join(DATA)
    }

    /// All volumes, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Volume> {
        self.lock().values().cloned().collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn find(&self, name: &VolumeName) -> Result<Volume, VolumeError> {
        self.lock().get(name).cloned().ok_or_else(|| VolumeError::Unknown(name.clone()))
    }

    /// Declares a volume, durably; a local one has no files yet.
    ///
    /// # Errors
    /// When there is one of this name, or the disk refuses.
    pub fn create(&self, spec: VolumeSpec) -> Result<Volume, VolumeError> {
        let mut volumes = self.lock();
        if volumes.contains_key(&spec.name) {
            return Err(VolumeError::Exists(spec.name));
        }
        let volume = Volume { spec, container: None, used: false };
        self.make(&volume)?;
        volumes.insert(volume.spec.name.clone(), volume.clone());
        Ok(volume)
    }

    fn make(&self, volume: &Volume) -> Result<(), VolumeError> {
        let name = &volume.spec.name;
        let new = self.root.join(format!(".new-{name}"));
        drover_sys::tree::remove(&new).map_err(VolumeError::store("remove", &new))?;
        fs::create_dir(&new).map_err(VolumeError::store("make", &new))?;
        if volume.spec.driver == Driver::Local {
            fs::create_dir(new.join(DATA)).map_err(VolumeError::store("make", &new))?;
        }
        write_record(&new, volume).map_err(VolumeError::store("write", &new))?;
        let place = self.place(name);
        let named = fs::rename(&new, &place).and_then(|()| fs::File::open(&self.root)?.sync_all());
        named.map_err(VolumeError::store("name", &place))
    }

    /// Whether `claim` would be refused.
    ///
    /// # Errors
    /// As those of `claim`.
    pub fn may_claim(
        &self,
        container: &ContainerId,
        names: &[VolumeName],
        claim: Claim,
        owner: Option<&UserName>,
    ) -> Result<(), VolumeError> {
        refuse(&self.lock(), container, names, claim, owner)
    }

    /// Makes local volumes a container's own, durably; those that do not exist are made, and have the container's user as
    /// their owner. Gives the names of these. It may be repeated.
    ///
    /// # Errors
    /// When one is another container's, for a container that arrives is there already, or is not the user's where it has
    /// to be; then none is claimed anew.
    pub fn claim(
        &self,
        container: &ContainerId,
        names: &[VolumeName],
        claim: Claim,
        owner: Option<&UserName>,
        now: &str,
    ) -> Result<Vec<VolumeName>, VolumeError> {
        let mut volumes = self.lock();
        refuse(&volumes, container, names, claim, owner)?;
        let mut made = Vec::new();
        for name in names {
            let mut known = volumes.get(name).cloned();
            if claim == Claim::Arrives && known.is_some() {
                // Left of an earlier stay of this container; it brings what is newer.
                self.unmake(name)?;
                volumes.remove(name);
                known = None;
            }
            let fresh = known.is_none();
            let mut volume = known.unwrap_or_else(|| {
                let spec = VolumeSpec { owner: owner.cloned(), ..VolumeSpec::local(name.clone(), now.to_owned()) };
                Volume { spec, container: None, used: claim == Claim::Arrives }
            });
            if fresh {
                volume.container = Some(container.clone());
                self.make(&volume)?;
                made.push(name.clone());
            } else if volume.container.is_none() {
                volume.container = Some(container.clone());
                self.write(&volume)?;
            }
            volumes.insert(name.clone(), volume);
        }
        Ok(made)
    }

    /// Remembers, durably, that a container has used a volume.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn mark_used(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let mut volumes = self.lock();
        let volume = volumes.get_mut(name).ok_or_else(|| VolumeError::Unknown(name.clone()))?;
        let changed = Volume { used: true, ..volume.clone() };
        self.write(&changed)?;
        *volume = changed;
        Ok(())
    }

    /// Lets go of all local volumes of a container, which stay. It may be repeated.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn release(&self, container: &ContainerId) -> Result<(), VolumeError> {
        let mut volumes = self.lock();
        for volume in volumes.values_mut().filter(|volume| volume.container.as_ref() == Some(container)) {
            let released = Volume { container: None, ..volume.clone() };
            self.write(&released)?;
            *volume = released;
        }
        Ok(())
    }

    /// Removes all local volumes of a container, with their files. It may be repeated.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_of(&self, container: &ContainerId) -> Result<(), VolumeError> {
        let mut volumes = self.lock();
        let own = |volume: &&Volume| volume.container.as_ref() == Some(container);
        let names: Vec<VolumeName> = volumes.values().filter(own).map(|volume| volume.spec.name.clone()).collect();
        for name in names {
            self.unmake(&name)?;
            volumes.remove(&name);
        }
        Ok(())
    }

    /// Removes a volume that belongs to no container, with the files of a local one.
    ///
    /// # Errors
    /// When there is none, it belongs to a container, or the disk refuses.
    pub fn remove(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let mut volumes = self.lock();
        let volume = volumes.get(name).ok_or_else(|| VolumeError::Unknown(name.clone()))?;
        if volume.container.is_some() {
            return Err(VolumeError::Taken(name.clone()));
        }
        self.unmake(name)?;
        volumes.remove(name);
        Ok(())
    }

    /// Takes the name away first: what is half removed is no volume any more.
    fn unmake(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let (place, removed) = (self.place(name), self.root.join(format!(".removed-{name}")));
        drover_sys::tree::remove(&removed).map_err(VolumeError::store("remove", &removed))?;
        match fs::rename(&place, &removed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(VolumeError::store("remove", &place))?,
        }
        drover_sys::tree::remove(&removed).map_err(VolumeError::store("remove", &removed))
    }

    fn write(&self, volume: &Volume) -> Result<(), VolumeError> {
        let place = self.place(&volume.spec.name);
        write_record(&place, volume).map_err(VolumeError::store("write", &place))
    }
}

/// Refuses a claim when one of the volumes is another container's, or not the user's where it has to be.
fn refuse(
    volumes: &BTreeMap<VolumeName, Volume>,
    container: &ContainerId,
    names: &[VolumeName],
    claim: Claim,
    owner: Option<&UserName>,
) -> Result<(), VolumeError> {
    for volume in names.iter().filter_map(|name| volumes.get(name)) {
        let name = volume.spec.name.clone();
        match &volume.container {
            _ if volume.spec.driver != Driver::Local => return Err(VolumeError::Kind(name)),
            Some(holder) if holder == container => {}
            Some(_) => return Err(VolumeError::Taken(name)),
            None if claim == Claim::Arrives => return Err(VolumeError::Exists(name)),
            None if claim == Claim::StartsAmongOwn && volume.spec.owner.as_ref() != owner => {
                return Err(VolumeError::Foreign(name));
            }
            None => {}
        }
    }
    Ok(())
}

fn write_record(directory: &Path, volume: &Volume) -> io::Result<()> {
    let temporary = directory.join("volume.json.new");
    let mut file = fs::File::create(&temporary)?;
    io::Write::write_all(&mut file, &serde_json::to_vec_pretty(volume)?)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(RECORD))?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod nfs_tests;
#[cfg(test)]
mod tests;
