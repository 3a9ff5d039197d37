//! Whether a container that is moved ever runs on the source again after it has run on the target, looked at from outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::processes::{NodeProcesses, switches};

/// How long one look takes.
const WINDOW: Duration = Duration::from_millis(100);
/// How often the witness gives way in a window if it runs: it does so each millisecond. What is frozen never does.
const RUNS: u64 = 12;

/// Somebody who looks.
#[derive(Debug)]
pub struct Watch {
    ended: Arc<AtomicBool>,
    looking: JoinHandle<bool>,
}

impl Watch {
    /// Begins to look at a container on these nodes.
    pub fn begin(nodes: [NodeProcesses; 2], id: &str) -> Self {
        let (ended, id) = (Arc::new(AtomicBool::new(false)), id.to_owned());
        let flag = Arc::clone(&ended);
        let looking = thread::spawn(move || {
            let (mut arrived, mut doubled) = (false, false);
            while !flag.load(Ordering::Relaxed) {
                let [source, target] = runs(&nodes, &id);
                // One copy may run after the other in one look. But whatever has run on the target never runs on the source
                // again: nothing is moved back.
                doubled |= arrived && source;
                arrived |= target;
            }
            doubled
        });
        Self { ended, looking }
    }

    /// Ends it; whether it has run twice.
    pub fn end(self) -> bool {
        self.ended.store(true, Ordering::Relaxed);
        self.looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Whether it runs on each of them.
fn runs(nodes: &[NodeProcesses; 2], id: &str) -> [bool; 2] {
    // What CRIU holds is no container, however busy it is.
    let count = |node: &NodeProcesses| -> BTreeMap<u32, u64> {
        let pids = if node.criu().is_empty() { node.of_container(id) } else { Vec::new() };
        pids.into_iter().map(|pid| (pid, switches(pid))).collect()
    };
    let before = nodes.each_ref().map(count);
    thread::sleep(WINDOW);
    let after = nodes.each_ref().map(count);
    let ran = |node: usize| {
        let since = |(pid, now): (&u32, &u64)| before[node].get(pid).map_or(0, |before| now.saturating_sub(*before));
        after[node].iter().any(|one| since(one) >= RUNS)
    };
    [ran(0), ran(1)]
}
