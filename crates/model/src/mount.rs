//! What is mounted inside a container, as its user asks for it and as its specification says it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, VolumeName};

/// A text that is no mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMount {
    /// The path inside.
    #[error("{path:?} is no place for a mount: {rule}")]
    Destination {
        /// What was given.
        path: String,
        /// What it breaks.
        rule: &'static str,
    },
    /// A directory of the node in the place of a volume's name.
    #[error("{0:?} is a directory of one node, and cannot travel")]
    HostPath(String),
    /// A volume cannot have this name.
    #[error("{0:?} is no volume: use NAME:/PATH or NAME:/PATH:ro, where NAME has letters, digits, '.', '_' and '-'")]
    Volume(String),
    /// What stands behind the path is unknown.
    #[error("{0:?} is no option of a tmpfs: use size=64m and mode=1777")]
    Option(String),
    /// A size that no tmpfs can have.
    #[error("a tmpfs has 4 KiB to 1 TiB, not {0}")]
    Size(Bytes),
    /// Permission bits that there are not.
    #[error("a tmpfs cannot have the mode {0:o}: use three octal digits, or four")]
    Mode(u32),
}

impl InvalidMount {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        let declare = "declare it on all nodes with `drover volume create NAME --driver bind --source PATH`, and use -v NAME:/PATH; \
                       or let -v NAME:/PATH make a local volume, which travels";
        matches!(self, Self::HostPath(_)).then_some(declare)
    }
}

/// A path inside a container that something may be mounted on: absolute, without `.`, `..` or empty parts, and not in the
/// places that the kernel and Drover fill themselves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "/var/lib/data")]
pub struct MountPoint(String);

impl MountPoint {
    /// The longest in bytes.
    const LONGEST: usize = 255;
    /// What is not the user's.
    const TAKEN: [&str; 3] = ["proc", "sys", "dev"];

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MountPoint {
    type Error = InvalidMount;

    fn try_from(text: String) -> Result<Self, InvalidMount> {
        let refused = |rule| InvalidMount::Destination { path: text.chars().take(80).collect(), rule };
        let Some(inner) = text.strip_prefix('/') else { return Err(refused("it does not begin with /")) };
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if text.len() > Self::LONGEST {
            return Err(refused("it has more than 255 bytes"));
        }
        if inner.is_empty() {
            return Err(refused("the root is the image's"));
        }
        if inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refused("leave empty parts, . and .. out"));
        }
        // Characters that would part it in two where the kernel, CRIU or runc read it.
        if inner
            .contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '\\' | '[' | ']' | '"'))
        {
            return Err(refused("leave spaces, quotes, brackets, backslashes, : and , out"));
        }
        if inner.split('/').next().is_some_and(|first| Self::TAKEN.contains(&first)) {
            return Err(refused("/proc, /sys and /dev are the container's own"));
        }
        Ok(Self(format!("/{inner}")))
    }
}

impl FromStr for MountPoint {
    type Err = InvalidMount;

    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        text.to_owned().try_into()
    }
}

impl From<MountPoint> for String {
    fn from(point: MountPoint) -> Self {
        point.0
    }
}

impl fmt::Display for MountPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that is mounted inside a container beside its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    /// Where, as seen inside.
    pub destination: MountPoint,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// What.
    #[serde(flatten)]
    pub kind: MountKind,
}

/// What is mounted inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MountKind {
    /// A volume whose files are this container's alone, and travel with it.
    Local {
        /// Its name.
        volume: VolumeName,
    },
    /// A volume that both nodes mount; its files stay where they are.
    Shared {
        /// Its name, by which each node has declared it.
        volume: VolumeName,
    },
    /// A file system in memory, whose files travel with the container.
    Tmpfs {
        /// How much fits.
        size: Bytes,
        /// The permission bits of its top.
        mode: u32,
    },
}

impl Mount {
    /// The local volume that it shows, if it is one.
    #[must_use]
    pub fn local(&self) -> Option<&VolumeName> {
        match &self.kind {
            MountKind::Local { volume } => Some(volume),
            MountKind::Shared { .. } | MountKind::Tmpfs { .. } => None,
        }
    }

    /// The shared volume that it shows, if it is one.
    #[must_use]
    pub fn shared(&self) -> Option<&VolumeName> {
        match &self.kind {
            MountKind::Shared { volume } => Some(volume),
            MountKind::Local { .. } | MountKind::Tmpfs { .. } => None,
        }
    }
}

/// A volume that a user wants mounted: `NAME:/PATH[:ro|:rw]` on the command line. The node knows its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Its name.
    pub volume: VolumeName,
    /// Where, as seen inside.
    pub destination: MountPoint,
    /// Whether the container may not write to it.
    #[serde(default)]
    pub read_only: bool,
}

impl FromStr for VolumeMount {
    type Err = InvalidMount;

    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        let short = || text.chars().take(80).collect::<String>();
        let (name, place) = text.split_once(':').ok_or_else(|| InvalidMount::Volume(short()))?;
        if name.starts_with(['/', '.', '~']) {
            return Err(InvalidMount::HostPath(name.chars().take(80).collect()));
        }
        let volume = name.parse().map_err(|_| InvalidMount::Volume(short()))?;
        let (destination, read_only) = match place.rsplit_once(':') {
            None => (place, false),
            Some((destination, "rw")) => (destination, false),
            Some((destination, "ro")) => (destination, true),
            Some(_) => return Err(InvalidMount::Volume(short())),
        };
        Ok(Self { volume, destination: destination.parse()?, read_only })
    }
}

/// A file system in memory that a user wants mounted: `/PATH[:size=64m,mode=1777]` on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TmpfsMount {
    /// Where, as seen inside.
    pub destination: MountPoint,
    /// How much fits.
    #[serde(default = "TmpfsMount::usual_size")]
    pub size: Bytes,
    /// The permission bits of its top.
    #[serde(default = "TmpfsMount::usual_mode")]
    pub mode: u32,
}

impl TmpfsMount {
    fn usual_size() -> Bytes {
        Bytes(64 * Bytes::MEBI)
    }

    fn usual_mode() -> u32 {
        0o1777
    }

    /// Whether there can be one like this.
    ///
    /// # Errors
    /// For a size or a mode that makes no sense.
    pub fn check(&self) -> Result<(), InvalidMount> {
        const LEAST: u64 = 4 << 10;
        const MOST: u64 = 1 << 40;
        if !(LEAST..=MOST).contains(&self.size.0) {
            return Err(InvalidMount::Size(self.size));
        }
        // Set-id bits mean nothing on a directory that belongs to root.
        if self.mode > 0o1777 { Err(InvalidMount::Mode(self.mode)) } else { Ok(()) }
    }
}

impl FromStr for TmpfsMount {
    type Err = InvalidMount;

    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        let (place, options) = text.split_once(':').unwrap_or((text, ""));
        let mut mount = Self { destination: place.parse()?, size: Self::usual_size(), mode: Self::usual_mode() };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let unknown = || InvalidMount::Option(option.chars().take(80).collect());
            match option.split_once('=') {
                Some(("size", size)) => mount.size = size.parse().map_err(|_| unknown())?,
                Some(("mode", mode)) => mount.mode = u32::from_str_radix(mode, 8).map_err(|_| unknown())?,
                _ => return Err(unknown()),
            }
        }
        mount.check().map(|()| mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_name_a_place_and_perhaps_read_only() {
        let mount: VolumeMount = "data:/srv/data/:ro".parse().unwrap();
        assert_eq!((mount.volume.as_str(), mount.destination.as_str()), ("data", "/srv/data"));
        assert!(mount.read_only);
        assert!(!"data:/srv:rw".parse::<VolumeMount>().unwrap().read_only);
        for bad in ["data", "data:", ":/srv", "da ta:/srv", "data:srv", "data:/srv:rx", "data:/srv:ro:ro", "-a:/srv"] {
            assert!(bad.parse::<VolumeMount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_of_the_node_is_refused_with_what_to_do_instead() {
        for path in ["/srv:/srv", "./data:/data", "~/data:/data", "../x:/x"] {
            let error = path.parse::<VolumeMount>().unwrap_err();
            assert!(matches!(error, InvalidMount::HostPath(_)), "{path}: {error}");
            assert!(error.hint().unwrap().contains("--driver bind"));
        }
    }

    #[test]
    fn places_that_lead_elsewhere_or_are_taken_are_refused() {
        let long = format!("/{}", "a".repeat(255));
        for bad in [
            "", "/", "//", "srv", "/a/../b", "/a/./b", "/a//b", "/a b", "/a\nb", "/a:b", "/a]b", "/a\\b", "/proc",
            "/sys/fs", "/dev/shm", &long,
        ] {
            assert!(bad.parse::<MountPoint>().is_err(), "{bad:?}");
        }
        for good in ["/a", "/processes", "/a/.b/..c", "/var/lib/postgresql/data"] {
            assert_eq!(good.parse::<MountPoint>().unwrap().as_str(), good);
        }
        assert!(serde_json::from_str::<MountPoint>("\"/a/../b\"").is_err());
    }

    #[test]
    fn a_tmpfs_has_a_size_and_a_mode() {
        let mount: TmpfsMount = "/cache:size=16m,mode=700".parse().unwrap();
        assert_eq!((mount.size, mount.mode), (Bytes(16 << 20), 0o700));
        let usual: TmpfsMount = "/cache".parse().unwrap();
        assert_eq!((usual.size, usual.mode), (Bytes(64 << 20), 0o1777));
        for bad in ["cache", "/cache:size=0", "/cache:size=2000t", "/cache:mode=9", "/cache:mode=7777", "/cache:exec"] {
            assert!(bad.parse::<TmpfsMount>().is_err(), "{bad}");
        }
    }
}
