//! The lab's cgroups: one subtree under the caller's own cgroup in every hierarchy, v1, v2 or both.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::StepError;
use crate::mount::{self, Mount};

/// The cgroup of a host's first process.
pub(crate) const INIT: &str = "init";
/// The cgroup of a host's agent.
pub(crate) const AGENT: &str = "agent";
/// The cgroup of what `drover lab exec` starts.
pub(crate) const EXEC: &str = "exec";

/// Which hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// v1 controllers, as the kernel lists them: `cpu,cpuacct`.
    V1(String),
    /// A v1 hierarchy without controllers, by its name: `systemd`.
    Named(String),
    /// The one v2 hierarchy.
    V2,
}

/// The lab's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// Which hierarchy.
    pub kind: Kind,
    /// The directory of the caller's cgroup, in which the lab's is made.
    pub parent: PathBuf,
    /// Where it is mounted.
    pub mounted: PathBuf,
}

/// The caller's cgroups: `cgroup` is `/proc/self/cgroup`, `mounts` are the caller's. A hierarchy that is not mounted,
/// or whose mount does not show the caller's cgroup, is left out.
pub(crate) fn parse(cgroup: &str, mounts: &[Mount]) -> Vec<Hierarchy> {
    cgroup.lines().filter_map(|line| parse_line(line, mounts)).collect()
}

fn parse_line(line: &str, mounts: &[Mount]) -> Option<Hierarchy> {
    // ID:CONTROLLERS:PATH, cgroups(7)
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let kind = match controllers.strip_prefix("name=") {
        Some(name) => Kind::Named(name.to_owned()),
        None if controllers.is_empty() => Kind::V2,
        None => Kind::V1(controllers.to_owned()),
    };
    let shows = |mount: &&Mount| match &kind {
        Kind::V2 => mount.kind == "cgroup2",
        Kind::Named(_) => mount.kind == "cgroup" && mount.options.iter().any(|option| option == controllers),
        Kind::V1(all) => mount.kind == "cgroup" && all.split(',').all(|one| mount.options.iter().any(|o| o == one)),
    };
    mounts.iter().filter(shows).find_map(|mount| {
        let inside = Path::new(path).strip_prefix(&mount.root).ok()?;
        // join("") would leave a slash at the end.
        let parent = if inside.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(inside) };
        Some(Hierarchy { kind: kind.clone(), parent, mounted: mount.point.clone() })
    })
}

/// The caller's cgroups, on v2 the nearest one above it that can hand its controllers on.
pub(crate) fn own() -> Result<Vec<Hierarchy>, StepError> {
    let path = Path::new("/proc/self/cgroup");
    let text = fs::read_to_string(path).map_err(StepError::at("read", path))?;
    Ok(parse(&text, &mount::all()?))
}

impl Hierarchy {
    /// The name of its directory under `/sys/fs/cgroup`; none for a v2 hierarchy that is alone.
    pub(crate) fn directory_name(&self, alone: bool) -> Option<&str> {
        match &self.kind {
            Kind::V1(name) | Kind::Named(name) => Some(name),
            Kind::V2 if alone => None,
            Kind::V2 => Some("unified"),
        }
    }

    /// The options that mount it.
    pub(crate) fn mount_options(&self) -> Option<String> {
        match &self.kind {
            Kind::V1(controllers) => Some(controllers.clone()),
            Kind::Named(name) => Some(format!("none,name={name}")),
            Kind::V2 => None,
        }
    }

    /// Makes the directory `below` (a relative path) in the hierarchy, fit for processes. On v2 those above it hand
    /// their controllers on, and it does not: a cgroup that does could take no process.
    pub(crate) fn create(&self, below: &Path) -> Result<PathBuf, StepError> {
        let mut directory = self.parent.clone();
        for part in below {
            let parent = directory.clone();
            directory.push(part);
            if self.kind == Kind::V2 && parent != self.parent {
                delegate(&parent);
            }
            match fs::create_dir(&directory) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made.map_err(StepError::at("create cgroup", &directory))?,
            }
            match &self.kind {
                // A new v1 cpuset is empty, and an empty one refuses processes.
                Kind::V1(all) if all.split(',').any(|one| one == "cpuset") => copy_cpuset(&parent, &directory)?,
                _ => {}
            }
        }
        Ok(directory)
    }
}

fn copy_cpuset(from: &Path, to: &Path) -> Result<(), StepError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = from.join(file);
        let value = fs::read(&path).map_err(StepError::at("read", &path))?;
        let path = to.join(file);
        fs::write(&path, value).map_err(StepError::at("write", &path))?;
    }
    // Containers' runtimes then need not do the same at every level.
    let path = to.join("cgroup.clone_children");
    fs::write(&path, "1").map_err(StepError::at("write", &path))
}

/// The controllers that a container's limits need.
const LIMITS: [&str; 3] = ["cpu", "memory", "pids"];

/// Hands every controller of a v2 cgroup that the kernel lets go to its children; true when those for limits are among
/// them or the cgroup has none at all.
pub(crate) fn delegate(directory: &Path) -> bool {
    let words = |file: &str| -> Vec<String> {
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let has = words("cgroup.controllers");
    let control = directory.join("cgroup.subtree_control");
    for controller in &has {
        // One by one: a controller that is refused (a realtime process, processes in this cgroup) stops no other.
        let _ = fs::write(&control, format!("+{controller}"));
    }
    let gives = words("cgroup.subtree_control");
    LIMITS.iter().all(|limit| gives.iter().any(|one| one == limit))
}

/// On a machine with v2 alone, moves the lab to the nearest cgroup above the caller's that can hand the controllers
/// for limits on: a cgroup that holds processes, as a login session's does, cannot. False when none can.
pub(crate) fn find_delegating(hierarchies: &mut [Hierarchy]) -> bool {
    let [Hierarchy { kind: Kind::V2, parent, mounted }] = hierarchies else { return true };
    let found = parent.ancestors().take_while(|above| above.starts_with(&*mounted)).find(|above| delegate(above));
    match found {
        Some(above) => {
            *parent = above.to_owned();
            true
        }
        None => false,
    }
}

/// Opens the `cgroup.procs` of a host's `cgroup` in every hierarchy for writing: whoever writes `0` moves there.
pub(crate) fn entrances(directories: impl Iterator<Item = PathBuf>) -> Result<Vec<File>, StepError> {
    directories
        .map(|directory| {
            let path = directory.join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(StepError::at("open", &path))
        })
        .collect()
}

/// The processes directly in one cgroup; none when it does not exist. Those of other pid namespaces are left out.
pub(crate) fn processes(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// A cgroup and all below it, the deepest first.
pub(crate) fn subtree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        open.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        found.push(directory);
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cgroup: &str, mountinfo: &str) -> Vec<(Kind, String)> {
        let hierarchies = parse(cgroup, &mount::parse(mountinfo.as_bytes()));
        hierarchies.into_iter().map(|h| (h.kind, h.parent.display().to_string())).collect()
    }

    #[test]
    fn a_hybrid_machine_has_each_controller_the_named_and_the_unified_hierarchy() {
        let cgroup = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/\n0::/\n";
        let mountinfo = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
        let expected = [
            (Kind::Named("systemd".into()), "/sys/fs/cgroup/systemd".to_owned()),
            (Kind::V1("memory".into()), "/sys/fs/cgroup/memory/a/b".to_owned()),
            (Kind::V1("cpu,cpuacct".into()), "/sys/fs/cgroup/cpu,cpuacct".to_owned()),
            (Kind::V2, "/sys/fs/cgroup/unified".to_owned()),
        ];
        assert_eq!(found(cgroup, mountinfo), expected);
    }

    #[test]
    fn a_v2_machine_has_one_hierarchy_and_a_v1_machine_none_that_is_unified() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let session = "/sys/fs/cgroup/user.slice/session-1.scope".to_owned();
        assert_eq!(found("0::/user.slice/session-1.scope\n", v2), [(Kind::V2, session)]);
        let v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(found("4:memory:/\n0::/\n", v1).len(), 1);
    }

    #[test]
    fn a_mount_that_shows_a_part_of_the_hierarchy_counts_from_there() {
        let inside = "35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(found("4:memory:/docker/x/y\n", inside)[0].1, "/sys/fs/cgroup/memory/y");
        assert!(found("4:memory:/elsewhere\n", inside).is_empty());
    }
}
