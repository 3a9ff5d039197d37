//! One group: making it, moving processes into it, and removing it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::file::{CgroupError, read, write};
use super::{Hierarchies, population};

/// How often the removal of a directory that is still busy is tried again, and how long each wait is: after a kill the
/// kernel lets go of a group a moment later than of its last process.
const REMOVAL_ATTEMPTS: u32 = 100;
const REMOVAL_WAIT: Duration = Duration::from_millis(5);

/// Controllers of version 2 that are switched on for our groups when the kernel offers them.
const WANTED: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// One group: the same relative path in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    relative: PathBuf,
}

impl Cgroup {
    /// Names the group at `relative` (as in `drover/ID`) below the base of each hierarchy. Nothing is made.
    ///
    /// # Errors
    /// When `relative` is empty, absolute, or contains `..`.
    pub fn at(hierarchies: &Hierarchies, relative: impl AsRef<Path>) -> Result<Self, CgroupError> {
        let relative = relative.as_ref();
        let normal = relative.components().all(|component| matches!(component, Component::Normal(_)));
        if relative.as_os_str().is_empty() || !normal {
            return Err(CgroupError::new("name the group", relative, io::Error::from(io::ErrorKind::InvalidInput)));
        }
        Ok(Self { hierarchies: hierarchies.clone(), relative: relative.to_owned() })
    }

    /// The group's directory in the version 2 hierarchy.
    #[must_use]
    pub fn unified(&self) -> Option<PathBuf> {
        self.hierarchies.unified.as_ref().map(|base| base.join(&self.relative))
    }

    /// The group's directory in the version 1 hierarchy that has `controller`.
    #[must_use]
    pub fn legacy(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies.legacy_base(controller).map(|base| base.join(&self.relative))
    }

    /// The group's directories, version 1 first.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.bases().map(|base| base.join(&self.relative)).collect()
    }

    /// Whether the group exists in at least one hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|directory| directory.is_dir())
    }

    fn bases(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.legacy.iter().map(|l| l.base.as_path()).chain(self.hierarchies.unified.as_deref())
    }

    /// Makes the group in every hierarchy; one that exists is left as it is.
    ///
    /// Version 1's cpuset is filled from the parent, without which no process can enter. In version 2 the available
    /// controllers are switched on from the base down; one that cannot be is noticed by [`Cgroup::apply`].
    ///
    /// # Errors
    /// When a directory cannot be made; those made before stay and [`Cgroup::remove`] removes them.
    pub fn create(&self) -> Result<(), CgroupError> {
        for legacy in &self.hierarchies.legacy {
            let has_cpuset = legacy.controllers.iter().any(|controller| controller == "cpuset");
            self.make_down(
                &legacy.base,
                |parent, child| {
                    if has_cpuset { inherit_cpuset(parent, child) } else { Ok(()) }
                },
            )?;
        }
        if let Some(base) = &self.hierarchies.unified {
            self.make_down(base, |parent, _| {
                switch_controllers_on(parent);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn make_down(
        &self,
        base: &Path,
        made: impl Fn(&Path, &Path) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let mut parent = base.to_owned();
        for component in self.relative.components() {
            let child = parent.join(component);
            match std::fs::create_dir(&child) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(CgroupError::new("make the group", child, error));
                }
                _ => made(&parent, &child)?,
            }
            parent = child;
        }
        Ok(())
    }

    /// Moves a process with all its threads into the group, in every hierarchy.
    ///
    /// # Errors
    /// When the kernel refuses in any hierarchy; the process may then be in the group in some of them.
    pub fn join(&self, pid: u32) -> Result<(), CgroupError> {
        let text = pid.to_string();
        self.directories().iter().try_for_each(|directory| write(&directory.join("cgroup.procs"), &text))
    }

    /// Moves the calling process into the group, in every hierarchy.
    ///
    /// # Errors
    /// As [`Cgroup::join`].
    pub fn join_self(&self) -> Result<(), CgroupError> {
        self.directories().iter().try_for_each(|directory| write(&directory.join("cgroup.procs"), "0"))
    }

    /// Makes moves into groups, by anybody, quick for some milliseconds. The calling process, which is in this group,
    /// stays there.
    ///
    /// A move waits until every processor has passed through a quiet state (5 to 30 ms), unless another one has just
    /// done so: `cgroup_threadgroup_rwsem`, whose writers wait for a grace period of RCU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stir(&self) -> Result<(), CgroupError> {
        self.directories().iter().take(1).try_for_each(|directory| write(&directory.join("cgroup.procs"), "0"))
    }

    /// Opens the group's doors for a child that is about to be made.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn entrance(&self) -> Result<Entrance, CgroupError> {
        let open = |directory: &PathBuf| {
            let path = directory.join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(|error| CgroupError::new("open", path, error))
        };
        Ok(Entrance { doors: self.directories().iter().map(open).collect::<Result<_, _>>()? })
    }

    /// Removes the group and the groups below it from every hierarchy; one that does not exist is no error.
    ///
    /// # Errors
    /// When processes are still in it after a bounded number of attempts (half a second).
    pub fn remove(&self) -> Result<(), CgroupError> {
        for directory in self.directories() {
            // Children first.
            for group in population::tree(&directory).into_iter().rev() {
                remove_directory(&group)?;
            }
        }
        Ok(())
    }
}

/// The open doors of a group. A forked child goes through them before it executes its program, with nothing but
/// `write` calls: fit for `pre_exec`.
#[derive(Debug)]
pub struct Entrance {
    doors: Vec<File>,
}

impl Entrance {
    /// Moves the calling process into the group. Allocates nothing.
    ///
    /// # Errors
    /// When the kernel refuses in any hierarchy.
    pub fn enter(&self) -> io::Result<()> {
        self.doors.iter().try_for_each(|mut door| door.write_all(b"0"))
    }
}

fn remove_directory(directory: &Path) -> Result<(), CgroupError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempts < REMOVAL_ATTEMPTS => {
                std::thread::sleep(REMOVAL_WAIT);
            }
            Err(error) => return Err(CgroupError::new("remove the group", directory, error)),
        }
    }
}

fn inherit_cpuset(parent: &Path, child: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = child.join(name);
        if read(&own)?.trim().is_empty() {
            write(&own, read(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

/// Switches the wanted controllers on for the children of `parent`, one by one so that one which the kernel refuses
/// (a group that holds processes itself) does not keep the others off.
fn switch_controllers_on(parent: &Path) {
    let available = std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    let control = parent.join("cgroup.subtree_control");
    let on = std::fs::read_to_string(&control).unwrap_or_default();
    let is_in = |list: &str, wanted: &str| list.split_whitespace().any(|name| name == wanted);
    for wanted in WANTED.into_iter().filter(|wanted| is_in(&available, wanted) && !is_in(&on, wanted)) {
        let _ = write(&control, &format!("+{wanted}"));
    }
}
