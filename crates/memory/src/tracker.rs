//! Following which pages a running process writes, without its help.
//!
//! A userfaultfd is made inside the process and taken from it; through it its private anonymous mappings are
//! write-protected in a way that a write lifts by itself (`UFFD_FEATURE_WP_ASYNC`). `PAGEMAP_SCAN` finds the pages
//! without protection, which have been written, and protects them again in the same step. When the descriptor is closed
//! nothing of it is left in the process.

use std::io;
use std::ops::Range;

use drover_sys::inject::make_descriptor;
use drover_sys::pagemap::{Category, Scan};
use drover_sys::uffd::{self, Userfaultfd, feature};

use crate::mappings::followed;

/// Why a process cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// It cannot be made to make the descriptor.
    #[error("cannot attach to process {0}")]
    Attach(u32, #[source] io::Error),
    /// The kernel is older than 6.7, or lacks the means.
    #[error("the kernel cannot tell which pages were written")]
    Kernel(#[source] io::Error),
    /// Its mappings, or what was written to them.
    #[error("cannot follow process {0}")]
    Follow(u32, #[source] io::Error),
}

/// A process whose writes are followed.
#[derive(Debug)]
pub struct Tracker {
    pid: u32,
    faults: Userfaultfd,
    scan: Scan,
    mappings: Vec<Range<u64>>,
}

impl Tracker {
    /// Begins to follow process `pid`: to begin with, all its pages count as written.
    ///
    /// # Errors
    /// When it cannot be held, its kernel cannot do it, or it keeps memory locked.
    pub fn attach(pid: u32) -> Result<Self, TrackError> {
        let made = make_descriptor(pid, uffd::NUMBER, [uffd::FLAGS | uffd::USER_MODE_ONLY, 0, 0]);
        let faults = Userfaultfd::from_descriptor(made.map_err(|error| TrackError::Attach(pid, error))?);
        faults.agree(feature::WP_ASYNC | feature::WP_UNPOPULATED).map_err(TrackError::Kernel)?;
        let scan = Scan::open(pid).map_err(|error| TrackError::Follow(pid, error))?;
        Ok(Self { pid, faults, scan, mappings: Vec::new() })
    }

    /// The pages that were written since the last call, as runs in ascending order, none across two mappings. A mapping
    /// that is new since then counts as written.
    ///
    /// # Errors
    /// When the process is gone, has become another program, or has locked memory.
    pub fn written(&mut self) -> Result<Vec<Range<u64>>, TrackError> {
        let failed = |error| TrackError::Follow(self.pid, error);
        let mut written = Vec::new();
        self.mappings.clear();
        for mapping in followed(self.pid).map_err(failed)? {
            // Again for those that are known: it costs little, and one that was moved or replaced looks the same.
            match self.faults.register_write_protection(mapping.start, mapping.end - mapping.start) {
                Ok(()) => {}
                // It has gone since the list was read, or something else is in its place, which is seen next time. What
                // is not followed when everything stands still is dumped by CRIU.
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput) => {
                    continue;
                }
                Err(error) => return Err(failed(error)),
            }
            match self.scan.written(mapping.start, mapping.end) {
                Ok(runs) => written.extend(runs),
                // It has changed since it was registered.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(failed(error)),
            }
            self.mappings.push(mapping);
        }
        Ok(written)
    }

    /// The mappings that are followed, as of the last call of `written`.
    #[must_use]
    pub fn mappings(&self) -> &[Range<u64>] {
        &self.mappings
    }

    /// The pages in these mappings that have content; all others are zero.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn present(&self) -> Result<Vec<Range<u64>>, TrackError> {
        find_present(&self.scan, &self.mappings).map_err(|error| TrackError::Follow(self.pid, error))
    }
}

/// The pages with content in mappings of a process that nobody follows.
///
/// # Errors
/// When the process is gone.
pub(crate) fn present(pid: u32, mappings: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    find_present(&Scan::open(pid)?, mappings)
}

fn find_present(scan: &Scan, mappings: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    let mut present = Vec::new();
    for mapping in mappings {
        present.extend(scan.find(mapping.start, mapping.end, Category::Present)?);
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, ChildStdin, Command, Stdio};

    use super::*;

    /// A shell that keeps text in its memory and changes it when told.
    struct Program {
        child: Child,
        input: ChildStdin,
        output: BufReader<std::process::ChildStdout>,
    }

    impl Program {
        fn start() -> Self {
            let script = "x=$(head -c 4000000 /dev/zero | tr '\\0' a); echo ready
                while read -r line; do eval \"$line\"; echo done; done";
            let mut child =
                Command::new("bash").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let input = child.stdin.take().unwrap();
            let mut program = Self { output: BufReader::new(child.stdout.take().unwrap()), child, input };
            program.heard("ready");
            program
        }

        fn heard(&mut self, wanted: &str) {
            let mut line = String::new();
            self.output.read_line(&mut line).unwrap();
            assert_eq!(line.trim(), wanted);
        }

        fn does(&mut self, line: &str) {
            writeln!(self.input, "{line}").unwrap();
            self.heard("done");
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn pages(runs: &[Range<u64>]) -> u64 {
        runs.iter().map(|run| (run.end - run.start) / 4096).sum()
    }

    #[test]
    fn what_a_program_writes_is_found_and_only_that() {
        let mut program = Program::start();
        let mut tracker = Tracker::attach(program.child.id()).unwrap();
        let first = pages(&tracker.written().unwrap());
        assert!(first > 900, "all that it has counts as written: {first}");
        assert_eq!(pages(&tracker.present().unwrap()), first);
        assert_eq!(tracker.written().unwrap(), [], "it waits, and writes nothing");
        program.does("true");
        let few = pages(&tracker.written().unwrap());
        assert!(few > 0 && few < 200, "{few}");
        program.does("y=$x");
        let more = pages(&tracker.written().unwrap());
        assert!(more > 900, "a copy of four million letters was written to new memory: {more}");
    }

    #[test]
    fn a_program_that_becomes_another_one_is_no_longer_followed() {
        let mut program = Program::start();
        let mut tracker = Tracker::attach(program.child.id()).unwrap();
        tracker.written().unwrap();
        writeln!(program.input, "exec sleep 1000").unwrap();
        let path = format!("/proc/{}/comm", program.child.id());
        while std::fs::read_to_string(&path).unwrap().trim() != "sleep" {
            std::thread::yield_now();
        }
        // At first it has no memory that could be followed.
        while tracker.written().is_ok() {
            assert!(tracker.present().unwrap().is_empty());
        }
    }
}
