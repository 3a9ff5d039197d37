//! Freezing and thawing.
//!
//! Version 2's freezer is used wherever it is mounted, with controllers or not: it tells when the last task is frozen,
//! and frozen tasks can be killed and traced. Version 1's has to be looked at again and again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Cgroup;
use super::file::{CgroupError, keyed_number, read, write};
use super::population::{timed_out, wait_event, wait_looking};

const FREEZE: &str = "freeze the processes of";

impl Cgroup {
    fn unified_freezer(&self) -> Option<PathBuf> {
        self.unified().filter(|group| group.join("cgroup.freeze").exists())
    }

    /// The directory whose freezer is used: what CRIU is to be given as `freeze_cgroup`.
    #[must_use]
    pub fn freezer_path(&self) -> Option<PathBuf> {
        self.unified_freezer().or_else(|| self.legacy("freezer"))
    }

    /// Freezes every process of the group and returns when the last one stands still.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when one still runs after `timeout`; the order to freeze stands, and only
    /// [`Cgroup::thaw`] takes it back. [`io::ErrorKind::Unsupported`] when no freezer is mounted.
    pub fn freeze(&self, timeout: Duration) -> Result<(), CgroupError> {
        if let Some(group) = self.unified_freezer() {
            write(&group.join("cgroup.freeze"), "1")?;
            return wait_event(&group, "frozen", 1, timeout, FREEZE);
        }
        let group = self.legacy_freezer()?;
        let state = group.join("freezer.state");
        let frozen = wait_looking(timeout, || {
            // The order is repeated: a task that was forked meanwhile may have missed it.
            write(&state, "FROZEN")?;
            Ok(read(&state)?.trim() == "FROZEN")
        })?;
        if frozen { Ok(()) } else { Err(CgroupError::new(FREEZE, group, timed_out())) }
    }

    fn legacy_freezer(&self) -> Result<PathBuf, CgroupError> {
        self.legacy("freezer").ok_or_else(|| {
            let directory = self.directories().into_iter().next().unwrap_or_default();
            CgroupError::new(FREEZE, directory, io::Error::from(io::ErrorKind::Unsupported))
        })
    }

    /// Lets the group's processes run again, whichever freezer held them.
    ///
    /// # Errors
    /// When the group does not exist or the kernel refuses.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        if let Some(group) = self.unified_freezer() {
            write(&group.join("cgroup.freeze"), "0")?;
        }
        match self.legacy("freezer").map(|group| group.join("freezer.state")) {
            Some(state) if read(&state)?.trim() != "THAWED" => write(&state, "THAWED"),
            _ => Ok(()),
        }
    }

    /// Whether every process of the group stands still.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        if let Some(group) = self.unified_freezer()
            && keyed_number(&read(&group.join("cgroup.events"))?, "frozen") == Some(1)
        {
            return Ok(true);
        }
        match self.legacy("freezer") {
            Some(group) => Ok(read(&group.join("freezer.state"))?.trim() == "FROZEN"),
            None => Ok(false),
        }
    }
}
