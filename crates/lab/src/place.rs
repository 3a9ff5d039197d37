//! Where a lab keeps its things: every path and name derived from two variables of the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use drover_model::NodeName;

/// The places of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    home: PathBuf,
    run: PathBuf,
    directory: PathBuf,
    cgroup: String,
}

/// A name of a lab that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// `DROVER_LAB` is no short name.
    #[error("cannot use {0:?} as the name of a lab")]
    Name(OsString),
    /// `DROVER_HOME` is relative.
    #[error("cannot use {0} as Drover's home: it must be an absolute path")]
    Home(PathBuf),
}

impl PlaceError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Name(_) => Some("set DROVER_LAB to at most 20 letters, digits or '-', or unset it".into()),
            Self::Home(_) => Some("set DROVER_HOME to an absolute path, or unset it".into()),
        }
    }
}

impl Place {
    /// The variable that names Drover's directory on a real disk.
    pub const HOME_VARIABLE: &str = "DROVER_HOME";
    /// The variable that names the lab, when there are several on one machine.
    pub const NAME_VARIABLE: &str = "DROVER_LAB";
    const HOME: &str = "/var/lib/drover";

    /// The place that the environment names.
    ///
    /// # Errors
    /// When a variable makes no sense.
    pub fn from_environment() -> Result<Self, PlaceError> {
        Self::of(std::env::var_os(Self::HOME_VARIABLE), std::env::var_os(Self::NAME_VARIABLE))
    }

    /// The place for these values of the two variables.
    ///
    /// # Errors
    /// When a value makes no sense.
    pub fn of(home: Option<OsString>, name: Option<OsString>) -> Result<Self, PlaceError> {
        let home = home.filter(|home| !home.is_empty()).map_or_else(|| PathBuf::from(Self::HOME), PathBuf::from);
        if !home.is_absolute() {
            return Err(PlaceError::Home(home));
        }
        let name = name.filter(|name| !name.is_empty() && name != "lab");
        let suffix = match name {
            None => String::new(),
            Some(name) => match name.to_str() {
                Some(text) if text.len() <= 20 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                    format!("-{text}")
                }
                _ => return Err(PlaceError::Name(name)),
            },
        };
        Ok(Self {
            run: PathBuf::from(format!("/run/drover-lab{suffix}")),
            directory: home.join(format!("lab{suffix}")),
            cgroup: format!("drover-lab{suffix}"),
            home,
        })
    }

    /// The shared Debian root.
    pub(crate) fn base(&self) -> PathBuf {
        self.home.join("base")
    }

    /// The directory with the lab's run-time files.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The directory on a real disk with the hosts' files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The real-disk directory of one host.
    pub(crate) fn host(&self, host: &NodeName) -> PathBuf {
        self.directory.join(host.as_str())
    }

    /// The name of the lab's cgroup.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The record of what the lab is.
    pub(crate) fn record(&self) -> PathBuf {
        self.run.join("lab.json")
    }

    /// The context file for the command line.
    pub(crate) fn context(&self) -> PathBuf {
        self.run.join("context.json")
    }

    /// The context file of one of the lab's users.
    pub(crate) fn user_context(&self, user: &str) -> PathBuf {
        self.run.join("users").join(format!("{user}.json"))
    }

    /// The directory with the users' certificates.
    pub(crate) fn tls(&self) -> PathBuf {
        self.run.join("tls")
    }

    /// The directory with the network namespaces.
    pub(crate) fn namespaces(&self) -> PathBuf {
        self.run.join("netns")
    }

    /// The file that keeps a network namespace, of a host or of the switch.
    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        self.namespaces().join(name)
    }

    /// What a host's first process is told to do.
    pub(crate) fn spec(&self, host: &NodeName) -> PathBuf {
        self.run.join("hosts").join(format!("{host}.json"))
    }

    /// The host's own log.
    pub(crate) fn host_log(&self, host: &NodeName) -> PathBuf {
        self.host(host).join("host.log")
    }

    /// The log of the host's agent.
    pub(crate) fn agent_log(&self, host: &NodeName) -> PathBuf {
        self.host(host).join("agent.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_lab_shares_nothing_with_the_default_one() {
        let default = Place::of(None, None).unwrap();
        let named = Place::of(None, Some("t1".into())).unwrap();
        assert_eq!(default.run(), Path::new("/run/drover-lab"));
        assert_eq!(default.directory(), Path::new("/var/lib/drover/lab"));
        assert_eq!(named.run(), Path::new("/run/drover-lab-t1"));
        assert_eq!(named.directory(), Path::new("/var/lib/drover/lab-t1"));
        assert_eq!(named.cgroup(), "drover-lab-t1");
        assert_eq!(named.base(), default.base());
        assert_eq!(Place::of(None, Some("lab".into())).unwrap(), default);
    }

    #[test]
    fn names_that_could_escape_are_refused() {
        for bad in ["../x", "a/b", "a b", &"a".repeat(21)] {
            assert!(Place::of(None, Some(bad.into())).is_err(), "{bad}");
        }
        assert!(Place::of(Some("relative".into()), None).is_err());
    }
}
