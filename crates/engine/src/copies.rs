//! Copies of containers' files that stay where the files have been: on a node that a container left, and on one that it was
//! sent to without moving there. When it comes (back), only what differs crosses.
//!
//! A copy is `STATE/copies/ID` with a directory for each tree of files and `copy.json`. It is made and taken up by renaming,
//! and whatever is in it is right: the source is told of it file by file before anything is sent.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_model::{Bytes, ContainerId, ContainerName, CopyRecord, Explained, NodeName, UserName};
use serde::{Deserialize, Serialize};

use crate::container::{Container, lock};
use crate::error::NodeError;
use crate::node::{Inner, Node, blocking, now, since};
use crate::offer::tree_size;
use crate::trees;

/// How often copies are looked through for those that are too old.
const PAUSE: Duration = Duration::from_secs(3600);
const DAY: u64 = 24 * 3600;
/// Copies are kept only while this share of the disk is free.
const LEAST_FREE: u64 = 10;
/// The largest copy that is of use, in bytes: what a source believes of a target is bounded (`drover_disk::delta`).
const LARGEST: u64 = 240 << 30;
const RECORD: &str = "copy.json";
/// What the name of a copy that is being removed begins with.
const REMOVED: &str = ".removed-";

/// What is written beside the trees.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    name: ContainerName,
    kept_at: String,
    #[serde(default)]
    owner: Option<UserName>,
}

/// The copies on a node.
#[derive(Debug)]
pub(crate) struct Copies {
    top: PathBuf,
    /// For how many days; 0 for none at all.
    days: u32,
    turn: Mutex<()>,
}

impl Copies {
    pub fn open(state: &Path, days: u32) -> io::Result<Self> {
        let top = state.join("copies");
        fs::create_dir_all(&top)?;
        fs::set_permissions(&top, fs::Permissions::from_mode(0o700))?;
        Ok(Self { top, days, turn: Mutex::default() })
    }

    /// Refuses when no copy would be kept.
    pub fn check(&self) -> Result<(), Explained> {
        let refused =
            |reason: &str, hint: &str| Err(Explained { reason: reason.to_owned(), hint: Some(hint.to_owned()) });
        if self.days == 0 {
            let hint = "set keep_copies_days in its agent's configuration";
            return refused("this node keeps no copies of files of containers that are elsewhere", hint);
        }
        if self.is_short() {
            let reason = "this node keeps no copies, for less than a tenth of its disk is free";
            return refused(reason, "free disk space there, or choose another node");
        }
        Ok(())
    }

    fn is_short(&self) -> bool {
        self.free().is_ok_and(|(free, all)| free < all / LEAST_FREE)
    }

    /// Keeps the files of a container whose place here is being removed. Without them it only takes longer to come back.
    pub fn keep(&self, container: &Container) {
        if self.days == 0 || self.is_short() {
            return;
        }
        if let Err(error) = self.rename_in(container) {
            tracing::warn!(container = %container.spec().name, %error, "no copy of its files is kept");
        }
    }

    fn rename_in(&self, container: &Container) -> io::Result<()> {
        let holds = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        let trees = trees::own_on_disk(container);
        if !trees.iter().any(|(_, path)| holds(path)) {
            return Ok(());
        }
        self.put_away(&container.id)?;
        let _turn = lock(&self.turn);
        let copy = self.top.join(container.id.as_str());
        fs::create_dir(&copy)?;
        let spec = container.spec();
        let record = Kept { name: spec.name, kept_at: now(), owner: spec.owner };
        fs::write(copy.join(RECORD), serde_json::to_vec(&record)?)?;
        for (name, path) in trees.iter().filter(|(_, path)| path.exists()) {
            fs::rename(path, copy.join(name))?;
        }
        Ok(())
    }

    /// Gives a container that arrives the files that it left here; nothing of it is there or mounted yet. What cannot be given
    /// back is not lost: it crosses.
    pub fn give_back(&self, container: &Container) {
        if let Err(error) = self.rename_out(container) {
            tracing::warn!(container = %container.spec().name, %error, "not all of the copy of its files is taken up");
        }
    }

    fn rename_out(&self, container: &Container) -> io::Result<()> {
        let _turn = lock(&self.turn);
        let copy = self.top.join(container.id.as_str());
        if !copy.exists() {
            return Ok(());
        }
        if tree_size(&copy) > LARGEST {
            tracing::info!("a copy is too large to be told of, and removed");
            return drover_sys::tree::remove(&copy);
        }
        for (name, path) in trees::own_on_disk(container) {
            let kept = copy.join(name);
            if kept.exists() {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                // Onto an empty directory, if there is one.
                fs::rename(kept, path)?;
            }
        }
        drover_sys::tree::remove(&copy)
    }

    /// Removes a copy; whether there was one.
    fn put_away(&self, id: &ContainerId) -> io::Result<bool> {
        let removed = self.top.join(format!("{REMOVED}{id}"));
        {
            let _turn = lock(&self.turn);
            drover_sys::tree::remove(&removed)?;
            match fs::rename(self.top.join(id.as_str()), &removed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                result => result?,
            }
        }
        drover_sys::tree::remove(&removed).map(|()| true)
    }

    /// All copies, the oldest first.
    fn all(&self) -> Vec<(ContainerId, Kept)> {
        let mut all: Vec<(ContainerId, Kept)> = fs::read_dir(&self.top)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, record(&entry.path())?)))
            .collect();
        all.sort_by(|(_, a), (_, b)| a.kept_at.cmp(&b.kept_at));
        all
    }

    /// Removes what is too old, and what an interrupted keeping or removal has left.
    fn sweep(&self) {
        let lifetime = Duration::from_secs(u64::from(self.days) * DAY);
        for (id, _) in self.all().into_iter().filter(|(_, kept)| since(&kept.kept_at) >= lifetime) {
            if let Err(error) = self.put_away(&id) {
                tracing::warn!(%id, %error, "an old copy cannot be removed");
            }
        }
        for entry in fs::read_dir(&self.top).into_iter().flatten().flatten() {
            // One that is being kept or removed at the moment is not what it was when it was found.
            let _turn = lock(&self.turn);
            let is_removed = entry.file_name().to_string_lossy().starts_with(REMOVED);
            if (is_removed || record(&entry.path()).is_none())
                && let Err(error) = drover_sys::tree::remove(&entry.path())
            {
                tracing::warn!(%error, "leftovers of a copy");
            }
        }
    }

    /// How much disk is free, and how much there is, in bytes.
    fn free(&self) -> io::Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.top)?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Ok((bytes(disk.f_bavail), bytes(disk.f_blocks)))
    }

    /// How much room there could be for a container: its own copy counts as room, and so do those of others. Nothing is removed.
    pub fn room_there_could_be(&self) -> io::Result<u64> {
        let copies = self.all().into_iter().map(|(id, _)| tree_size(&self.top.join(id.as_str())));
        Ok(self.free()?.0.saturating_add(copies.sum()))
    }

    /// What is kept of a container's files, in bytes on the disk.
    pub fn kept_of(&self, container: &ContainerId) -> u64 {
        tree_size(&self.top.join(container.as_str()))
    }

    /// How much room there is for a container that needs this much: its own copy counts as room, and others make room if
    /// that is of use.
    pub fn room_for(&self, container: &ContainerId, needed: u64) -> io::Result<u64> {
        let size = |id: &ContainerId| self.kept_of(id);
        let own = size(container);
        let room = || self.free().map(|(free, _)| free.saturating_add(own));
        if room()? >= needed {
            return room();
        }
        let others: Vec<_> = self.all().into_iter().filter(|(id, _)| id != container).collect();
        if room()?.saturating_add(others.iter().map(|(id, _)| size(id)).sum()) >= needed {
            for (id, kept) in others {
                if room()? < needed && self.put_away(&id)? {
                    tracing::info!(container = %kept.name, "the copy of its files makes room");
                }
            }
        }
        room()
    }

    fn record(&self, node: &NodeName, id: ContainerId, kept: Kept) -> CopyRecord {
        let bytes = Bytes(tree_size(&self.top.join(id.as_str())));
        CopyRecord {
            id,
            name: kept.name,
            owner: kept.owner,
            node: node.clone(),
            kept_at: kept.kept_at,
            kept_days: self.days,
            bytes,
        }
    }
}

/// What is written beside the trees, if it can be read.
fn record(copy: &Path) -> Option<Kept> {
    serde_json::from_slice(&fs::read(copy.join(RECORD)).ok()?).ok()
}

impl Inner {
    /// Removes copies that are too old, for as long as the node is open.
    pub(crate) async fn sweep_copies(self: Arc<Self>) {
        let mut closing = self.closing.subscribe();
        loop {
            let inner = Arc::clone(&self);
            blocking(move || inner.copies.sweep()).await;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = closing.changed() => return,
            }
        }
    }
}

impl Node {
    /// The copies of files of containers that are elsewhere, the oldest first.
    pub async fn copies(&self) -> Vec<CopyRecord> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let each = |(id, kept)| inner.copies.record(&inner.config.name, id, kept);
            inner.copies.all().into_iter().map(each).collect()
        })
        .await
    }

    /// Whose the container is of which there is a copy here.
    ///
    /// # Errors
    /// When there is none.
    pub async fn copy_owner(&self, id: &ContainerId) -> Result<Option<UserName>, NodeError> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || match record(&inner.copies.top.join(id.as_str())) {
            Some(kept) => Ok(kept.owner),
            None => Err(NodeError::no_copy(&id)),
        })
        .await
    }

    /// Removes the copy of a container's files.
    ///
    /// # Errors
    /// When there is none, or the disk refuses.
    pub async fn remove_copy(&self, id: &ContainerId) -> Result<(), NodeError> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        blocking(move || match inner.copies.put_away(&id) {
            Ok(true) => Ok(()),
            Ok(false) => Err(NodeError::no_copy(&id)),
            Err(error) => Err(NodeError::failed("cannot remove the copy", &error)),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ContainerId {
        std::iter::repeat_n(digit, 32).collect::<String>().parse().unwrap()
    }

    fn keep(copies: &Copies, id: &ContainerId, kept_at: &str) {
        let copy = copies.top.join(id.as_str());
        fs::create_dir_all(copy.join("upper")).unwrap();
        fs::write(copy.join("upper/file"), vec![1; 100_000]).unwrap();
        let record = Kept { name: "web".parse().unwrap(), kept_at: kept_at.to_owned(), owner: None };
        fs::write(copy.join(RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
    }

    fn kept(copies: &Copies) -> Vec<ContainerId> {
        copies.all().into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn what_is_too_old_or_broken_is_swept_away() {
        let state = tempfile::tempdir().unwrap();
        let copies = Copies::open(state.path(), 7).unwrap();
        keep(&copies, &id('a'), "2020-01-01T00:00:00Z");
        keep(&copies, &id('b'), &now());
        fs::create_dir_all(copies.top.join(id('c').as_str()).join("upper")).unwrap();
        keep(&copies, &id('e'), &now());
        fs::write(copies.top.join(id('e').as_str()).join(RECORD), "").unwrap();
        fs::create_dir(copies.top.join(format!("{REMOVED}{}", id('d')))).unwrap();
        copies.sweep();
        assert_eq!(kept(&copies), [id('b')]);
        assert_eq!(fs::read_dir(&copies.top).unwrap().count(), 1, "nothing else is left");
        let none = Copies::open(state.path(), 0).unwrap();
        assert!(none.check().is_err() && copies.check().is_ok());
        none.sweep();
        assert_eq!(kept(&none), []);
    }

    #[test]
    fn the_oldest_copies_make_room_if_that_is_of_use() {
        let state = tempfile::tempdir().unwrap();
        let copies = Copies::open(state.path(), 7).unwrap();
        for (digit, kept_at) in
            [('a', "2026-01-01T00:00:00Z"), ('b', "2026-01-02T00:00:00Z"), ('c', "2026-01-03T00:00:00Z")]
        {
            keep(&copies, &id(digit), kept_at);
        }
        assert!(copies.room_for(&id('b'), 1).unwrap() > 1);
        let refused = copies.room_for(&id('b'), u64::MAX).unwrap();
        assert!(refused < u64::MAX);
        assert_eq!(kept(&copies), [id('a'), id('b'), id('c')], "what would not be enough is not removed");
        assert!(copies.put_away(&id('a')).unwrap() && !copies.put_away(&id('a')).unwrap());
    }
}
