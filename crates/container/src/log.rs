//! A container's log: one JSON record a line, in two files that take turns, so that it never outgrows its bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use drover_model::{LogRecord, LogStream};
use rustix::fs::OFlags;

/// The newest records.
const NEW: &str = "new.jsonl";
/// The records before them.
const OLD: &str = "old.jsonl";
/// When the file of the newest records is this long in bytes, it becomes the older one.
const TURN: u64 = 8 << 20;
/// The longest line that is read, in bytes: no record is as long as a file.
const LONGEST_LINE: u64 = TURN;

/// Appends to a log. One process, the shim, has it.
#[derive(Debug)]
pub struct LogWriter {
    directory: PathBuf,
    file: File,
    length: u64,
}

impl LogWriter {
    /// Opens the log in `directory`, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (file, length) = open(OpenOptions::new().append(true).create(true), &directory.join(NEW))?;
        Ok(Self { directory: directory.to_owned(), file, length })
    }

    /// Appends output that was read just now: a record for each line, and one for an unfinished line.
    ///
    /// # Errors
    /// When the disk refuses; what was written so far stays.
    pub fn append(&mut self, stream: LogStream, bytes: &[u8]) -> io::Result<Vec<LogRecord>> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let records: Vec<_> =
            lines.map(|line| LogRecord { time_ns, stream, text: String::from_utf8_lossy(line).into_owned() }).collect();
        let mut text = Vec::with_capacity(bytes.len() + 64 * records.len());
        for record in &records {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        if self.length > 0 && self.length + text.len() as u64 > TURN {
            fs::rename(self.directory.join(NEW), self.directory.join(OLD))?;
            *self = Self::open(&self.directory)?;
        }
        self.file.write_all(&text)?;
        self.length += text.len() as u64;
        Ok(records)
    }
}

/// Opens a file of a log, and tells how long it is. A log travels with its container: what a peer has sent may be a link to
/// something of the node's, or a fifo that keeps whoever opens it waiting.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Reads what a log holds at the moment it is opened.
pub struct LogReader {
    lines: BufReader<Box<dyn Read + Send>>,
}

impl LogReader {
    /// Opens the log in `directory`; one that does not exist is empty. What is appended later is not read.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let mut chain: Box<dyn Read + Send> = Box::new(io::empty());
        for name in [OLD, NEW] {
            match open(OpenOptions::new().read(true), &directory.join(name)) {
                Ok((file, length)) => chain = Box::new(chain.chain(file.take(length))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { lines: BufReader::new(chain) })
    }
}

impl Iterator for LogReader {
    type Item = LogRecord;

    /// The next record; a line that is none (the power failed while it was written, or it is too long) is passed over.
    fn next(&mut self) -> Option<LogRecord> {
        loop {
            let mut line = Vec::new();
            if self.lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).ok()? == 0 {
                return None;
            }
            if let Ok(record) = serde_json::from_slice(&line) {
                return Some(record);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(directory: &Path) -> Vec<String> {
        LogReader::open(directory).unwrap().map(|record| record.text).collect()
    }

    #[test]
    fn lines_and_unfinished_lines_come_back_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path()).unwrap();
        log.append(LogStream::Stdout, b"one\ntw").unwrap();
        log.append(LogStream::Stderr, b"o\n\xff\n").unwrap();
        assert_eq!(texts(directory.path()), ["one\n", "tw", "o\n", "\u{fffd}\n"]);
    }

    #[test]
    fn a_torn_line_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        LogWriter::open(directory.path()).unwrap().append(LogStream::Stdout, b"whole\n").unwrap();
        let mut file = OpenOptions::new().append(true).open(directory.path().join(NEW)).unwrap();
        file.write_all(b"{\"time_ns\":1,\"str").unwrap();
        assert_eq!(texts(directory.path()), ["whole\n"]);
    }

    #[test]
    fn a_log_that_is_a_link_or_a_fifo_is_neither_read_nor_written() {
        let directory = tempfile::tempdir().unwrap();
        let (log, secret) = (directory.path().join("log"), directory.path().join("secret"));
        fs::create_dir(&log).unwrap();
        fs::write(&secret, "kept").unwrap();
        std::os::unix::fs::symlink(&secret, log.join(NEW)).unwrap();
        assert!(LogWriter::open(&log).is_err());
        assert!(LogReader::open(&log).is_err());
        assert_eq!(fs::read(&secret).unwrap(), b"kept");
        fs::remove_file(log.join(NEW)).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, log.join(NEW), 0o600.into()).unwrap();
        assert!(LogReader::open(&log).is_err());
    }

    #[test]
    fn a_line_without_end_takes_no_memory_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path()).unwrap();
        File::options().append(true).open(directory.path().join(NEW)).unwrap().set_len(4 * LONGEST_LINE).unwrap();
        log.file.write_all(b"\n").unwrap();
        log.append(LogStream::Stdout, b"found").unwrap();
        assert_eq!(texts(directory.path()), ["found"]);
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path()).unwrap();
        let line = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat();
        for _ in 0..20 {
            log.append(LogStream::Stdout, &line).unwrap();
        }
        log.append(LogStream::Stdout, b"last\n").unwrap();
        let size: u64 = [OLD, NEW].iter().map(|name| directory.path().join(name).metadata().unwrap().len()).sum();
        assert!(size <= 2 * TURN + (2 << 20), "{size}");
        assert_eq!(texts(directory.path()).last().unwrap(), "last\n");
    }
}
