//! Whether a container that is moved ever runs on the source again after it has run on the target, looked at from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::processes::{NodeProcesses, is_witness, switches};

/// How long one look takes.
const WINDOW: Duration = Duration::from_millis(100);
/// How often the witness gives way in a window if it runs: it does so each millisecond. What is frozen never does.
const RUNS: u64 = 12;

/// Somebody who looks.
#[derive(Debug)]
pub struct Watch {
    ended: Arc<AtomicBool>,
    arrived: Arc<AtomicBool>,
    looking: JoinHandle<Option<String>>,
}

/// What was seen of a container on a node in one look: a process, and how often it gave way.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: u32,
    times: u64,
    at: Duration,
}

impl Watch {
    /// Begins to look at a container on these nodes.
    pub fn begin(nodes: [NodeProcesses; 2], id: &str) -> Self {
        let (ended, arrived, id) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), id.to_owned());
        let (flag, seen) = (Arc::clone(&ended), Arc::clone(&arrived));
        let looking = thread::spawn(move || {
            let begin = Instant::now();
            let (mut arrived, mut doubled): (Option<Seen>, Option<String>) = (None, None);
            while !flag.load(Ordering::Relaxed) {
                let [source, target] = runs(&nodes, &id, begin);
                // One copy may run after the other in one look. But whatever has run on the target never runs on the source
                // again: nothing is moved back.
                if let (None, Some(there), Some(here)) = (&doubled, arrived, source) {
                    doubled = Some(format!("{there} on the target, and then {here} on the source"));
                }
                arrived = arrived.or(target);
                seen.store(arrived.is_some(), Ordering::Relaxed);
            }
            doubled
        });
        Self { ended, arrived, looking }
    }

    /// Waits until it was seen to run on the target: whoever did not see that would not see it run twice. Whether it was.
    pub fn sees_arrival(&self, patience: Duration) -> bool {
        let begin = Instant::now();
        while !self.arrived.load(Ordering::Relaxed) && begin.elapsed() < patience {
            thread::sleep(WINDOW);
        }
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends it; what was seen if it has run twice.
    pub fn end(self) -> Option<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} gave way {} times by {:.1} s", self.pid, self.times, self.at.as_secs_f64())
    }
}

/// Which of its processes runs on each of them.
fn runs(nodes: &[NodeProcesses; 2], id: &str, begin: Instant) -> [Option<Seen>; 2] {
    // What CRIU holds is no container, however busy it is; nor is runc's first process, which makes the container's place on the
    // target.
    let count = |node: &NodeProcesses| -> BTreeMap<u32, u64> {
        let pids = if node.criu().is_empty() { node.of_container(id) } else { Vec::new() };
        pids.into_iter().filter(|pid| is_witness(*pid)).map(|pid| (pid, switches(pid))).collect()
    };
    let before = nodes.each_ref().map(count);
    thread::sleep(WINDOW);
    let after = nodes.each_ref().map(count);
    let ran = |node: usize| {
        let since = |(pid, now): (&u32, &u64)| before[node].get(pid).map_or(0, |before| now.saturating_sub(*before));
        let runs = after[node].iter().map(|one| (*one.0, since(one))).find(|(_, times)| *times >= RUNS);
        runs.map(|(pid, times)| Seen { pid, times, at: begin.elapsed() })
    };
    [ran(0), ran(1)]
}
