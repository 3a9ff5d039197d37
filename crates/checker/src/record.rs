//! What is measured: gaps between answers and the time that each answer took.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Gaps longer than this go into the report.
pub const REPORTED: Duration = Duration::from_millis(15);
/// Gaps longer than this go into the gap file.
pub const FILED: Duration = Duration::from_millis(5);
/// The most gaps that a report lists.
const MOST_GAPS: usize = 1000;
/// The longest latency that is told apart, in microseconds: one hour.
const LONGEST_LATENCY_US: u64 = 3_600_000_000;

/// A gap file or a series file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write file {path}")]
pub struct GapFileError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// A time without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gap {
    /// When it began, that is when the answer before it came: milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// How long it was.
    pub ms: f64,
    /// How much of it the checker was waiting for the answer; the rest is the interval and its own delay.
    pub waited_ms: f64,
}

/// The line of the gap file.
#[derive(Debug, Serialize)]
struct GapLine {
    /// When the gap began: nanoseconds since 1970, UTC.
    at_ns: u64,
    ms: f64,
    waited_ms: f64,
}

/// The records of one run.
#[derive(Debug)]
pub struct Record {
    last: Instant,
    longest: Duration,
    gaps: Vec<Gap>,
    gaps_left_out: u64,
    latency: Histogram<u64>,
    file: Option<(PathBuf, File)>,
    /// Each answer: when it came, in nanoseconds since 1970, and how long it took, in microseconds.
    series: Option<(PathBuf, BufWriter<File>)>,
}

/// What a [`Record`] says in the end.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The longest time between two consecutive answers, in milliseconds.
    pub longest_gap_ms: f64,
    /// All gaps over 15 ms, as far as they fit.
    pub gaps: Vec<Gap>,
    /// How many did not fit.
    pub gaps_left_out: u64,
    /// Half of the answers took no longer than this, in microseconds.
    pub latency_p50_us: u64,
    /// 99 of 100 answers took no longer than this, in microseconds.
    pub latency_p99_us: u64,
    /// No answer took longer than this, in microseconds.
    pub latency_max_us: u64,
}

impl Record {
    /// A record that begins now; gaps are appended to the file if there is one.
    pub fn begin(file: Option<&Path>) -> Result<Self, GapFileError> {
        let open = |path: &Path| match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(source) => Err(GapFileError { path: path.to_owned(), source }),
        };
        Ok(Self {
            last: Instant::now(),
            longest: Duration::ZERO,
            gaps: Vec::new(),
            gaps_left_out: 0,
            latency: Histogram::new_with_bounds(1, LONGEST_LATENCY_US, 3).expect("the bounds are constant and right"),
            file: file.map(open).transpose()?,
            series: None,
        })
    }

    /// Writes a line for each answer to `path`, too: when it came, in nanoseconds since 1970, and how long it took, in
    /// microseconds.
    pub fn with_series(mut self, path: Option<&Path>) -> Result<Self, GapFileError> {
        if let Some(path) = path {
            let file = File::create(path).map_err(|source| GapFileError { path: path.to_owned(), source })?;
            self.series = Some((path.to_owned(), BufWriter::new(file)));
        }
        Ok(self)
    }

    /// Brings to its file what has not been written yet.
    pub fn flush(&mut self) -> Result<(), GapFileError> {
        let Some((path, file)) = &mut self.series else { return Ok(()) };
        file.flush().map_err(|source| GapFileError { path: path.clone(), source })
    }

    /// An answer came at `now` to what was sent at `sent`.
    pub fn answered(&mut self, sent: Instant, now: Instant) -> Result<(), GapFileError> {
        let waited = now.saturating_duration_since(sent);
        self.latency.saturating_record(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX).max(1));
        if let Some((path, file)) = &mut self.series {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            writeln!(file, "{} {}", at.as_nanos(), waited.as_micros())
                .map_err(|source| GapFileError { path: path.clone(), source })?;
        }
        self.gap(sent, now)
    }

    /// No answer to what was sent at `sent` will come any more.
    pub fn given_up(&mut self, sent: Instant, now: Instant) -> Result<(), GapFileError> {
        self.gap(sent, now)
    }

    fn gap(&mut self, sent: Instant, now: Instant) -> Result<(), GapFileError> {
        let gap = now.saturating_duration_since(self.last);
        self.last = now;
        self.longest = self.longest.max(gap);
        if gap <= FILED.min(REPORTED) {
            return Ok(());
        }
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(gap);
        let ms = milliseconds(gap);
        let waited_ms = milliseconds(now.saturating_duration_since(sent));
        if gap > REPORTED {
            if self.gaps.len() < MOST_GAPS {
                let at_ms = u64::try_from(began.as_millis()).unwrap_or(u64::MAX);
                self.gaps.push(Gap { at_ms, ms, waited_ms });
            } else {
                self.gaps_left_out += 1;
            }
        }
        if gap > FILED {
            self.file_gap(&GapLine { at_ns: u64::try_from(began.as_nanos()).unwrap_or(u64::MAX), ms, waited_ms })?;
        }
        Ok(())
    }

    fn file_gap(&mut self, line: &GapLine) -> Result<(), GapFileError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_vec(line).expect("numbers always become JSON");
        text.push(b'\n');
        file.write_all(&text).map_err(|source| GapFileError { path: path.clone(), source })
    }

    /// What was measured.
    pub fn summary(self) -> Summary {
        Summary {
            longest_gap_ms: milliseconds(self.longest),
            gaps: self.gaps,
            gaps_left_out: self.gaps_left_out,
            latency_p50_us: self.latency.value_at_quantile(0.5),
            latency_p99_us: self.latency.value_at_quantile(0.99),
            latency_max_us: self.latency.max(),
        }
    }
}

/// Milliseconds with three decimals.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_listed_filed_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gaps");
        let mut record = Record::begin(Some(&path)).unwrap();
        let mut now = record.last;
        for ms in [1, 5, 10, 15, 20, 300] {
            let sent = now + Duration::from_millis(ms) / 2;
            now += Duration::from_millis(ms);
            record.answered(sent, now).unwrap();
        }
        let lines: Vec<serde_json::Value> =
            std::fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let filed: Vec<f64> = lines.iter().map(|line| line["ms"].as_f64().unwrap()).collect();
        assert_eq!(filed, [10.0, 15.0, 20.0, 300.0]);
        assert!(lines.iter().all(|line| line["at_ns"].as_u64().is_some()));
        let summary = record.summary();
        assert_eq!(summary.gaps.iter().map(|gap| gap.ms).collect::<Vec<_>>(), [20.0, 300.0]);
        assert_eq!(summary.gaps[1].waited_ms, 150.0);
        assert_eq!(summary.longest_gap_ms, 300.0);
        assert!(summary.latency_max_us >= 150_000 && summary.latency_p50_us < 10_000, "{summary:?}");
    }

    #[test]
    fn each_answer_has_its_line_in_the_series() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("series");
        let mut record = Record::begin(None).unwrap().with_series(Some(&path)).unwrap();
        let now = record.last;
        for us in [150, 20_000] {
            record.answered(now, now + Duration::from_micros(us)).unwrap();
        }
        record.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let latencies: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(latencies, ["150", "20000"]);
    }

    #[test]
    fn a_report_lists_only_so_many_gaps() {
        let mut record = Record::begin(None).unwrap();
        let mut now = record.last;
        for _ in 0..MOST_GAPS + 3 {
            now += Duration::from_millis(16);
            record.answered(now, now).unwrap();
        }
        let summary = record.summary();
        assert_eq!((summary.gaps.len(), summary.gaps_left_out), (MOST_GAPS, 3));
    }
}
