//! `drover lab down`: takes away whatever there is of a lab, in whatever state it is.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde::Serialize;

use crate::cgroup::{self, Kind};
use crate::error::StepError;
use crate::lock::Lock;
use crate::mount::unmount_below;
use crate::place::{Place, PlaceError};
use crate::record::Record;

/// How long the processes of a lab have to die, and its cgroups to become free.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Whether there was a lab, or a part of one.
    pub existed: bool,
    /// Processes killed.
    pub processes: usize,
    /// Mounts unmounted.
    pub mounts: usize,
    /// Cgroups removed.
    pub cgroups: usize,
}

/// A lab that cannot be taken away.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// The caller is not root.
    #[error("cannot remove a lab: it needs root")]
    NotRoot,
    /// The environment names no place.
    #[error("cannot find the lab's place")]
    Place(#[from] PlaceError),
    /// A step failed.
    #[error("cannot remove the lab")]
    Step(#[from] StepError),
    /// Processes outlive SIGKILL.
    #[error("cannot end the lab's processes {0:?}")]
    Alive(Vec<i32>),
}

impl DownError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot => Some("run it with sudo".into()),
            Self::Place(error) => error.hint(),
            Self::Alive(_) => Some("they hang in the kernel (see /proc/PID/stack); try again later".into()),
            Self::Step(_) => None,
        }
    }
}

/// Takes the lab away; no lab is no error. The base stays.
///
/// # Errors
/// When something of it cannot be taken away; calling it again goes on where it stopped.
pub fn down() -> Result<Removed, DownError> {
    if !geteuid().is_root() {
        return Err(DownError::NotRoot);
    }
    let place = Place::from_environment()?;
    let _lock = Lock::take()?;
    remove(&place)
}

/// The same under the caller's lock.
pub(crate) fn remove(place: &Place) -> Result<Removed, DownError> {
    let trees = cgroup_trees(place);
    let mut removed = Removed { existed: place.run().exists() || place.directory().exists(), ..Removed::default() };
    removed.existed |= trees.iter().any(|(_, tree)| tree.exists());
    removed.processes = kill(&trees)?;
    removed.mounts = unmount_below(place.run())? + unmount_below(place.directory())?;
    removed.cgroups = remove_cgroups(&trees)?;
    remove_directory(place.directory())?;
    // Last, for the record in it says where the rest is.
    remove_directory(place.run())?;
    Ok(removed)
}

/// The lab's cgroup in every hierarchy: where the record says, and where this caller would make it.
fn cgroup_trees(place: &Place) -> Vec<(Kind, PathBuf)> {
    // An unreadable record must not keep the rest from being removed.
    let recorded = Record::read(place).ok().flatten().map(|record| record.cgroups).unwrap_or_default();
    let mut trees: Vec<_> = recorded
        .into_iter()
        .chain(cgroup::own().unwrap_or_default())
        .map(|hierarchy| (hierarchy.kind, hierarchy.parent.join(place.cgroup())))
        .collect();
    trees.sort_by(|(_, a), (_, b)| a.cmp(b));
    trees.dedup();
    trees
}

/// Kills until nothing is left, frozen containers included, and gives the number of processes.
fn kill(trees: &[(Kind, PathBuf)]) -> Result<usize, DownError> {
    let end = Instant::now() + PATIENCE;
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let mut alive = Vec::new();
        for (kind, tree) in trees {
            // Ends even what is forking now; only v2 has it. The pids below cover the rest.
            let _ = write_if_present(&tree.join("cgroup.kill"), "1");
            let cgroups = cgroup::subtree(tree);
            alive.extend(cgroups.iter().flat_map(|cgroup| cgroup::processes(cgroup)));
            for pid in alive.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            // A frozen v1 task takes its signal only when it is thawed.
            for cgroup in &cgroups {
                let _ = match kind {
                    Kind::V2 => write_if_present(&cgroup.join("cgroup.freeze"), "0"),
                    _ => write_if_present(&cgroup.join("freezer.state"), "THAWED"),
                };
            }
        }
        if alive.is_empty() {
            return Ok(seen.len());
        }
        if Instant::now() >= end {
            alive.sort_unstable();
            alive.dedup();
            return Err(DownError::Alive(alive));
        }
        seen.extend(alive);
        std::thread::sleep(PAUSE);
    }
}

/// Writes to a control file, but never makes one.
fn write_if_present(path: &Path, text: &str) -> std::io::Result<()> {
    if path.exists() { fs::write(path, text) } else { Ok(()) }
}

/// Removes the cgroups, the deepest first; one that is still busy with a dying process is tried again.
fn remove_cgroups(trees: &[(Kind, PathBuf)]) -> Result<usize, StepError> {
    let end = Instant::now() + PATIENCE;
    let mut count = 0;
    for directory in trees.iter().flat_map(|(_, tree)| cgroup::subtree(tree)) {
        loop {
            match fs::remove_dir(&directory) {
                Ok(()) => {
                    count += 1;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < end => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(StepError::at("remove cgroup", &directory)(error)),
            }
        }
    }
    Ok(count)
}

fn remove_directory(directory: &Path) -> Result<(), StepError> {
    drover_sys::tree::remove(directory).map_err(StepError::at("remove", directory))
}
