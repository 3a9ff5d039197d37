//! The flags of mappings, without a look at their pages.
//!
//! CRIU reads `/proc/PID/smaps` for one line of each mapping, `VmFlags` (`proc_pid_smaps(5)`). For the other lines the
//! kernel visits every page: 25 ms for each GiB, while the container is frozen. So the flags are read before, and when CRIU
//! asks they are put beside the lines of `/proc/PID/maps`, which are quickly read.
//!
//! A mapping with the same line in `maps` has other flags if the program called `madvise(2)` in between. That is looked at
//! before the migration may commit, by reading the file after all: the container still stands still, and the target is
//! restoring it, so nobody waits for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use drover_sys::interpose::Answer;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// From how many pages in memory it is worth it: for these 64 MiB the kernel takes 2 ms.
const WORTH: u64 = 16 << 10;
/// How long flags pass for recent: reading them holds up whoever maps or unmaps memory, and that they have changed is
/// found in any case.
const RECENT: Duration = Duration::from_secs(10);
/// What CRIU does not ask about, and what following a process changes: written, and registered with a userfaultfd.
const IGNORED: [&str; 4] = ["sd", "um", "uw", "ui"];

/// Of one process: flags by lines of `maps`.
type Flags = BTreeMap<String, String>;
/// Lines of `maps` in the order of their addresses, and their flags.
type Composed = Vec<(String, String)>;

/// The flags of mappings, read while the processes run.
#[derive(Debug, Clone, Default)]
pub struct Mappings {
    flags: BTreeMap<u32, (Instant, Flags)>,
}

/// Why a dump cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum Unconfirmed {
    /// A flag has changed.
    #[error("process {0} has changed how its memory is treated (madvise) at the very moment of the freeze: {1}")]
    Changed(u32, String),
    /// It cannot be seen.
    #[error("cannot read the mappings of process {0}")]
    Read(u32, #[source] io::Error),
}

/// What CRIU was told.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<u32, Composed>);

/// Tells CRIU, and notes what.
#[derive(Debug, Default)]
pub(super) struct Teller {
    mappings: Mappings,
    told: Mutex<(Told, Vec<File>)>,
}

impl Mappings {
    /// Reads the flags of those of these processes that have much memory, unless they are recent and the process has no
    /// other mappings since. One that cannot be read is left to CRIU.
    pub fn look(&mut self, pids: &[u32]) {
        self.flags.retain(|pid, (read, _)| pids.contains(pid) && read.elapsed() < RECENT);
        for pid in pids.iter().filter(|pid| is_large(**pid)) {
            if self.compose(*pid).is_none() {
                match read(*pid) {
                    Ok(flags) => drop(self.flags.insert(*pid, (Instant::now(), flags))),
                    Err(_) => drop(self.flags.remove(pid)),
                }
            }
        }
    }

    /// The present mappings with their flags, if there are no others than were read.
    fn compose(&self, pid: u32) -> Option<Composed> {
        let (_, flags) = self.flags.get(&pid)?;
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        maps.lines().map(|line| Some((line.to_owned(), flags.get(line)?.clone()))).collect()
    }
}

impl Teller {
    pub fn new(mappings: Mappings) -> Self {
        Self { mappings, told: Mutex::default() }
    }

    /// The answer to CRIU, or a child of it, when it opens `smaps` in the directory at its descriptor.
    pub fn answer(&self, criu: u32, directory: RawFd) -> Answer {
        let process = fs::read_link(format!("/proc/{criu}/fd/{directory}")).ok();
        let pid = process.as_ref().and_then(|path| path.to_str()?.strip_prefix("/proc/")?.parse().ok());
        let descriptor = pid.and_then(|pid| self.tell(pid));
        descriptor.map_or(Answer::Pass, |descriptor| Answer::Instead { descriptor })
    }

    fn tell(&self, pid: u32) -> Option<RawFd> {
        let composed = self.mappings.compose(pid)?;
        let text: String = composed.iter().map(|(line, flags)| format!("{line}\nVmFlags: {flags}\n")).collect();
        let mut file = File::from(memfd_create("drover-smaps", MemfdFlags::CLOEXEC).ok()?);
        file.write_all(text.as_bytes()).ok()?;
        let descriptor = file.as_raw_fd();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.0.0.insert(pid, composed);
        told.1.push(file);
        Some(descriptor)
    }

    /// What CRIU was told; it needs it no more.
    pub fn told(&self) -> Told {
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner)).0
    }
}

impl Told {
    /// Whether it was true. The processes have stood still since; of one that has gone nobody can say any more, and what
    /// was dumped of it is all that is left.
    ///
    /// # Errors
    /// When it was not, or cannot be seen.
    pub fn confirm(&self) -> Result<(), Unconfirmed> {
        for (pid, told) in &self.0 {
            let real = match read(*pid) {
                Ok(real) if real.is_empty() => None,
                Err(error) if has_gone(&error) => None,
                real => Some(real.map_err(|error| Unconfirmed::Read(*pid, error))?),
            };
            let Some(real) = real else {
                tracing::warn!(pid, "a process has ended since it was dumped");
                continue;
            };
            let other =
                told.iter().find(|(line, flags)| real.get(line).map(|flags| lasting(flags)) != Some(lasting(flags)));
            if let Some((line, _)) = other {
                return Err(Unconfirmed::Changed(*pid, line.clone()));
            }
        }
        Ok(())
    }
}

fn lasting(flags: &str) -> Vec<&str> {
    flags.split_whitespace().filter(|flag| !IGNORED.contains(flag)).collect()
}

/// Whether it says that there is no such process.
fn has_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

/// `proc_pid_statm(5)`: the second word counts the pages in memory, the third those of files and shared memory.
fn is_large(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut words = text.split(' ').skip(1).map_while(|word| word.parse::<u64>().ok());
    matches!((words.next(), words.next()), (Some(all), Some(shared)) if all.saturating_sub(shared) >= WORTH)
}

fn read(pid: u32) -> io::Result<Flags> {
    Ok(flags_of_mappings(&fs::read_to_string(format!("/proc/{pid}/smaps"))?))
}

/// The flags of mappings by their lines of `maps`, from `smaps` (`proc_pid_smaps(5)`): a mapping's first line is that of
/// `maps`, and begins with its addresses; the others begin with a name.
#[must_use]
pub fn flags_of_mappings(smaps: &str) -> BTreeMap<String, String> {
    let mut mapping = None;
    let lines = smaps.lines().filter_map(|line| {
        if line.split(' ').next().is_some_and(|word| word.contains('-')) {
            mapping = Some(line);
        }
        Some((mapping?.to_owned(), line.strip_prefix("VmFlags: ")?.to_owned()))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use drover_sys::map::Anonymous;

    use super::*;

    const LENGTH: usize = 64 << 12;
    /// `MADV_DONTFORK`, `MADV_DONTDUMP` (`madvise(2)`): a mapping with advice of its own is not joined with its neighbours.
    const DONT_FORK: i32 = 10;
    const DONT_DUMP: i32 = 16;

    fn looked_at() -> Mappings {
        let own = std::process::id();
        Mappings { flags: BTreeMap::from([(own, (Instant::now(), read(own).unwrap()))]) }
    }

    #[test]
    fn flags_are_put_beside_the_lines_of_maps() {
        let smaps = "\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0                          [anon: an-arena]
Size:               4096 kB
VmFlags: rd wr mr mw me ac 
7f0001000000-7f0001001000 r--p 00000000 00:00 0 
Rss:                   0 kB
VmFlags: rd mr mw me dd sd 
";
        let flags = flags_of_mappings(smaps);
        assert_eq!(flags.len(), 2);
        assert_eq!(flags["7f0001000000-7f0001001000 r--p 00000000 00:00 0 "], "rd mr mw me dd sd ");
        assert_eq!(lasting("rd mr mw me dd sd "), ["rd", "mr", "mw", "me", "dd"]);
    }

    #[test]
    fn what_was_told_is_true_until_a_program_advises_otherwise() {
        let own = std::process::id();
        let memory = Anonymous::new(LENGTH).unwrap();
        memory.advise(DONT_DUMP).unwrap();
        let start = format!("{:x}-", memory.address());
        let flags =
            |flags: &Flags| flags.iter().find(|(line, _)| line.starts_with(&start)).map(|(_, flags)| flags.clone());
        let before = flags(&read(own).unwrap()).unwrap();
        assert!(lasting(&before).contains(&"dd"), "{before}");
        let lines: Composed = read(own).unwrap().into_iter().filter(|(line, _)| line.starts_with(&start)).collect();
        let told = Told(BTreeMap::from([(own, lines)]));
        told.confirm().unwrap();
        memory.advise(DONT_FORK).unwrap();
        let refused = told.confirm().unwrap_err();
        assert!(matches!(&refused, Unconfirmed::Changed(pid, line) if *pid == own && line.starts_with(&start)));
    }

    #[test]
    fn what_criu_reads_has_the_lines_and_flags_of_now_or_is_the_kernels() {
        let own = std::process::id();
        let directory = File::open("/proc/self").unwrap();
        // Other tests map memory, too: at some moment nothing has changed between two looks.
        let (teller, file) = std::iter::repeat_with(|| Teller::new(looked_at()))
            .find_map(|teller| match teller.answer(own, directory.as_raw_fd()) {
                Answer::Instead { descriptor } => {
                    let text = fs::read_to_string(format!("/proc/self/fd/{descriptor}")).unwrap();
                    Some((teller, text))
                }
                _ => None,
            })
            .unwrap();
        let mut lines = file.lines();
        let mut count = 0;
        while let Some(mapping) = lines.next() {
            assert!(mapping.contains('-') && lines.next().unwrap().starts_with("VmFlags: "), "{mapping}");
            count += 1;
        }
        assert_eq!(teller.told().0[&own].len(), count);
        assert_eq!(Teller::new(Mappings::default()).answer(own, directory.as_raw_fd()), Answer::Pass);
    }

    #[test]
    fn another_mapping_is_left_to_criu() {
        let own = std::process::id();
        let mappings = looked_at();
        let memory = Anonymous::new(LENGTH).unwrap();
        memory.advise(DONT_DUMP).unwrap();
        assert!(mappings.compose(own).is_none());
        let directory = File::open("/proc/self").unwrap();
        assert_eq!(Teller::new(mappings).answer(own, directory.as_raw_fd()), Answer::Pass);
    }

    #[test]
    fn a_process_that_has_gone_since_is_no_reason_to_give_its_copy_up() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let lines: Composed = read(child.id()).unwrap().into_iter().collect();
        let told = Told(BTreeMap::from([(child.id(), lines)]));
        child.kill().unwrap();
        child.wait().unwrap();
        told.confirm().unwrap();
    }
}
