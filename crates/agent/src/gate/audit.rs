//! The audit log: a file of JSON lines that is turned over by size, and only ever added to.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use drover_model::AuditRecord;
use tracing::error;

/// The size in bytes at which a file is turned over.
pub(crate) const LARGEST_FILE: u64 = 16 << 20;
/// How many files are kept beside the one that is written.
pub(crate) const KEPT_FILES: u32 = 8;
/// Nobody but the agent's user looks into it.
const MODE: u32 = 0o600;
/// The longest answer to who asks for the log, in records.
pub(crate) const MOST_RECORDS: usize = 10_000;

/// The log. A line is in the file before the answer to its request goes out; it is not forced to the disk.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    largest: u64,
    current: Mutex<Option<(File, u64)>>,
}

impl AuditLog {
    /// The log in `path`, which is made when the first line is written.
    pub fn new(path: PathBuf, largest: u64) -> Arc<Self> {
        Arc::new(Self { path, largest, current: Mutex::default() })
    }

    /// Adds a line, on a thread that may block. When that fails the agent's log says so, and the request goes on: a full
    /// disk must not keep an administrator from making room.
    pub async fn write(self: &Arc<Self>, record: AuditRecord) {
        let log = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || log.append(&record));
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(%error, "audit log cannot be written"),
            Err(error) => error!(%error, "audit log cannot be written"),
        }
    }

    fn append(&self, record: &AuditRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let length = line.len() as u64;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|(_, size)| size + length > self.largest) {
            *current = None;
            self.turn_over()?;
        }
        let (mut file, size) = match current.take() {
            Some(open) => open,
            None => self.open()?,
        };
        // A line that was cut short by a full disk must not swallow the next one: the file is opened anew after a failure.
        file.write_all(&line)?;
        *current = Some((file, size + length));
        Ok(())
    }

    fn open(&self) -> io::Result<(File, u64)> {
        let mut file = OpenOptions::new().append(true).create(true).mode(MODE).read(true).open(&self.path)?;
        let size = file.metadata()?.len();
        if size > 0 && !ends_in_newline(&file, size)? {
            file.write_all(b"\n")?;
        }
        Ok((file, size))
    }

    fn turn_over(&self) -> io::Result<()> {
        for number in (1..KEPT_FILES).rev() {
            ignore_missing(fs::rename(self.older(number), self.older(number + 1)))?;
        }
        ignore_missing(fs::rename(&self.path, self.older(1)))
    }

    fn older(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// The last records, the oldest first. Lines that cannot be read are left out.
    pub fn tail(&self, count: usize) -> io::Result<Vec<AuditRecord>> {
        let count = count.min(MOST_RECORDS);
        let mut last = VecDeque::new();
        let older = (1..=KEPT_FILES).map(|number| self.older(number));
        for path in std::iter::once(self.path.clone()).chain(older) {
            let before = read_tail(&path, count - last.len())?;
            before.into_iter().rev().for_each(|record| last.push_front(record));
            if last.len() >= count {
                break;
            }
        }
        Ok(last.into())
    }
}

fn ends_in_newline(file: &File, size: u64) -> io::Result<bool> {
    let mut last = [0];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut last, size - 1)?;
    Ok(last == *b"\n")
}

fn read_tail(path: &Path, count: usize) -> io::Result<VecDeque<AuditRecord>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(VecDeque::new()),
        opened => opened?,
    };
    let mut last = VecDeque::new();
    for line in BufReader::new(file).split(b'\n') {
        let Ok(record) = serde_json::from_slice(&line?) else { continue };
        last.push_back(record);
        if last.len() > count {
            last.pop_front();
        }
    }
    Ok(last)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record(number: usize) -> AuditRecord {
        AuditRecord {
            time: "2026-01-01T00:00:00Z".into(),
            node: "n1".parse().unwrap(),
            identity: None,
            role: None,
            method: "POST".into(),
            path: format!("/v1/{number}"),
            container: None,
            status: Some(403),
            duration_ms: 0.5,
            address: "10.0.0.1:5".into(),
        }
    }

    #[test]
    fn an_audit_log_is_turned_over_and_bounded_and_for_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuditLog::new(directory.path().join("audit.jsonl"), 1000);
        for number in 0..200 {
            log.append(&record(number)).unwrap();
        }
        let files: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(files.len(), 1 + KEPT_FILES as usize);
        for file in files {
            let metadata = file.metadata().unwrap();
            assert!(metadata.len() <= 1000 && metadata.permissions().mode() & 0o777 == MODE);
        }
        let paths = |count| log.tail(count).unwrap().into_iter().map(|record| record.path).collect::<Vec<_>>();
        assert_eq!(paths(3), ["/v1/197", "/v1/198", "/v1/199"]);
        let all = paths(1000);
        assert!(all.len() > 20 && all.len() < 200 && all.last().unwrap() == "/v1/199");
        assert!(all.windows(2).all(|pair| pair[0].len() < pair[1].len() || pair[0] < pair[1]), "{all:?}");
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_swallow_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, "{\"time\":\"2026").unwrap();
        let log = AuditLog::new(path, 1000);
        log.append(&record(1)).unwrap();
        assert_eq!(log.tail(5).unwrap(), [record(1)]);
    }
}
