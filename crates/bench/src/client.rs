//! The client: `drover-check redis` on the lab's client, and the series of its answers.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::command::{CommandError, Running};
use crate::lab::{ADDRESS, CLIENT, Lab, Pids, inside};
use crate::series::{self, Answer};
use crate::suite::Workload;

/// Files on the client, in its own /run.
const READY: &str = "/run/bench.ready";
const STOP: &str = "/run/bench.stop";
const GAPS: &str = "/run/bench.gaps";
const SERIES: &str = "/run/bench.series";
/// The pause between two looks at a file.
const LOOK: Duration = Duration::from_millis(20);
/// How long the load may take.
const LOAD: Duration = Duration::from_secs(180);
/// How long reading all values back may take.
const READ_BACK: Duration = Duration::from_secs(240);
/// The port of the server.
const PORT: u16 = 6379;
/// The pause between two attempts to reach a server that has just been started.
const ATTEMPT: Duration = Duration::from_millis(50);

/// A client that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A command failed.
    #[error("cannot run the client")]
    Command(#[from] CommandError),
    /// A file of it cannot be used.
    #[error("cannot use the client's file {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// The values were not stored in time.
    #[error("cannot load the container in {0:?}")]
    Slow(Duration),
    /// It was not answered again.
    #[error("cannot go on: the client was not answered for {0:?} after the move")]
    Silent(Duration),
    /// Its report makes no sense.
    #[error("cannot read what the client found")]
    Report(#[source] serde_json::Error),
}

/// What the client found.
#[derive(Debug, Clone, Deserialize)]
pub struct Findings {
    connection_survived: bool,
    data_intact: bool,
    error: Option<String>,
    /// What became of the pages that were dirtied.
    pub dirty: Option<Dirtied>,
}

/// What the second connection found.
#[derive(Debug, Clone, Deserialize)]
pub struct Dirtied {
    /// Pages written per second, pauses not counted.
    pub pages_per_s: f64,
    wrong: u64,
    complete: bool,
}

impl Findings {
    /// Why the run does not count, if it does not.
    pub fn trouble(&self) -> Option<String> {
        let dirty = self.dirty.as_ref();
        if !self.connection_survived {
            Some(format!("the connection did not survive: {}", self.error.as_deref().unwrap_or("no reason given")))
        } else if !self.data_intact || dirty.is_some_and(|dirty| dirty.wrong > 0) {
            Some("data were lost or changed".to_owned())
        } else if dirty.is_some_and(|dirty| !dirty.complete) {
            Some("the dirtying connection did not survive".to_owned())
        } else {
            None
        }
    }
}

/// A client at work.
#[derive(Debug)]
pub struct Client {
    running: Running,
    pid: u32,
}

#[derive(Debug, Deserialize)]
struct GapLine {
    at_ns: u64,
    ms: f64,
}

impl Client {
    /// Starts it and waits until it has loaded the container.
    pub fn start(lab: &Lab, pids: &Pids, workload: Workload) -> Result<Self, ClientError> {
        for file in [READY, STOP, GAPS, SERIES] {
            // None of them need be there.
            let _ = fs::remove_file(inside(pids.client, file));
        }
        let begin = Instant::now();
        let ping = ["redis-cli", "-h", ADDRESS, "ping"];
        while let Err(error) = lab.exec(CLIENT, &ping, LOAD) {
            if begin.elapsed() >= LOAD || matches!(error, CommandError::Interrupted(_)) {
                return Err(error.into());
            }
            thread::sleep(ATTEMPT);
        }
        let address = format!("{ADDRESS}:{PORT}");
        let numbers = [workload.mib, workload.dirty_pages, workload.random_percent.into()].map(|n| n.to_string());
        let arguments = [
            &["lab", "exec", CLIENT, "--", "/opt/drover/drover-check", "redis", "--json", "--address", &address][..],
            &["--ready-file", READY, "--stop-file", STOP, "--gap-file", GAPS, "--series-file", SERIES],
            &["--load-mib", &numbers[0], "--dirty-pages", &numbers[1], "--random-percent", &numbers[2]],
        ];
        let mut client = Self { running: lab.start(&arguments.concat(), None)?, pid: pids.client };
        let begin = Instant::now();
        while !inside(client.pid, READY).exists() {
            client.still_there()?;
            if begin.elapsed() >= LOAD {
                return Err(ClientError::Slow(LOAD));
            }
            thread::sleep(LOOK);
        }
        Ok(client)
    }

    /// An error when it has ended.
    pub fn still_there(&mut self) -> Result<(), ClientError> {
        match self.running.ended()? {
            None => Ok(()),
            Some(status) => Err(self.running.failure(status).into()),
        }
    }

    /// Waits until a gap that the move has made is over. A move that made none is none.
    pub fn await_answers(&mut self, from_ns: u64, patience: Duration) -> Result<(), ClientError> {
        let begin = Instant::now();
        while begin.elapsed() < patience {
            self.still_there()?;
            let text = fs::read_to_string(inside(self.pid, GAPS)).unwrap_or_default();
            let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<GapLine>(line).ok());
            let mut ended = lines.map(|gap| gap.at_ns + (gap.ms * 1e6) as u64).take_while(|end| *end > from_ns);
            if ended.next().is_some() {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        Err(ClientError::Silent(patience))
    }

    /// Asks it to end, which it does when it has read all values back.
    pub fn finish(mut self) -> Result<(Findings, Vec<Answer>), ClientError> {
        let stop = inside(self.pid, STOP);
        fs::write(&stop, "").map_err(|error| ClientError::File(stop, error))?;
        let status = self.running.wait(READ_BACK)?;
        let printed = self.running.printed();
        if printed.trim().is_empty() {
            return Err(self.running.failure(status).into());
        }
        let findings = serde_json::from_str(&printed).map_err(ClientError::Report)?;
        let path = inside(self.pid, SERIES);
        let text = fs::read_to_string(&path).map_err(|error| ClientError::File(path, error))?;
        Ok((findings, series::parse(&text)))
    }
}

/// Nanoseconds since 1970, as the client counts them.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
