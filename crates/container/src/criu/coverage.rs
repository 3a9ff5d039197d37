//! The pages that CRIU need not dump, for they are brought to the target without it.
//!
//! CRIU asks the kernel by `PAGEMAP_SCAN` which pages of a mapping there are. About pages that are covered it is told that
//! there are none: its dump does not grow with them. Where the kernel has no such call it reads the page map, whose entries
//! are empty then. On the target their mappings are registered for faults all the same,
//! whatever is in the images (`criu/uffd.c`), and somebody else brings what is missing.
//!
//! In shared memory it looks for data by `lseek(2)` (`criu/shmem.c`), and is told that there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::Path;

use drover_sys::interpose::Answer;
use drover_sys::shared::{SharedFile, identify};

/// What is covered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Pages by process, as the node numbers them: runs in ascending order.
    pub pages: BTreeMap<u32, Vec<Range<u64>>>,
    /// Shared memory, all of its pages.
    pub shared: BTreeSet<SharedFile>,
}

impl Coverage {
    /// The answer to a scan by CRIU, whose process id is `criu`, of what may be a page map at its descriptor, or to reading it.
    pub(super) fn answer(&self, criu: u32, descriptor: RawFd, start: u64, end: u64) -> Answer {
        let map = fs::read_link(format!("/proc/{criu}/fd/{descriptor}")).ok();
        let pid =
            map.as_ref().and_then(|map| map.to_str()?.strip_prefix("/proc/")?.strip_suffix("/pagemap")?.parse().ok());
        let runs = pid.and_then(|pid: u32| self.pages.get(&pid));
        runs.map_or(Answer::Pass, |runs| answer(runs, start, end))
    }

    /// The answer to CRIU, or a child of it, when it looks for data in the file at its descriptor.
    pub(super) fn answer_data(&self, pid: u32, descriptor: RawFd) -> Answer {
        let file = identify(Path::new(&format!("/proc/{pid}/fd/{descriptor}")));
        let covered = matches!(file, Ok(Some((file, _))) if self.shared.contains(&file));
        if covered { Answer::None } else { Answer::Pass }
    }
}

fn answer(runs: &[Range<u64>], start: u64, end: u64) -> Answer {
    let next = runs.partition_point(|run| run.end <= start);
    match runs.get(next) {
        Some(run) if run.start <= start => Answer::Nothing { until: run.end.min(end) },
        Some(run) if run.start < end => Answer::Shorten { until: run.start },
        _ => Answer::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_goes_from_what_is_covered_to_what_is_not() {
        let runs = [10..20, 20..25, 40..50];
        assert_eq!(answer(&runs, 10, 60), Answer::Nothing { until: 20 });
        assert_eq!(answer(&runs, 12, 15), Answer::Nothing { until: 15 });
        assert_eq!(answer(&runs, 20, 60), Answer::Nothing { until: 25 });
        assert_eq!(answer(&runs, 25, 60), Answer::Shorten { until: 40 });
        assert_eq!(answer(&runs, 25, 40), Answer::Pass);
        assert_eq!(answer(&runs, 50, 60), Answer::Pass);
        assert_eq!(answer(&runs, 0, 60), Answer::Shorten { until: 10 });
    }
}
