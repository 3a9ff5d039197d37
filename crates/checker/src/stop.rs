//! When to end: after a time, when a file appears, or on SIGINT or SIGTERM.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

/// The longest time for which a request to stop goes unnoticed.
pub const STEP: Duration = Duration::from_millis(100);

/// The signals cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch for SIGINT and SIGTERM")]
pub struct WatchError(#[source] std::io::Error);

/// All reasons to end, in one place.
#[derive(Debug)]
pub struct Stop {
    signalled: Arc<AtomicBool>,
    file: Option<PathBuf>,
    file_checked: Cell<Option<Instant>>,
    deadline: Cell<Option<Instant>>,
    asked: Cell<bool>,
}

impl Stop {
    /// Ends when `file` appears. Signals are not watched.
    pub fn on_file(file: Option<PathBuf>) -> Self {
        Self {
            signalled: Arc::new(AtomicBool::new(false)),
            file,
            file_checked: Cell::new(None),
            deadline: Cell::new(None),
            asked: Cell::new(false),
        }
    }

    /// Ends when `flag` is raised. Signals are not watched.
    pub fn on_flag(flag: Arc<AtomicBool>) -> Self {
        Self { signalled: flag, ..Self::on_file(None) }
    }

    /// Ends on the first SIGINT or SIGTERM, or when `file` appears. A second signal ends the process at once.
    pub fn on_signal_or_file(file: Option<PathBuf>) -> Result<Self, WatchError> {
        let stop = Self::on_file(file);
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the flag down and only raises it.
            signal_hook::flag::register_conditional_shutdown(signal, 1, stop.signalled.clone()).map_err(WatchError)?;
            signal_hook::flag::register(signal, stop.signalled.clone()).map_err(WatchError)?;
        }
        Ok(stop)
    }

    /// Ends when this much time has passed from now on, too.
    pub fn after(&self, time: Duration) {
        self.deadline.set(Instant::now().checked_add(time));
    }

    /// Whether it is time to end. The file is looked for once in each [`STEP`].
    pub fn asked(&self) -> bool {
        if !self.asked.get() {
            let now = Instant::now();
            let expired = self.deadline.get().is_some_and(|deadline| now >= deadline);
            self.asked.set(expired || self.signalled.load(Ordering::Relaxed) || self.file_appeared(now));
        }
        self.asked.get()
    }

    fn file_appeared(&self, now: Instant) -> bool {
        let Some(file) = &self.file else { return false };
        if self.file_checked.get().is_some_and(|checked| now.saturating_duration_since(checked) < STEP) {
            return false;
        }
        self.file_checked.set(Some(now));
        file.exists()
    }

    /// Sleeps until `moment`, or until it is time to end.
    pub fn sleep_until(&self, moment: Instant) {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() || self.asked() {
                return;
            }
            thread::sleep(left.min(STEP));
        }
    }
}
