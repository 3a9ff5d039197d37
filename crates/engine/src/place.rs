//! Making a container's place on this node, and removing it: directories, mounts, control group, network.
//!
//! Everything here blocks and is idempotent where it removes: it runs again after a crash at any point.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drover_container::shim::Request;
use drover_container::{Layout, Runc, prepare_dev};
use drover_disk::{Above, Overlay, is_mounted, mount_tmpfs, unmount};
use drover_model::{Bytes, ContainerSpec, Explained};
use drover_network::{Gate, Wire};
use drover_sys::cgroup::{self, Cgroup};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::container::Container;
use crate::error::failure;
use crate::node::Inner;
use crate::volumes::Fate;

/// The sizes of a container's tmpfs mounts.
const DEV: Bytes = Bytes(1 << 20);
const SHM: Bytes = Bytes(64 << 20);
const EMPTY: Bytes = Bytes(4096);
/// CRIU's images hold the container's memory: the container's own limit, or the node's memory, bounds it.
const CHECKPOINT: Bytes = Bytes(1 << 40);
/// How long the processes of a killed container may take to vanish.
const VANISH: Duration = Duration::from_secs(20);

fn step<E: std::error::Error + 'static>(attempt: &'static str) -> impl Fn(E) -> Explained {
    move |error| failure(attempt, &error)
}

/// Makes everything but the root file system: fit for a container that starts and for one that arrives.
pub(crate) fn make(container: &Container, uplink: &str, gate: Gate) -> Result<(), Explained> {
    let layout = &container.layout;
    let spec = container.spec();
    let directories = step("cannot make the container's directories");
    for directory in [layout.upper(), layout.work(), layout.log(), layout.rootfs(), layout.bundle()] {
        fs::create_dir_all(directory).map_err(&directories)?;
    }
    fs::set_permissions(layout.upper(), fs::Permissions::from_mode(0o755)).map_err(&directories)?;
    let mounts = step("cannot mount the container's file systems in memory");
    for (place, size, mode) in [(layout.dev(), DEV, 0o755), (layout.shm(), SHM, 0o1777), (layout.empty(), EMPTY, 0o555)]
    {
        fs::create_dir_all(&place).map_err(&directories)?;
        if !is_mounted(&place).map_err(&mounts)? {
            mount_tmpfs(&place, size, mode).map_err(&mounts)?;
        }
    }
    // What masks other directories must not become a place to leave files in.
    rustix::mount::mount_remount(layout.empty(), MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")
        .map_err(step("cannot make a mask read-only"))?;
    container.volumes.ready(&spec, layout)?;
    make_group(&container.cgroup, &spec)?;
    if !layout.netns().exists() {
        let wire = Wire::create(&layout.netns(), uplink, spec.interface.as_ref(), gate);
        container.set_wire(Some(wire.map_err(step("cannot make the container's network"))?));
    }
    Ok(())
}

/// Puts an empty file system in the place of `/dev`.
pub(crate) fn renew_dev(layout: &Layout) -> Result<(), Explained> {
    let failed = step("cannot empty /dev");
    unmount(&layout.dev(), true).map_err(&failed)?;
    mount_tmpfs(&layout.dev(), DEV, 0o755).map_err(&failed)
}

fn make_group(group: &Cgroup, spec: &ContainerSpec) -> Result<(), Explained> {
    let failed = step("cannot make the container's control group");
    group.create().map_err(&failed)?;
    let limits = &spec.limits;
    let memory = limits.memory.map(|memory| memory.0);
    group.apply(&cgroup::Limits { memory, cpu_millis: limits.cpu_millis, pids: limits.pids }).map_err(&failed)
}

/// Fills what a container that starts for the first time finds: `/dev`, and the files that tell it its name.
pub(crate) fn fill(layout: &Layout, spec: &ContainerSpec) -> Result<(), Explained> {
    if !layout.dev().join("null").exists() {
        prepare_dev(layout).map_err(step("cannot fill /dev"))?;
    }
    let address = spec.interface.as_ref().and_then(|interface| interface.addresses.first()).map(|net| net.addr());
    let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    if let Some(address) = address {
        hosts.push_str(&format!("{address}\t{}\n", spec.hostname));
    }
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let files = [("hosts", hosts), ("hostname", format!("{}\n", spec.hostname)), ("resolv.conf", resolver)];
    for (name, text) in files {
        write_inside(&layout.rootfs(), name, &text).map_err(step("cannot write the container's name and addresses"))?;
    }
    Ok(())
}

/// Writes a file into the container's `/etc`, which may be a link, but leads nowhere outside. Whatever else has the
/// file's name makes room for it: a link that leads nowhere, a fifo that would never be opened, a device.
fn write_inside(root: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let top = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::fs::mkdirat(&top, "etc", Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let etc = openat2(&top, "etc", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let regular = match rustix::fs::statat(&etc, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode).is_file()),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(error.into()),
    };
    if regular == Some(false) {
        rustix::fs::unlinkat(&etc, name, AtFlags::empty())?;
    }
    let (kind, mode) = match regular {
        Some(true) => (OFlags::TRUNC, Mode::empty()),
        _ => (OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o644)),
    };
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | kind;
    let file = openat2(&etc, name, flags, mode, ResolveFlags::BENEATH)?;
    fs::File::from(file).write_all(text.as_bytes())
}

/// Mounts the root: the trees of the image below, the topmost first, and the container's own layer above.
pub(crate) fn mount_root(layout: &Layout, image: &[PathBuf]) -> Result<(), Explained> {
    let failed = step("cannot mount the container's root");
    if is_mounted(&layout.rootfs()).map_err(&failed)? {
        return Ok(());
    }
    let (upper, work) = (layout.upper(), layout.work());
    Overlay { lower: image, above: Some(Above { upper: &upper, work: &work }) }.mount(&layout.rootfs()).map_err(&failed)
}

/// Makes the tmpfs for CRIU's images, and what is needed to set up the sandbox of a container that arrives.
pub(crate) fn make_checkpoint(layout: &Layout) -> Result<(), Explained> {
    let failed = step("cannot make room for the checkpoint");
    fs::create_dir_all(layout.checkpoint()).map_err(&failed)?;
    let failed_mount = step("cannot make room for the checkpoint");
    if !is_mounted(&layout.checkpoint()).map_err(&failed_mount)? {
        mount_tmpfs(&layout.checkpoint(), CHECKPOINT, 0o700).map_err(&failed_mount)?;
    }
    for directory in [layout.images(), layout.criu_work()] {
        fs::create_dir_all(directory).map_err(&failed)?;
    }
    Ok(())
}

/// Removes the checkpoint.
pub(crate) fn remove_checkpoint(layout: &Layout) {
    // Left mounted it is found by the next removal; nothing else depends on it.
    if let Err(error) = unmount(&layout.checkpoint(), true) {
        tracing::warn!(%error, "checkpoint is still mounted");
    }
    let _ = fs::remove_dir(layout.checkpoint());
}

/// Ends every process of the container, without a packet and without a word in its log when `quietly`.
pub(crate) fn end(container: &Container, quietly: bool) -> Result<(), Explained> {
    if quietly {
        // A shim that is gone has nothing to keep quiet about.
        let _ = container.shim().order(&Request::Discard);
    }
    if container.cgroup.exists() {
        let failed = step("cannot end the container's processes");
        container.cgroup.kill().map_err(&failed)?;
        container.cgroup.wait_empty(VANISH).map_err(&failed)?;
    }
    Ok(())
}

/// Removes everything that does not survive a reboot: the processes must have ended.
pub(crate) fn unmake_run(container: &Container, runc: &Runc) -> Result<(), Explained> {
    let layout = &container.layout;
    runc.delete(&container.id).map_err(step("cannot make runc forget the container"))?;
    container.set_wire(None);
    if layout.netns().exists() {
        drover_network::remove(&layout.netns()).map_err(step("cannot remove the container's network"))?;
    }
    let failed = step("cannot unmount the container's file systems");
    unmount(&layout.rootfs(), true).map_err(&failed)?;
    for place in layout.tmpfs_mounts() {
        unmount(&place, true).map_err(&failed)?;
    }
    container.volumes.unready(&container.id, layout).map_err(&failed)?;
    container.cgroup.remove().map_err(step("cannot remove the container's control group"))?;
    remove_tree(&layout.run)
}

/// Removes everything but, perhaps, the files of local volumes. Of files that are elsewhere a copy may be kept.
pub(crate) fn unmake(container: &Container, inner: &Inner, volumes: Fate) -> Result<(), Explained> {
    unmake_run(container, &inner.runc)?;
    if volumes == Fate::Go {
        inner.copies.keep(container);
    }
    // Before the record goes: whose they are must not be forgotten.
    container.volumes.leave(&container.id, volumes)?;
    remove_tree(&container.layout.state)
}

fn remove_tree(path: &Path) -> Result<(), Explained> {
    drover_sys::tree::remove(path).map_err(|error| failure("cannot remove the container's files", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_the_way_of_a_file_of_etc_makes_room() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        std::os::unix::fs::symlink("/nowhere/at-all", etc.join("resolv.conf")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, etc.join("hosts"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        fs::write(etc.join("hostname"), "a longer name that was there before").unwrap();
        for name in ["resolv.conf", "hosts", "hostname"] {
            write_inside(root.path(), name, "text").unwrap();
            assert_eq!(fs::read_to_string(etc.join(name)).unwrap(), "text");
            assert!(fs::symlink_metadata(etc.join(name)).unwrap().is_file());
        }
    }

    #[test]
    fn a_directory_of_links_leads_nowhere_outside() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc")).unwrap();
        write_inside(root.path(), "hosts", "text").unwrap_err();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
