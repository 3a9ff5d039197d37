//! What a group uses at one moment.

use std::io;

use super::Cgroup;
use super::file::{CgroupError, keyed_number, read, read_number};

/// What a group and the groups below it use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time used since the group was made, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory charged now, page cache included, in bytes.
    pub memory: u64,
    /// The memory limit in bytes, if any.
    pub memory_limit: Option<u64>,
    /// Tasks now.
    pub pids: u64,
}

impl Cgroup {
    /// Reads what the group uses; a quantity whose controller is missing is zero.
    ///
    /// # Errors
    /// When the group does not exist or a file has an unknown form.
    pub fn stats(&self) -> Result<Usage, CgroupError> {
        let memory = self
            .legacy("memory")
            .map_or_else(|| self.unified_file("memory.current"), |group| group.join("memory.usage_in_bytes"));
        let pids = self.legacy("pids").map_or_else(|| self.unified_file("pids.current"), |g| g.join("pids.current"));
        Ok(Usage {
            cpu_ns: self.or_zero(self.processor_time())?,
            memory: self.or_zero(read_number(&memory))?,
            memory_limit: self.memory_limit()?,
            pids: self.or_zero(read_number(&pids))?,
        })
    }

    fn processor_time(&self) -> Result<u64, CgroupError> {
        if let Some(group) = self.legacy("cpuacct") {
            return read_number(&group.join("cpuacct.usage"));
        }
        let path = self.unified_file("cpu.stat");
        let micros = keyed_number(&read(&path)?, "usage_usec")
            .ok_or_else(|| CgroupError::new("find usage_usec in", path, io::Error::from(io::ErrorKind::InvalidData)))?;
        Ok(micros.saturating_mul(1000))
    }

    fn or_zero(&self, quantity: Result<u64, CgroupError>) -> Result<u64, CgroupError> {
        match quantity {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.exists() => Ok(0),
            result => result,
        }
    }
}
