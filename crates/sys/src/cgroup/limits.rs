//! Limits on memory, processor time and tasks.

use std::io;
use std::path::PathBuf;

use super::Cgroup;
use super::file::{CgroupError, read, write};

/// The period over which processor time is limited, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The smallest quota that the kernel takes, in microseconds.
const SMALLEST_QUOTA_US: u64 = 1_000;
/// Version 1 reports "no memory limit" as the largest multiple of its page size, which depends on the architecture;
/// everything above this is none.
const NO_MEMORY_LIMIT: u64 = 1 << 62;

/// Limits; absent means none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processor time in thousandths of one core.
    pub cpu_millis: Option<u32>,
    /// Number of tasks.
    pub pids: Option<u32>,
}

impl Cgroup {
    /// Sets all three limits, absent ones to "none".
    ///
    /// # Errors
    /// When the kernel refuses a value, or a limit is asked for and its controller is missing.
    pub fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        let or = |value: Option<u64>, none: &str| value.map_or(none.to_owned(), |value| value.to_string());
        match self.legacy("memory") {
            Some(group) => self.set(limits.memory, group.join("memory.limit_in_bytes"), &or(limits.memory, "-1"))?,
            None => self.set(limits.memory, self.unified_file("memory.max"), &or(limits.memory, "max"))?,
        }
        self.limit_cpu(limits.cpu_millis)?;
        let pids = limits.pids.map(u64::from);
        let file = self.legacy("pids").map_or_else(|| self.unified_file("pids.max"), |group| group.join("pids.max"));
        self.set(pids, file, &or(pids, "max"))
    }

    /// Limits processor time to so many thousandths of one core, or not at all.
    ///
    /// # Errors
    /// When the kernel refuses the value, or a limit is asked for and the controller is missing.
    pub fn limit_cpu(&self, millis: Option<u32>) -> Result<(), CgroupError> {
        let quota = millis.map(|millis| (u64::from(millis) * PERIOD_US / 1000).max(SMALLEST_QUOTA_US));
        let or = |none: &str| quota.map_or(none.to_owned(), |quota| quota.to_string());
        match self.legacy("cpu") {
            Some(group) => {
                self.set(quota, group.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                self.set(quota, group.join("cpu.cfs_quota_us"), &or("-1"))
            }
            None => self.set(quota, self.unified_file("cpu.max"), &format!("{} {PERIOD_US}", or("max"))),
        }
    }

    /// Writes a limit; a missing controller matters only to a limit that was asked for.
    fn set(&self, limit: Option<u64>, file: PathBuf, text: &str) -> Result<(), CgroupError> {
        match write(&file, text) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && limit.is_none() && self.exists() => Ok(()),
            result => result,
        }
    }

    /// A file of the group in the version 2 hierarchy; a name that does not exist where that is not mounted.
    pub(super) fn unified_file(&self, name: &str) -> PathBuf {
        self.unified().unwrap_or_default().join(name)
    }

    /// The memory limit in bytes, if there is one.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn memory_limit(&self) -> Result<Option<u64>, CgroupError> {
        let file = self
            .legacy("memory")
            .map_or_else(|| self.unified_file("memory.max"), |group| group.join("memory.limit_in_bytes"));
        match read(&file) {
            // "max" is no number, and no limit.
            Ok(text) => Ok(text.trim().parse().ok().filter(|limit| *limit < NO_MEMORY_LIMIT)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.exists() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
