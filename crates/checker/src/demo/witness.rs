//! The checker on the lab's client: started, stopped and heard through `drover lab exec`.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::drover::{CommandError, Drover, Running};

/// Files on the client. Its /run is its own and empty when the lab is new.
const READY: &str = "/run/demo.ready";
const STOP: &str = "/run/demo.stop";
const GAPS: &str = "/run/demo.gaps";
/// The pause between two looks for the ready file.
const LOOK: Duration = Duration::from_millis(50);
/// How long a command on the client may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The values were not stored in time.
    #[error("cannot load the container in {0:?}")]
    Slow(Duration),
    /// It ended though nobody asked it to.
    #[error("cannot go on without the client")]
    Gone(#[source] CommandError),
    /// Its report or its gap file makes no sense.
    #[error("cannot read what the client found")]
    Report(#[source] serde_json::Error),
}

/// A time without an answer, as the gap file has it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Gap {
    /// When it began: nanoseconds since 1970, UTC.
    pub at_ns: u64,
    /// How long it was.
    pub ms: f64,
}

impl Gap {
    /// When it ended.
    pub fn end_ns(self) -> u64 {
        self.at_ns + (self.ms * 1e6) as u64
    }
}

/// What the client found.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Findings {
    /// Whether its one connection held to the end.
    pub connection_survived: bool,
    /// Whether every answer was right, and every value there in the end.
    pub data_intact: bool,
    /// The longest time between two answers.
    pub longest_gap_ms: f64,
    /// Answers in the steady use.
    pub ops: u64,
    /// Keys in use.
    pub keys: u64,
    /// Some of the wrong answers.
    pub examples: Vec<String>,
    /// Why it ended early, if it did.
    pub error: Option<String>,
    /// All gaps in the gap file.
    #[serde(skip)]
    pub gaps: Vec<Gap>,
}

/// The checker that runs on the client.
#[derive(Debug)]
pub struct Witness {
    running: Running,
}

impl Witness {
    /// Starts it: it loads `address` and then uses it, one request each millisecond.
    pub fn start(drover: &Drover<'_>, program: &Path, address: &str, load_mib: u64) -> Result<Self, WitnessError> {
        let (program, load) = (program.to_string_lossy(), load_mib.to_string());
        let running = drover.start(
            &[
                &["lab", "exec", "client", "--", &program, "redis", "--json", "--address", address][..],
                &["--load-mib", &load, "--ready-file", READY, "--stop-file", STOP, "--gap-file", GAPS],
            ]
            .concat(),
        )?;
        Ok(Self { running })
    }

    /// Waits until it has loaded the container.
    pub fn await_ready(&mut self, drover: &Drover<'_>, patience: Duration) -> Result<(), WitnessError> {
        let begin = Instant::now();
        let look = ["lab", "exec", "client", "--", "test", "-e", READY];
        while begin.elapsed() < patience {
            self.still_there()?;
            match drover.run(&look, PATIENCE) {
                Ok(_) => return Ok(()),
                Err(CommandError::Failed { status, .. }) if status.code() == Some(1) => thread::sleep(LOOK),
                Err(error) => return Err(error.into()),
            }
        }
        Err(WitnessError::Slow(patience))
    }

    /// An error when it has ended.
    pub fn still_there(&mut self) -> Result<(), WitnessError> {
        match self.running.ended()? {
            None => Ok(()),
            Some(status) => Err(WitnessError::Gone(self.running.failure(status))),
        }
    }

    /// Waits until the gap that a move has made is over, and gives its length in milliseconds; nothing when there is no
    /// such gap after all.
    pub fn await_answers(
        &mut self,
        drover: &Drover<'_>,
        began: SystemTime,
        downtime_ms: f64,
        patience: Duration,
    ) -> Result<Option<f64>, WitnessError> {
        let begin = Instant::now();
        let began = nanoseconds(began);
        while begin.elapsed() < patience {
            self.still_there()?;
            // The two clocks need not agree on when the container stood still.
            let long = |gap: &Gap| gap.end_ns() > began && gap.ms > downtime_ms / 2.0;
            if let Some(gap) = gaps(drover)?.into_iter().find(long) {
                return Ok(Some(gap.ms));
            }
            thread::sleep(LOOK);
        }
        Ok(None)
    }

    /// Asks it to end, which it does when it has read all values back, and gives what it found.
    pub fn finish(mut self, drover: &Drover<'_>, patience: Duration) -> Result<Findings, WitnessError> {
        drover.run(&["lab", "exec", "client", "--", "touch", STOP], PATIENCE)?;
        let status = self.running.wait(patience, Some(drover.stop))?;
        let printed = self.running.printed();
        if printed.trim().is_empty() {
            return Err(WitnessError::Gone(self.running.failure(status)));
        }
        let mut findings: Findings = serde_json::from_str(&printed).map_err(WitnessError::Report)?;
        findings.gaps = gaps(drover)?;
        Ok(findings)
    }
}

/// The gaps so far.
fn gaps(drover: &Drover<'_>) -> Result<Vec<Gap>, WitnessError> {
    let text = drover.run(&["lab", "exec", "client", "--", "cat", GAPS], PATIENCE)?;
    // The last line may be half written.
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(WitnessError::Report)
}

/// Nanoseconds since 1970.
pub fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
