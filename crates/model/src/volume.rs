//! A volume: files that outlive the containers which use them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ContainerName, NodeName, UserName, VolumeName};

/// Where a volume's files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// On the node, in a directory of Drover's own; they travel with the container that uses them.
    #[default]
    Local,
    /// In a directory of the node's that others have as well.
    Bind,
    /// On an NFS server.
    Nfs,
    /// On another machine, by SSH.
    Sshfs,
    /// Wherever a program has them that mounts a file system.
    Fuse,
}

impl Driver {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Local, Self::Bind, Self::Nfs, Self::Sshfs, Self::Fuse];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Bind => "bind",
            Self::Nfs => "nfs",
            Self::Sshfs => "sshfs",
            Self::Fuse => "fuse",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|driver| driver.as_str() == text);
        known.ok_or_else(|| format!("use {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// What happens to containers whose shared volume is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenLost {
    /// They stand still until it is back.
    #[default]
    Freeze,
    /// They are stopped.
    Stop,
}

impl WhenLost {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Stop => "stop",
        }
    }
}

impl FromStr for WhenLost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Freeze, Self::Stop].into_iter().find(|way| way.as_str() == text);
        known.ok_or_else(|| "use freeze or stop".into())
    }
}

/// A volume as it was declared on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// Where its files are.
    pub driver: Driver,
    /// What is mounted: a directory, `HOST:PATH`, or a command; empty for a local one.
    #[serde(default)]
    pub source: String,
    /// Options for whatever mounts it.
    #[serde(default)]
    pub options: Vec<String>,
    /// What happens to containers when it is lost.
    #[serde(default)]
    pub when_lost: WhenLost,
    /// When it was made here: RFC 3339, UTC.
    pub created_at: String,
    /// The user who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserName>,
}

/// A volume that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVolume {
    /// The source is not one for this driver.
    #[error("{source_text:?} is no source for the driver {driver}: {rule}")]
    Source {
        /// What was given.
        source_text: String,
        /// The driver.
        driver: Driver,
        /// What it must be.
        rule: &'static str,
    },
    /// A driver that takes no options.
    #[error("the driver {0} takes no options")]
    NoOptions(Driver),
    /// An option that would be several, or none.
    #[error("{0:?} is no option: use one word without spaces for each -o, 64 of them at most")]
    Option(String),
}

impl VolumeSpec {
    /// A local one.
    #[must_use]
    pub fn local(name: VolumeName, created_at: String) -> Self {
        let (driver, when_lost) = (Driver::Local, WhenLost::default());
        Self { name, driver, source: String::new(), options: Vec::new(), when_lost, created_at, owner: None }
    }

    /// Whether there can be one like this.
    ///
    /// # Errors
    /// For a source or an option that the driver cannot have.
    pub fn check(&self) -> Result<(), InvalidVolume> {
        const LONGEST_SOURCE: usize = 1024;
        const LONGEST_OPTION: usize = 255;
        const MOST_OPTIONS: usize = 64;
        let short = |text: &str| text.chars().take(80).collect::<String>();
        let (driver, source) = (self.driver, self.source.as_str());
        let (holds, rule) = match driver {
            Driver::Local => (source.is_empty(), "it has none"),
            Driver::Bind => (source.starts_with('/'), "use an absolute path"),
            Driver::Nfs => (source.contains(":/"), "use HOST:/PATH"),
            Driver::Sshfs => (source.contains(':'), "use [USER@]HOST:[PATH]"),
            Driver::Fuse => {
                let program = source.split_whitespace().next().unwrap_or_default();
                let is_program = !program.is_empty() && !program.contains('{');
                (is_program && source.contains("{target}"), "use a command with {target} for the place to mount on")
            }
        };
        let spaces = driver != Driver::Fuse && source.contains(char::is_whitespace);
        // What begins with a dash would be taken for an option.
        if !holds
            || spaces
            || source.starts_with('-')
            || source.contains(char::is_control)
            || source.len() > LONGEST_SOURCE
        {
            return Err(InvalidVolume::Source { source_text: short(source), driver, rule });
        }
        if matches!(driver, Driver::Local | Driver::Bind) && !self.options.is_empty() {
            return Err(InvalidVolume::NoOptions(driver));
        }
        let spaced = |option: &str| option.contains(|c: char| c.is_whitespace() || c.is_control());
        let bad = |option: &&String| option.is_empty() || option.len() > LONGEST_OPTION || spaced(option);
        match self.options.iter().find(bad).or_else(|| self.options.get(MOST_OPTIONS)) {
            Some(option) => Err(InvalidVolume::Option(short(option))),
            None => Ok(()),
        }
    }
}

/// A volume as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeRecord {
    /// What was declared.
    #[serde(flatten)]
    pub spec: VolumeSpec,
    /// The node that answers.
    pub node: NodeName,
    /// The containers on this node that use it, whether they run or not.
    pub used_by: Vec<ContainerName>,
    /// Where its files are on the node; absent: nowhere just now.
    pub path: Option<String>,
    /// Why a shared one cannot be reached, while containers that run need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// What a node says about a shared volume, so that another one can tell whether it has the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The volume.
    pub volume: VolumeName,
    /// What was written into it, or is in it.
    pub mark: Mark,
}

/// How a file system is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// By a file that was written for this, with a name that nobody else would choose.
    Written {
        /// What is in it.
        content: String,
    },
    /// It cannot be written to: by a digest of names, sizes and times in its top directory.
    Listed {
        /// The digest, hexadecimal.
        digest: String,
        /// How many entries there are; none prove nothing.
        entries: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(driver: Driver, source: &str, options: &[&str]) -> Result<(), String> {
        let mut spec = VolumeSpec::local("data".parse().unwrap(), String::new());
        (spec.driver, spec.source) = (driver, source.to_owned());
        spec.options = options.iter().map(|&option| option.to_owned()).collect();
        spec.check().map_err(|error| error.to_string())
    }

    #[test]
    fn each_driver_has_its_own_kind_of_source() {
        for (driver, good, bad) in [
            (Driver::Local, "", "/srv"),
            (Driver::Bind, "/srv/data", "srv/data"),
            (Driver::Nfs, "server:/data", "server"),
            (Driver::Sshfs, "me@server:", "server"),
            (Driver::Fuse, "bindfs /srv {target}", "bindfs /srv /mnt"),
        ] {
            assert_eq!(check(driver, good, &[]), Ok(()), "{driver}");
            assert!(check(driver, bad, &[]).is_err(), "{driver}");
            assert!(check(driver, "-oProxyCommand=x:/ {target}", &[]).is_err(), "{driver}");
            assert_eq!(driver.to_string().parse(), Ok(driver));
        }
        assert!(check(Driver::Sshfs, "server:/a b", &[]).is_err());
        assert!(check(Driver::Fuse, "{target} x", &[]).is_err());
    }

    #[test]
    fn options_are_single_words_and_not_for_every_driver() {
        assert_eq!(check(Driver::Nfs, "s:/d", &["vers=4.2", "ro"]), Ok(()));
        assert!(check(Driver::Nfs, "s:/d", &[""]).is_err());
        assert!(check(Driver::Nfs, "s:/d", &["a b"]).is_err());
        assert!(check(Driver::Nfs, "s:/d", &["x"; 65]).is_err());
        assert!(check(Driver::Bind, "/srv", &["ro"]).unwrap_err().contains("takes no options"));
    }
}
