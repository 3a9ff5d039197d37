//! `drover-check count`: the witness inside a container. It writes increasing numbers until SIGTERM.
//!
//! It starts at 1 and remembers nothing between runs, so that a restart shows as a repetition. It has one thread,
//! sleeps with nothing but nanosleep, and keeps no output back: each number is one `write` to each place.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::connection::{CONNECT, connect};
use crate::stop::{Stop, WatchError};

/// Time between two looks whether a full disk has room again.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// Where to write.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The file that the numbers are appended to.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Where `drover-check collect` listens.
    #[arg(long, value_name = "IP:PORT")]
    pub connect: SocketAddr,
    /// Microseconds from one number to the next.
    #[arg(long, value_name = "US", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000_000))]
    pub interval_us: u64,
}

/// What was written.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The last number; 0 when none was written.
    pub last: u64,
}

/// Counting that could not go on.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// No signals.
    #[error("cannot count")]
    Watch(#[from] WatchError),
    /// No file.
    #[error("cannot open {0}")]
    Open(PathBuf, #[source] std::io::Error),
    /// The collector did not listen in time.
    #[error("cannot connect to {0} within {seconds} s", seconds = CONNECT.as_secs())]
    Connect(SocketAddr, #[source] std::io::Error),
    /// A write failed.
    #[error("cannot write {number} to {place}")]
    Write {
        number: u64,
        place: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Counts until SIGTERM.
pub fn run(options: &Options) -> Result<Report, CountError> {
    let stop = Stop::on_signal_or_file(None)?;
    count(options, &mut std::io::stdout().lock(), &stop)
}

fn count(options: &Options, pipe: &mut dyn Write, stop: &Stop) -> Result<Report, CountError> {
    let mut file = open(&options.file)?;
    let Some(mut connection) =
        connect(options.connect, stop).map_err(|error| CountError::Connect(options.connect, error))?
    else {
        return Ok(Report { last: 0 });
    };
    let interval = Duration::from_micros(options.interval_us);
    let mut next = Instant::now();
    let mut number = 0;
    while !stop.asked() {
        number += 1;
        let line = format!("{number}\n");
        let failed = |place| move |source| CountError::Write { number, place, source };
        write_when_there_is_room(&mut file, line.as_bytes(), stop).map_err(failed("the file"))?;
        pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush()).map_err(failed("standard output"))?;
        connection.write_all(line.as_bytes()).map_err(failed("the connection"))?;
        next = (next + interval).max(Instant::now());
        stop.sleep_until(next);
    }
    Ok(Report { last: number })
}

/// Waits while the disk is full: a witness that ended then could not tell what else went wrong.
fn write_when_there_is_room(file: &mut impl Write, mut rest: &[u8], stop: &Stop) -> io::Result<()> {
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::StorageFull && !stop.asked() => {
                stop.sleep_until(Instant::now() + ROOM_PAUSE);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(path: &PathBuf) -> Result<File, CountError> {
    OpenOptions::new().append(true).create(true).open(path).map_err(|error| CountError::Open(path.clone(), error))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Accepts one byte and fails from then on.
    struct BrokenPipe(bool);

    impl Write for BrokenPipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                Err(std::io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(bytes.len())
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_same_numbers_reach_the_file_the_pipe_and_the_connection() {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (file, connect) = (directory.path().join("numbers"), listener.local_addr().unwrap());
        let options = Options { file: file.clone(), connect, interval_us: 100 };
        let received = thread::spawn(move || {
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            text
        });
        let stop = Stop::on_file(None);
        stop.after(Duration::from_millis(60));
        let mut pipe = Vec::new();
        let report = count(&options, &mut pipe, &stop).unwrap();
        let expected: String = (1..=report.last).map(|number| format!("{number}\n")).collect();
        assert!(report.last > 3);
        assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
        assert_eq!(String::from_utf8(pipe).unwrap(), expected);
        assert_eq!(received.join().unwrap(), expected);
    }

    /// Takes a few bytes, has no room for a while, and then takes all.
    #[derive(Default)]
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1 += 1;
            let room = if self.1 == 1 { 2 } else { bytes.len() };
            if (2..5).contains(&self.1) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(&bytes[..room]);
            Ok(room)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_waited_for_and_no_byte_is_lost_or_repeated() {
        let mut disk = Full::default();
        write_when_there_is_room(&mut disk, b"1041\n", &Stop::on_file(None)).unwrap();
        assert_eq!(disk.0, b"1041\n");
    }

    #[test]
    fn a_write_that_fails_ends_the_count() {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (file, connect) = (directory.path().join("numbers"), listener.local_addr().unwrap());
        let options = Options { file, connect, interval_us: 100 };
        let error = count(&options, &mut BrokenPipe(false), &Stop::on_file(None)).unwrap_err();
        assert_eq!(error.to_string(), "cannot write 2 to standard output");
    }
}
