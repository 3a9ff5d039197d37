//! Who is in a group: its processes, whether there are any, killing them, and waiting for the last one to go.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::Cgroup;
use super::file::{CgroupError, keyed_number, read, write};

/// How deep groups below a group are followed.
const DEEPEST: usize = 16;
/// How often processes are looked for and killed where the kernel cannot kill a group at once; each round catches the
/// children that were forked during the one before.
const KILL_ROUNDS: u32 = 50;
/// How long a wait lasts between two looks at something that gives no event (version 1).
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A group's directory and those below it, parents first.
pub(super) fn tree(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut level = vec![top.to_owned()];
    for _ in 0..DEEPEST {
        let mut below = Vec::new();
        for directory in &level {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            below.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
        }
        found.extend(below.iter().cloned());
        level = below;
    }
    found
}

impl Cgroup {
    /// The directory in which processes are looked for: version 2, the freezer, or whatever there is.
    fn roll(&self) -> PathBuf {
        self.unified()
            .or_else(|| self.legacy("freezer"))
            .or_else(|| self.directories().into_iter().next())
            .unwrap_or_default()
    }

    /// The processes in the group and the groups below it, as this process's PID namespace numbers them.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        let top = self.roll();
        let mut pids = Vec::new();
        for group in tree(&top) {
            match read(&group.join("cgroup.procs")) {
                // Processes of a PID namespace that cannot be seen from here appear as 0.
                Ok(text) => {
                    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0))
                }
                // A group below was removed, or is threaded and its processes belong to a group above.
                Err(error) if group != top && error.is_of_no_group() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// Whether a live process is in the group or the groups below it.
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        match self.unified() {
            Some(group) => Ok(keyed_number(&read(&group.join("cgroup.events"))?, "populated") == Some(1)),
            None => Ok(!self.pids()?.is_empty()),
        }
    }

    /// Kills every process of the group, frozen ones too: none of them runs another instruction of its program.
    ///
    /// Returns when all have been sent the signal; [`Cgroup::wait_empty`] waits for the last one to be gone.
    ///
    /// # Errors
    /// When the group does not exist or the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let whole = self.unified().map(|group| group.join("cgroup.kill")).filter(|file| file.exists());
        match whole {
            Some(file) => write(&file, "1")?,
            None => self.kill_one_by_one()?,
        }
        // A version 1 freezer holds even a killed process. The signal is pending: thawed, it can only die.
        self.thaw()?;
        if self.unified().is_none() { self.kill_until_empty() } else { Ok(()) }
    }

    fn kill_one_by_one(&self) -> Result<(), CgroupError> {
        for pid in self.pids()? {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(CgroupError::new("kill the processes of", self.roll(), errno)),
            }
        }
        Ok(())
    }

    /// Catches children that were forked while the others were being killed.
    fn kill_until_empty(&self) -> Result<(), CgroupError> {
        for _ in 0..KILL_ROUNDS {
            if !self.is_populated()? {
                break;
            }
            self.kill_one_by_one()?;
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Waits until no live process is in the group.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when there still is one after `timeout`.
    pub fn wait_empty(&self, timeout: Duration) -> Result<(), CgroupError> {
        match self.unified() {
            Some(group) => wait_event(&group, "populated", 0, timeout, "wait for the end of the processes of"),
            None => wait_looking(timeout, || self.is_populated().map(|populated| !populated))?
                .then_some(())
                .ok_or_else(|| CgroupError::new("wait for the end of the processes of", self.roll(), timed_out())),
        }
    }
}

pub(super) fn timed_out() -> io::Error {
    io::Error::from(io::ErrorKind::TimedOut)
}

/// Waits until `key` has `value` in a group's `cgroup.events`, woken by the kernel at each change.
pub(super) fn wait_event(
    group: &Path,
    key: &str,
    value: u64,
    timeout: Duration,
    attempt: &'static str,
) -> Result<(), CgroupError> {
    let path = group.join("cgroup.events");
    let failed = |error: io::Error| CgroupError::new(attempt, group, error);
    let file = File::open(&path).map_err(failed)?;
    let end = Instant::now() + timeout;
    let mut text = [0; 256];
    loop {
        // Reading from the start arms the next event (kernfs_notify).
        let length = file.read_at(&mut text, 0).map_err(failed)?;
        let now = keyed_number(&String::from_utf8_lossy(&text[..length]), key);
        if now == Some(value) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if now.is_none() || left.is_zero() {
            return Err(failed(if now.is_none() { io::ErrorKind::Unsupported.into() } else { timed_out() }));
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Looks again and again, for what gives no event. Whether it came about in time.
pub(super) fn wait_looking(
    timeout: Duration,
    mut look: impl FnMut() -> Result<bool, CgroupError>,
) -> Result<bool, CgroupError> {
    let end = Instant::now() + timeout;
    loop {
        if look()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
