//! A container that stands still for a moment while it is looked at, and runs on whatever happens.

use std::io;
use std::time::{Duration, Instant};

use drover_model::Explained;

use crate::container::Container;
use crate::error::failure;

/// How long the last process may take to stand still; until then the first ones wait for it.
const FREEZE: Duration = Duration::from_millis(500);
/// How often it is tried.
const ATTEMPTS: u32 = 5;

/// Holds the processes of a container; they run on when it is dropped.
#[derive(Debug)]
pub(crate) struct Standstill<'a> {
    container: &'a Container,
    began: Instant,
}

impl<'a> Standstill<'a> {
    /// Nobody may execute anything in it meanwhile.
    ///
    /// # Errors
    /// When not all of them stand still in time. They run on then.
    pub fn begin(container: &'a Container) -> Result<Self, Explained> {
        // A freeze interrupts sleeps, as to be dumped does.
        container.look_at_sleepers();
        // An order to freeze stands until it is taken back: from here on it is, whatever comes.
        let mut left = ATTEMPTS;
        loop {
            let standstill = Self { container, began: Instant::now() };
            left -= 1;
            match container.cgroup.freeze(FREEZE) {
                Ok(()) => return Ok(standstill),
                // A thread was in the middle of something that cannot be interrupted. The others run on for a while.
                Err(error) if left > 0 && error.kind() == io::ErrorKind::TimedOut => {
                    drop(standstill);
                    std::thread::sleep(FREEZE);
                }
                Err(error) => return Err(failure("cannot see what the container has written", &error)),
            }
        }
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        // The agent that is started next thaws what nobody has decided about.
        if let Err(error) = self.container.cgroup.thaw() {
            tracing::error!(%error, "a container that was looked at may stand still");
        }
        tracing::debug!(ms = self.began.elapsed().as_secs_f64() * 1e3, "container stood still to be looked at");
    }
}
