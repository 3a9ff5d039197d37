//! The mounts of a container that CRIU shall not dump: they are made anew on the target and filled by us.
//!
//! CRIU would pack each tmpfs with forked `tar` and `gzip` (10 ms each at dump, 5 at restore, even empty).

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};

use crate::Layout;

/// A mount inside the container that is bound from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Where it is mounted, as seen inside.
    pub mountpoint: String,
    /// What is mounted there.
    pub source: ExternalSource,
}

/// What an external mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalSource {
    /// The container's `/dev`, or one file of it.
    Dev(String),
    /// Its `/dev/shm`.
    Shm,
    /// Nothing: an empty directory that masks another.
    Empty,
    /// What the specification mounts at this place in its list.
    Volume(usize),
}

/// A mount that can be neither dumped by CRIU nor made anew.
#[derive(Debug, thiserror::Error)]
pub enum UnknownMount {
    /// The list of mounts, or a directory of ours, cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// A line of the list makes no sense.
    #[error("cannot parse mount {0:?}")]
    Parse(String),
    /// A mount of a device that was removed since, or replaced: on the target nobody could tell what it should show.
    #[error("a program has removed from /dev what is mounted at {mountpoint}")]
    Removed {
        /// Where it is, as seen inside.
        mountpoint: String,
        /// What is there instead.
        source: io::Error,
    },
    /// A mount of a kind that was not made by Drover.
    #[error("mount {mountpoint} of type {kind} cannot travel")]
    Kind {
        /// Where it is, as seen inside.
        mountpoint: String,
        /// Its file system.
        kind: String,
    },
}

/// File systems that CRIU makes anew by itself, without content.
const NATIVE: [&str; 4] = ["proc", "sysfs", "devpts", "mqueue"];

impl External {
    /// The external mounts of the container whose first process is `pid`.
    ///
    /// # Errors
    /// For a mount that cannot travel.
    pub fn of(pid: u32, layout: &Layout) -> Result<Vec<Self>, UnknownMount> {
        let device = |path: PathBuf| match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.dev()),
            Err(error) => Err(UnknownMount::Read(path, error)),
        };
        let own = Devices { dev: device(layout.dev())?, shm: device(layout.shm())?, empty: device(layout.empty())? };
        let mounts = |process: &str| {
            let path = PathBuf::from(format!("/proc/{process}/mountinfo"));
            fs::read_to_string(&path).map_err(|error| UnknownMount::Read(path, error))
        };
        // No file system is asked: one that cannot be reached would not answer.
        let externals = Self::among(&mounts(&pid.to_string())?, own, &mounts("self")?, &layout.volumes())?;
        for external in &externals {
            let removed = |source| UnknownMount::Removed { mountpoint: external.mountpoint.clone(), source };
            external.locate(layout).map_err(removed)?;
        }
        Ok(externals)
    }

    /// The same from the texts of `/proc/PID/mountinfo`: `inside` is the container's, `outside` is ours, in which what is
    /// mounted in the container stands ready below `volumes`.
    ///
    /// # Errors
    /// For a mount that cannot travel.
    pub fn among(inside: &str, own: Devices, outside: &str, volumes: &Path) -> Result<Vec<Self>, UnknownMount> {
        classify(inside, own, &staged(outside, volumes))
    }

    /// Whether it is mounted at a plain place of the container, and shows nothing but what is the container's: what a peer
    /// says may be anything.
    #[must_use]
    pub fn stays_inside(&self) -> bool {
        let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let place = Path::new(&self.mountpoint).strip_prefix("/");
        let shows = match &self.source {
            // The directory itself has no name.
            ExternalSource::Dev(file) => plain(Path::new(file)),
            ExternalSource::Shm | ExternalSource::Empty | ExternalSource::Volume(_) => true,
        };
        // CRIU is told in one text where what is mounted: `mnt[PLACE]:PATH`.
        shows && place.is_ok_and(plain) && !self.mountpoint.contains(|c: char| c == ']' || c.is_control())
    }

    /// Where the target finds it, once the trees have arrived. The container's `/dev` is one of them: in the place of a device
    /// may be a link to anything on the node, which is not followed.
    ///
    /// # Errors
    /// When what it shows is not there, or only by a link.
    pub fn locate(&self, layout: &Layout) -> io::Result<PathBuf> {
        let path = self.path(layout);
        if let ExternalSource::Dev(file) = &self.source
            && !file.is_empty()
        {
            let dev = fs::File::open(layout.dev())?;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            // Nobody changes it any more: the container does not run yet.
            openat2(dev, file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        }
        Ok(path)
    }

    /// Where the target finds it.
    #[must_use]
    pub fn path(&self, layout: &Layout) -> PathBuf {
        match &self.source {
            ExternalSource::Dev(file) => layout.dev().join(file),
            ExternalSource::Shm => layout.shm(),
            ExternalSource::Empty => layout.empty(),
            ExternalSource::Volume(index) => layout.volume(*index),
        }
    }
}

/// The devices of the node's file systems that a container sees.
#[derive(Debug, Clone, Copy)]
pub struct Devices {
    /// Of its `/dev`.
    pub dev: u64,
    /// Of its `/dev/shm`.
    pub shm: u64,
    /// Of the empty directory that masks others.
    pub empty: u64,
}

/// What stands ready for the container: the device and the directory on it, and the place in the specification's list.
type Staged = HashMap<(u64, String), usize>;

/// Finds in our own list of mounts what stands ready below `volumes`.
fn staged(mountinfo: &str, volumes: &Path) -> Staged {
    let mounts = mountinfo.lines().filter_map(Mount::parse);
    let staged = mounts.filter_map(|mount| {
        let name = Path::new(mount.mountpoint).strip_prefix(volumes).ok()?;
        Some(((mount.device, mount.root.to_owned()), name.to_str()?.parse().ok()?))
    });
    staged.collect()
}

fn classify(mountinfo: &str, own: Devices, staged: &Staged) -> Result<Vec<External>, UnknownMount> {
    let mut externals = Vec::new();
    for line in mountinfo.lines() {
        let mount = Mount::parse(line).ok_or_else(|| UnknownMount::Parse(line.to_owned()))?;
        if mount.mountpoint == "/" || NATIVE.contains(&mount.kind) {
            continue;
        }
        let source = if mount.device == own.dev {
            ExternalSource::Dev(mount.root.trim_start_matches('/').to_owned())
        } else if mount.device == own.shm {
            ExternalSource::Shm
        } else if let Some(index) = staged.get(&(mount.device, mount.root.to_owned())) {
            ExternalSource::Volume(*index)
        } else if mount.device == own.empty || mount.kind == "tmpfs" && mount.read_only {
            // runc masks with a read-only tmpfs; after a restore the same is done by our empty one.
            ExternalSource::Empty
        } else {
            return Err(UnknownMount::Kind { mountpoint: mount.mountpoint.to_owned(), kind: mount.kind.to_owned() });
        };
        externals.push(External { mountpoint: mount.mountpoint.to_owned(), source });
    }
    Ok(externals)
}

/// One line of `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).
struct Mount<'a> {
    device: u64,
    root: &'a str,
    mountpoint: &'a str,
    read_only: bool,
    kind: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        let (root, mountpoint, options) = (fields.next()?, fields.next()?, fields.next()?);
        let mut after = after.split(' ');
        let (kind, own_options) = (after.next()?, after.nth(1)?);
        // Of this mount, or of the whole file system.
        let read_only = [options, own_options].iter().any(|options| options.split(',').any(|option| option == "ro"));
        Some(Self { device, root, mountpoint, read_only, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
100 50 0:30 / / rw,relatime - overlay overlay rw,lowerdir=/l
101 100 0:31 / /proc rw,nosuid - proc proc rw
102 100 0:40 / /dev rw,nosuid - tmpfs tmpfs rw,size=64k
103 102 0:33 / /dev/pts rw - devpts devpts rw
104 102 0:41 / /dev/shm rw - tmpfs shm rw
105 101 0:40 /null /proc/kcore rw - tmpfs tmpfs rw
106 101 0:50 / /proc/acpi ro,relatime - tmpfs tmpfs ro
107 101 0:31 /sys /proc/sys ro,nosuid - proc proc rw
";

    const OWN: Devices = Devices { dev: device(40), shm: device(41), empty: device(42) };

    /// The number of device 0:minor.
    const fn device(minor: u64) -> u64 {
        minor
    }

    #[test]
    fn our_mounts_are_external_and_the_kernels_own_are_not() {
        let found = classify(MOUNTINFO, OWN, &Staged::new()).unwrap();
        let found: Vec<_> = found.into_iter().map(|external| (external.mountpoint, external.source)).collect();
        assert_eq!(
            found,
            [
                ("/dev".to_owned(), ExternalSource::Dev(String::new())),
                ("/dev/shm".to_owned(), ExternalSource::Shm),
                ("/proc/kcore".to_owned(), ExternalSource::Dev("null".to_owned())),
                ("/proc/acpi".to_owned(), ExternalSource::Empty),
            ]
        );
    }

    #[test]
    fn volumes_are_known_by_what_they_show_wherever_a_link_has_put_them() {
        let own = "\
60 20 0:70 / /run/drover/containers/aa/volumes/0 rw,nodev - tmpfs tmpfs rw
61 20 8:1 /volumes/data/data /run/drover/containers/aa/volumes/1 rw,nodev - ext4 /dev/sda1 rw
62 20 8:1 /other /run/drover/containers/bb/volumes/0 rw,nodev - ext4 /dev/sda1 rw
";
        let staged = staged(own, Path::new("/run/drover/containers/aa/volumes"));
        let inside = "\
101 100 8:1 /volumes/data/data /run/data rw - ext4 /dev/sda1 rw
102 100 0:70 / /cache ro - tmpfs tmpfs rw
";
        let found = classify(inside, OWN, &staged).unwrap();
        assert_eq!(found[0], External { mountpoint: "/run/data".into(), source: ExternalSource::Volume(1) });
        assert_eq!(found[1], External { mountpoint: "/cache".into(), source: ExternalSource::Volume(0) });
        let error = classify("103 100 8:1 /other /data rw - ext4 /dev/sda1 rw\n", OWN, &staged).unwrap_err();
        assert_eq!(error.to_string(), "mount /data of type ext4 cannot travel");
    }

    #[test]
    fn masks_made_by_a_restore_travel_again() {
        let text = "106 101 0:42 / /sys/firmware rw,nosuid - tmpfs tmpfs rw,size=4k\n";
        let found = classify(text, OWN, &Staged::new()).unwrap();
        assert_eq!(found[0].source, ExternalSource::Empty);
    }

    #[test]
    fn a_foreign_mount_is_named_in_the_error() {
        let text = "108 100 8:1 / /data rw - ext4 /dev/sda1 rw\n";
        let error = classify(text, OWN, &Staged::new()).unwrap_err();
        assert_eq!(error.to_string(), "mount /data of type ext4 cannot travel");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused() {
        assert!(matches!(classify("nonsense\n", OWN, &Staged::new()), Err(UnknownMount::Parse(_))));
    }

    #[test]
    fn what_a_peer_says_is_mounted_stays_inside() {
        let external = |mountpoint: &str, source| External { mountpoint: mountpoint.to_owned(), source };
        let dev = |file: &str| ExternalSource::Dev(file.to_owned());
        for good in [external("/dev", dev("")), external("/proc/kcore", dev("null")), external("/dev/a", dev("a/b"))] {
            assert!(good.stays_inside(), "{good:?}");
        }
        let wrong = [
            external("/proc/kcore", dev("/etc/shadow")),
            external("/proc/kcore", dev("../../../etc/shadow")),
            external("/proc/kcore", dev("null/../../..")),
            external("dev", dev("")),
            external("/a/../b", ExternalSource::Empty),
            external("/a]:/etc", ExternalSource::Shm),
            external("/a\n", ExternalSource::Volume(0)),
        ];
        for wrong in wrong {
            assert!(!wrong.stays_inside(), "{wrong:?}");
        }
    }

    #[test]
    fn a_device_that_has_become_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { state: directory.path().join("state"), run: directory.path().join("run") };
        fs::create_dir_all(layout.dev().join("null")).unwrap();
        fs::write(layout.dev().join("zero"), "").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", layout.dev().join("full")).unwrap();
        // What a deleted device is called in the list of mounts.
        std::os::unix::fs::symlink("/etc", layout.dev().join("null/deleted")).unwrap();
        let locate = |file: &str| {
            External { mountpoint: "/x".into(), source: ExternalSource::Dev(file.to_owned()) }.locate(&layout)
        };
        assert_eq!(locate("zero").unwrap(), layout.dev().join("zero"));
        for wrong in ["full", "null//deleted", "null/deleted/hostname", "random"] {
            assert!(locate(wrong).is_err(), "{wrong}");
        }
    }
}
