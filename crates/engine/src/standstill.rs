//! A container that stands still for a moment while it is looked at, and runs on whatever happens.

use std::time::Duration;

use drover_sys::cgroup::{Cgroup, CgroupError};

/// How long the last process may take to stand still; until then the first ones wait for it.
const FREEZE: Duration = Duration::from_millis(500);

/// Holds the processes of a control group; they run on when it is dropped.
#[derive(Debug)]
pub(crate) struct Standstill<'a> {
    cgroup: &'a Cgroup,
}

impl<'a> Standstill<'a> {
    /// # Errors
    /// When not all of them stand still in time. They run on then.
    pub fn begin(cgroup: &'a Cgroup) -> Result<Self, CgroupError> {
        // An order to freeze stands until it is taken back: from here on it is, whatever comes.
        let standstill = Self { cgroup };
        cgroup.freeze(FREEZE)?;
        Ok(standstill)
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        // The agent that is started next thaws what nobody has decided about.
        if let Err(error) = self.cgroup.thaw() {
            tracing::error!(%error, "a container that was looked at may stand still");
        }
    }
}
