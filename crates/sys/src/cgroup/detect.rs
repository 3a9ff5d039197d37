//! Finding the mounted hierarchies, from `/proc/self/mountinfo` and `/proc/self/cgroup` (proc(5), cgroups(7)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::CgroupError;
use super::file::read;

/// Which versions of control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 1 alone.
    V1,
    /// Version 1 with controllers, and version 2 beside it.
    Hybrid,
    /// Version 2 alone.
    V2,
}

/// A mounted version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Legacy {
    /// Its controllers, or its one name as in `name=systemd`.
    pub controllers: Vec<String>,
    /// The directory below which groups are made.
    pub base: PathBuf,
}

/// All mounted hierarchies, each with the directory below which groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    pub(super) legacy: Vec<Legacy>,
    pub(super) unified: Option<PathBuf>,
}

impl Hierarchies {
    /// Finds what is mounted in the tree at `root` (`/` outside of tests).
    ///
    /// As with `cgroupsPath` in the OCI runtime specification, an absolute `base` (`/`) lies below every hierarchy's
    /// mount point; a relative one (the empty string) below the group that this process is in, hierarchy by hierarchy.
    ///
    /// # Errors
    /// When the two files cannot be read or no hierarchy is mounted.
    pub fn detect(root: &Path, base: &str) -> Result<Self, CgroupError> {
        let mountinfo_path = root.join("proc/self/mountinfo");
        let mountinfo = read(&mountinfo_path)?;
        let memberships = read(&root.join("proc/self/cgroup"))?;
        let found = Self::parse(root, base, &mountinfo, &memberships);
        if found.legacy.is_empty() && found.unified.is_none() {
            let nothing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(CgroupError::new("find a mounted control group hierarchy in", mountinfo_path, nothing));
        }
        Ok(found)
    }

    /// The same from the two files' texts; without hierarchies when none is mounted.
    #[must_use]
    pub fn parse(root: &Path, base: &str, mountinfo: &str, memberships: &str) -> Self {
        let memberships: Vec<Membership<'_>> = memberships.lines().filter_map(Membership::parse).collect();
        let mut found = Self { legacy: Vec::new(), unified: None };
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            let options: Vec<&str> = mount.options.split(',').collect();
            let membership = match mount.kind {
                "cgroup2" => memberships.iter().find(|m| m.controllers.is_empty()),
                _ => memberships.iter().find(|m| m.controllers.iter().all(|c| options.contains(c)) && !m.is_unified()),
            };
            let own = membership.map_or(Path::new(""), |m| beneath(m.path, &mount.root));
            let point = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
            let base = match base.strip_prefix('/') {
                Some(absolute) => point.join(absolute),
                None => point.join(own).join(base),
            };
            match (mount.kind, membership) {
                ("cgroup2", _) => found.unified = found.unified.or(Some(base)),
                (_, Some(membership)) => {
                    let controllers: Vec<String> = membership.controllers.iter().map(|&c| c.to_owned()).collect();
                    if !found.legacy.iter().any(|legacy| legacy.controllers == controllers) {
                        found.legacy.push(Legacy { controllers, base });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Which versions are mounted.
    #[must_use]
    pub fn layout(&self) -> Layout {
        match (self.legacy.is_empty(), self.unified.is_some()) {
            (true, _) => Layout::V2,
            (false, true) => Layout::Hybrid,
            (false, false) => Layout::V1,
        }
    }

    pub(super) fn legacy_base(&self, controller: &str) -> Option<&Path> {
        self.legacy.iter().find(|l| l.controllers.iter().any(|c| c == controller)).map(|l| l.base.as_path())
    }
}

/// A line of `/proc/self/cgroup`: `ID:CONTROLLERS:PATH`.
struct Membership<'a> {
    controllers: Vec<&'a str>,
    path: &'a Path,
}

impl<'a> Membership<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?.split(',').filter(|c| !c.is_empty()).collect();
        Some(Self { controllers, path: Path::new(fields.next()?) })
    }

    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// A control group mount in `/proc/self/mountinfo`.
struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (unescape(left.next()?), unescape(left.next()?));
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        matches!(kind, "cgroup" | "cgroup2").then_some(Self { root, point, kind, options })
    }
}

/// A membership's path as seen from a mount that shows the hierarchy from `mount_root` on.
fn beneath<'a>(path: &'a Path, mount_root: &Path) -> &'a Path {
    let inside = path.strip_prefix(mount_root).unwrap_or(Path::new(""));
    // A path that leaves the control group namespace ("/../x") names nothing that can be reached through the mount.
    let reachable = inside.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if reachable { inside } else { Path::new("") }
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            bytes.push(digits.iter().fold(0u8, |value, digit| (value << 3) | (digit - b'0')));
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:32 / /srv/again rw,relatime - cgroup cgroup rw,memory
";
    const HYBRID_MEMBERSHIPS: &str = "\
9:name=systemd:/
4:memory:/machine/seven
2:cpu,cpuacct:/
0::/
";

    #[test]
    fn hybrid_is_seen_with_every_hierarchy_once() {
        let found = Hierarchies::parse(Path::new("/"), "/", HYBRID, HYBRID_MEMBERSHIPS);
        assert_eq!(found.layout(), Layout::Hybrid);
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.legacy.len(), 3);
        assert_eq!(found.legacy_base("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(found.legacy_base("memory"), Some(Path::new("/sys/fs/cgroup/memory")));
    }

    #[test]
    fn a_relative_base_lies_below_the_own_group_of_each_hierarchy() {
        let found = Hierarchies::parse(Path::new("/"), "", HYBRID, HYBRID_MEMBERSHIPS);
        assert_eq!(found.legacy_base("memory"), Some(Path::new("/sys/fs/cgroup/memory/machine/seven")));
        assert_eq!(found.legacy_base("cpu"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
    }

    #[test]
    fn version_2_alone_is_seen_and_a_mount_of_a_part_is_understood() {
        let mounts = "30 23 0:26 /kube/pod1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(Path::new("/"), "", mounts, "0::/kube/pod1/agent\n");
        assert_eq!(found.layout(), Layout::V2);
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/agent")));
    }

    #[test]
    fn version_1_alone_is_seen() {
        let mounts = "35 31 0:32 / /cg\\040v1/memory rw - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(Path::new("/"), "/", mounts, "4:memory:/\n");
        assert_eq!(found.layout(), Layout::V1);
        assert_eq!(found.legacy_base("memory"), Some(Path::new("/cg v1/memory")));
    }

    #[test]
    fn a_membership_outside_the_namespace_falls_back_to_the_mount() {
        let mounts = "30 23 0:26 /.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(Path::new("/"), "", mounts, "0::/../x\n");
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/x")));
        let found = Hierarchies::parse(Path::new("/"), "", &mounts.replace("/..", "/"), "0::/../x\n");
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/")));
    }
}
