//! A host's root: an overlay over the shared base with everything mounted that a machine has.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root, umask};

use crate::cgroup::{self, Hierarchy, Kind};
use crate::error::StepError;
use crate::host::HostSpec;
use crate::record::make_directory;

/// Where hosts see the directory of the drover executable.
pub(crate) const PROGRAMS: &str = "/opt/drover";
/// Where hosts keep their state: a real disk, because an overlay cannot lie on an overlay.
const STATE: &str = "/var/lib/drover";
/// Flags for file systems that hold no programs and no devices.
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Device nodes: name, major, minor (Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 8] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("net/tun", 10, 200),
    ("fuse", 10, 229),
];

/// Builds the host's root and makes it the root of the calling process's mount namespace, which must be its own.
/// The old root is gone afterwards.
pub(crate) fn enter(spec: &HostSpec) -> Result<(), StepError> {
    let root = &spec.root;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(StepError::at("make private", Path::new("/")))?;
    overlay(spec)?;
    file_system(root, "proc", "proc", PLAIN, "")?;
    file_system(root, "sys", "sysfs", PLAIN, "")?;
    cgroups(root, &spec.cgroups)?;
    devices(root)?;
    file_system(root, "run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=755")?;
    make_directory(&root.join("run/lock"))?;
    make_directory(&root.join("run/drover-lab"))?;
    bind(&spec.state, root, STATE)?;
    let programs = bind(&spec.programs, root, PROGRAMS)?;
    mount_remount(&programs, MountFlags::BIND | MountFlags::RDONLY, "")
        .map_err(StepError::at("make read-only", &programs))?;
    // The new root is stacked on the old one at the same place, and then the old one is taken away.
    chdir(root).map_err(StepError::at("enter", root))?;
    pivot_root(".", ".").map_err(StepError::at("make the root", root))?;
    unmount(".", UnmountFlags::DETACH).map_err(StepError::of("unmount", "the old root"))?;
    chdir("/").map_err(StepError::at("enter", Path::new("/")))
}

fn overlay(spec: &HostSpec) -> Result<(), StepError> {
    let escaped = [&spec.base, &spec.upper, &spec.work].map(|path| escape(path));
    let [lower, upper, work] = escaped;
    let options = [b"lowerdir=", &*lower, b",upperdir=", &*upper, b",workdir=", &*work].concat();
    let options = CString::new(options).map_err(StepError::at("mount over", &spec.base))?;
    mount("overlay", &spec.root, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(StepError::at("mount the overlay at", &spec.root))
}

/// Overlayfs parts its options at `,` and `:` unless a backslash stands before them.
fn escape(path: &Path) -> Vec<u8> {
    let special = |byte: &u8| matches!(byte, b',' | b':' | b'\\');
    path.as_os_str()
        .as_bytes()
        .iter()
        .flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte]))
        .collect()
}

fn file_system(root: &Path, below: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), StepError> {
    let point = root.join(below);
    make_directory(&point)?;
    let options = CString::new(options).map_err(StepError::at("mount", &point))?;
    mount(kind, &point, kind, flags, options.as_c_str()).map_err(StepError::at("mount", &point))
}

/// Binds a directory; a symbolic link in the base cannot lead it astray, for these paths have none.
fn bind(source: &Path, root: &Path, target: &str) -> Result<PathBuf, StepError> {
    let point = root.join(target.trim_start_matches('/'));
    make_directory(&point)?;
    mount_bind(source, &point).map_err(StepError::at("bind", &point))?;
    Ok(point)
}

/// Mounts the host's own view of each hierarchy: the cgroup namespace makes the host's cgroup the root of each.
fn cgroups(root: &Path, hierarchies: &[Hierarchy]) -> Result<(), StepError> {
    let alone = hierarchies.len() == 1;
    if hierarchies.iter().any(|hierarchy| hierarchy.directory_name(alone).is_some()) {
        file_system(root, "sys/fs/cgroup", "tmpfs", PLAIN, "mode=755")?;
    }
    for hierarchy in hierarchies {
        let point = inside(hierarchy, alone);
        let below = point.strip_prefix("/").unwrap_or(&point);
        let kind = if hierarchy.kind == Kind::V2 { "cgroup2" } else { "cgroup" };
        file_system(root, &below.to_string_lossy(), kind, PLAIN, &hierarchy.mount_options().unwrap_or_default())?;
        // `cpu,cpuacct` is also found as `cpu` and as `cpuacct`.
        if let Kind::V1(all) = &hierarchy.kind {
            for one in all.split(',').filter(|one| one != all) {
                let link = root.join("sys/fs/cgroup").join(one);
                symlink(all, &link).map_err(StepError::at("link", &link))?;
            }
        }
    }
    Ok(())
}

/// Where the host sees a hierarchy.
pub(crate) fn inside(hierarchy: &Hierarchy, alone: bool) -> PathBuf {
    let directory = Path::new("/sys/fs/cgroup");
    hierarchy.directory_name(alone).map_or_else(|| directory.to_owned(), |name| directory.join(name))
}

/// Makes the host's cgroups for its own processes, in every hierarchy, and gives the directories of one of them.
pub(crate) fn make_cgroups(hierarchies: &[Hierarchy], name: &str) -> Result<Vec<PathBuf>, StepError> {
    let alone = hierarchies.len() == 1;
    let directories: Vec<_> = hierarchies.iter().map(|hierarchy| inside(hierarchy, alone).join(name)).collect();
    for directory in &directories {
        fs::create_dir(directory).map_err(StepError::at("create cgroup", directory))?;
    }
    Ok(directories)
}

/// Hands the host's v2 controllers on to its cgroups, after its first process has left their root.
pub(crate) fn delegate(hierarchies: &[Hierarchy]) {
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.kind == Kind::V2) {
        cgroup::delegate(&inside(hierarchy, hierarchies.len() == 1));
    }
}

fn devices(root: &Path) -> Result<(), StepError> {
    file_system(root, "dev", "tmpfs", MountFlags::NOSUID, "mode=755")?;
    let directory = root.join("dev");
    make_directory(&directory.join("net"))?;
    let usual = umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let path = directory.join(name);
        let mode = Mode::from_raw_mode(if name == "net/tun" { 0o600 } else { 0o666 });
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor))
            .map_err(StepError::at("create device", &path))?;
    }
    umask(usual);
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, target) in links {
        let path = directory.join(name);
        symlink(target, &path).map_err(StepError::at("link", &path))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    file_system(root, "dev/pts", "devpts", quiet, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    file_system(root, "dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_end_an_overlay_option() {
        assert_eq!(escape(Path::new("/a,b:c\\d")), b"/a\\,b\\:c\\\\d");
        assert_eq!(escape(Path::new("/var/lib/drover")), b"/var/lib/drover");
    }
}
