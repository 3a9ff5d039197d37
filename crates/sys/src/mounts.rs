//! Replacing what a container shows by something that is mounted outside of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_remount, move_mount, open_tree, unmount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A mount as another process sees it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    place: PathBuf,
    read_only: bool,
}

/// In the mount namespace of process `pid` puts what is mounted at `source` here in the place of every mount of the directory
/// `root` of the device `device` (`major:minor`). No process that could move directories there may run meanwhile. It may be
/// repeated: what has been replaced is not found any more.
///
/// # Errors
/// When the kernel refuses, as one older than 5.2 does.
pub fn replace_mounts(pid: u32, (device, root): (&str, &str), source: &Path) -> io::Result<()> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let shown: Vec<Shown> = text.lines().filter_map(|line| find(line, device, root)).collect();
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let mut replacements = Vec::new();
    for one in shown {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        replacements.push((one, open_tree(CWD, source, flags)?));
    }
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("replace-mounts".into()).spawn_scoped(scope, || {
            // Joining a mount namespace needs a working directory that no other thread shares.
            // SAFETY: without UnshareFlags::FILES no descriptor table is unshared, which is the one danger.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
            for (Shown { place, read_only }, tree) in &replacements {
                match unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                    Ok(()) | Err(Errno::INVAL) => {}
                    Err(errno) => return Err(io::Error::from(errno)),
                }
                move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
                let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
                mount_remount(place, if *read_only { flags | MountFlags::RDONLY } else { flags }, c"")?;
            }
            Ok(())
        })?;
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The place of a line of `/proc/PID/mountinfo`, if it is of that directory. Places with escapes are none of ours.
fn find(line: &str, device: &str, root: &str) -> Option<Shown> {
    let mut fields = line.split(' ').skip(2);
    if fields.next()? != device || fields.next()? != root {
        return None;
    }
    let (place, options) = (fields.next()?, fields.next()?);
    let read_only = options.split(',').any(|option| option == "ro");
    (!place.contains('\\')).then(|| Shown { place: place.into(), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_that_directory_are_found() {
        let line = "101 100 0:71 / /data ro,nosuid,nodev - fuse.sshfs h:/d rw";
        assert_eq!(find(line, "0:71", "/"), Some(Shown { place: "/data".into(), read_only: true }));
        assert_eq!(find(line, "0:71", "/other"), None);
        assert_eq!(find(line, "0:7", "/"), None);
    }
}
