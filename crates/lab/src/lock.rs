//! One `up` or `down` at a time on a machine.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::StepError;

/// How long one waits for another to end.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// Held as long as it lives; the kernel gives it back when the process dies.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it gives the lock back")] File);

impl Lock {
    /// Waits for the lock. It is on the directory `/run` itself: it outlives every lab, and nothing is left behind.
    pub(crate) fn take() -> Result<Self, StepError> {
        let path = Path::new("/run");
        let directory = File::open(path).map_err(StepError::at("open", path))?;
        let end = Instant::now() + PATIENCE;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(directory)),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(PAUSE),
                Err(error) => return Err(StepError::of("wait for another `drover lab` that holds", "/run")(error)),
            }
        }
    }
}
