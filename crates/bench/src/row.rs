//! The rows of results: one line of JSON for each run, appended as it comes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::suite::{Link, Suite, Workload};

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The session it was part of; ratios are made within one.
    pub session: String,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// The suite.
    pub suite: Suite,
    /// What was moved.
    pub workload: Workload,
    /// Over which link.
    pub link: Link,
    /// By whom.
    pub contestant: String,
    /// Which repetition, from 1.
    pub repetition: u32,
    /// Why it does not count, if it does not.
    pub invalid: Option<String>,
    /// What was measured, as far as the run came.
    pub measures: Option<Measures>,
    /// Drover's own report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<serde_json::Value>,
}

/// What was measured in one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// The longest time between two answers that the client saw, in milliseconds.
    pub gap_ms: f64,
    /// How long the container stood still by the mover's own account, in milliseconds: Drover's downtime; for peers from
    /// the order to dump to the end of the restore.
    pub downtime_ms: f64,
    /// From the order until the source was free, in milliseconds.
    pub total_ms: f64,
    /// From the order until all pages were in place on the target, in milliseconds.
    pub filled_ms: f64,
    /// Milliseconds in each phase, in Drover's words.
    pub phases: BTreeMap<String, f64>,
    /// Bytes of IP packets between the two nodes, both ways, the client's not among them.
    pub bytes: u64,
    /// The client's latency from the order until source and target were done.
    pub latency: Latency,
    /// The client's latency from its first answer after the move until all pages were in place.
    pub fill_latency: Option<Latency>,
    /// What the source did.
    pub source: Usage,
    /// What the target did.
    pub target: Usage,
    /// Pages that the load really dirtied in each second.
    pub dirty_pages_per_s: Option<f64>,
}

/// Latencies of the answers in a window of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many answers.
    pub answers: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_us: u64,
    /// None took longer, in microseconds.
    pub max_us: u64,
}

/// What a node did more than when nothing moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds of processor time.
    pub cpu_s: f64,
    /// Bytes of memory at the peak, files in tmpfs among them, the container's own not counted.
    pub memory_bytes: u64,
}

/// What a session ran on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// When it began: seconds since 1970, as a word.
    pub session: String,
    /// The machine.
    pub machine: Machine,
    /// Programs and what they say of their versions.
    pub versions: BTreeMap<String, String>,
}

/// A machine, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// MiB of memory.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub system: String,
}

/// A file of results that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It cannot be written.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] std::io::Error),
    /// A line makes no sense.
    #[error("cannot read line {1} of {0}")]
    Line(PathBuf, usize, #[source] serde_json::Error),
}

/// The file with the rows in the directory of results.
pub fn rows_file(directory: &Path) -> PathBuf {
    directory.join("rows.jsonl")
}

/// The file with the sessions.
pub fn sessions_file(directory: &Path) -> PathBuf {
    directory.join("sessions.jsonl")
}

/// Appends one line.
pub fn append<T: Serialize>(path: &Path, value: &T) -> Result<(), RowError> {
    let failed = |error| RowError::Write(path.to_owned(), error);
    let mut text = serde_json::to_vec(value).expect("rows are always JSON");
    text.push(b'\n');
    let mut file: File = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
    file.write_all(&text).map_err(failed)
}

/// Reads all lines; a file that is not there has none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RowError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|error| RowError::Read(path.to_owned(), error))?,
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| RowError::Line(path.to_owned(), number + 1, error))
        })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A row of a run that took `gap_ms`.
    pub fn row(contestant: &str, repetition: u32, gap_ms: f64) -> Row {
        Row {
            session: "1".into(),
            began_ms: 0,
            suite: Suite::Core,
            workload: Workload { mib: 64, dirty_pages: 0, random_percent: 100 },
            link: Link::Unshaped,
            contestant: contestant.into(),
            repetition,
            invalid: None,
            measures: Some(Measures { gap_ms, total_ms: 2.0 * gap_ms, ..Measures::default() }),
            report: None,
        }
    }

    #[test]
    fn rows_are_appended_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = rows_file(directory.path());
        assert_eq!(read::<Row>(&path).unwrap(), []);
        let rows = [row("a", 1, 1.5), Row { invalid: Some("no".into()), measures: None, ..row("b", 1, 0.0) }];
        for row in &rows {
            append(&path, row).unwrap();
        }
        assert_eq!(read::<Row>(&path).unwrap(), rows);
        std::fs::write(&path, "{}\n").unwrap();
        assert!(matches!(read::<Row>(&path), Err(RowError::Line(_, 1, _))));
    }
}
