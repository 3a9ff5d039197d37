//! `drover-check collect`: the witness outside a container. It receives the numbers of `count` and checks them.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::numbers::{LONGEST_LINE, Sequence};
use crate::record::milliseconds;
use crate::stop::{STEP, Stop, WatchError};

/// How long to sleep between two looks for the one connection.
const LOOK: Duration = Duration::from_millis(5);

/// Where to listen and what to write.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen for the one connection.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// The file that the numbers are appended to.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Write the address to this file once connections are accepted.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// End when this file appears.
    #[arg(long, value_name = "PATH")]
    pub stop_file: Option<PathBuf>,
}

/// How the collection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The counter closed its connection.
    Closed,
    /// The time had come.
    Stopped,
    /// The connection broke.
    Broken,
}

/// What was received.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Numbers.
    pub received: u64,
    /// The first.
    pub first: Option<u64>,
    /// The last.
    pub last: Option<u64>,
    /// Places where a number was not the one before plus one, or was no number.
    pub lost_or_repeated: u64,
    /// The first of them.
    pub first_break: Option<String>,
    /// The longest time between two arrivals, in milliseconds.
    pub longest_gap_ms: f64,
    /// How it ended.
    pub ended: End,
}

impl Report {
    /// Whether something was received and nothing was wrong.
    pub fn passed(&self) -> bool {
        self.received > 0 && self.lost_or_repeated == 0 && self.ended != End::Broken
    }
}

/// A collection that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// No signals.
    #[error("cannot collect")]
    Watch(#[from] WatchError),
    /// No listener.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The ready file cannot be made.
    #[error("cannot create ready file {0}")]
    Ready(PathBuf, #[source] std::io::Error),
    /// No connection.
    #[error("cannot accept the connection")]
    Accept(#[source] std::io::Error),
    /// The numbers cannot be kept.
    #[error("cannot write {0}")]
    Out(PathBuf, #[source] std::io::Error),
}

/// Accepts one connection and collects until it ends or it is time to end.
pub fn run(options: &Options) -> Result<Report, CollectError> {
    let stop = Stop::on_signal_or_file(options.stop_file.clone())?;
    let listen = |error| CollectError::Listen(options.listen, error);
    let listener = TcpListener::bind(options.listen).map_err(listen)?;
    if let Some(path) = &options.ready_file {
        let address = listener.local_addr().map_err(listen)?;
        std::fs::write(path, format!("{address}\n")).map_err(|error| CollectError::Ready(path.clone(), error))?;
    }
    collect(listener, &options.out, &stop)
}

fn collect(listener: TcpListener, out: &PathBuf, stop: &Stop) -> Result<Report, CollectError> {
    let keep = |error| CollectError::Out(out.clone(), error);
    let mut file = OpenOptions::new().append(true).create(true).open(out).map_err(keep)?;
    let mut collection = Collection::default();
    let ended = match accept(listener, stop).map_err(CollectError::Accept)? {
        Some(stream) => collection.receive(stream, &mut file, stop).map_err(keep)?,
        None => End::Stopped,
    };
    if ended != End::Stopped && !collection.unread.is_empty() {
        let rest = String::from_utf8_lossy(&collection.unread).into_owned();
        collection.sequence.note_break(format!("{rest:?} has no end"));
    }
    let Sequence { count, first, last, breaks, first_break } = collection.sequence;
    let longest_gap_ms = milliseconds(collection.longest);
    Ok(Report { received: count, first, last, lost_or_repeated: breaks, first_break, longest_gap_ms, ended })
}

/// The first connection; none other is accepted.
fn accept(listener: TcpListener, stop: &Stop) -> std::io::Result<Option<TcpStream>> {
    listener.set_nonblocking(true)?;
    while !stop.asked() {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(STEP))?;
                return Ok(Some(stream));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                stop.sleep_until(Instant::now() + LOOK);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What has come so far.
#[derive(Default)]
struct Collection {
    sequence: Sequence,
    /// The beginning of a line whose end has not come.
    unread: Vec<u8>,
    last: Option<Instant>,
    longest: Duration,
}

impl Collection {
    /// Receives until the end; an error is one of the file.
    fn receive(&mut self, mut stream: TcpStream, file: &mut File, stop: &Stop) -> std::io::Result<End> {
        let mut buffer = vec![0; 64 << 10];
        while !stop.asked() {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(End::Closed),
                Ok(count) => {
                    self.arrived(Instant::now());
                    self.take(&buffer[..count], file)?;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return Ok(End::Broken),
            }
        }
        Ok(End::Stopped)
    }

    fn arrived(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now.saturating_duration_since(last));
        }
    }

    /// Checks and keeps all whole lines.
    fn take(&mut self, bytes: &[u8], file: &mut File) -> std::io::Result<()> {
        self.unread.extend_from_slice(bytes);
        let mut whole = 0;
        for line in self.unread.split_inclusive(|byte| *byte == b'\n') {
            if let Some((b'\n', number)) = line.split_last() {
                self.sequence.take(number);
                whole += line.len();
            } else if line.len() > LONGEST_LINE {
                self.sequence.take(line);
                whole += line.len();
            }
        }
        file.write_all(&self.unread[..whole])?;
        self.unread.drain(..whole);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn collected(pieces: &'static [&'static str]) -> (Report, String) {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sender = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
        });
        let out = directory.path().join("numbers");
        let report = collect(listener, &out, &Stop::on_file(None)).unwrap();
        sender.join().unwrap();
        (report, std::fs::read_to_string(out).unwrap())
    }

    #[test]
    fn numbers_are_kept_and_pass_however_they_are_cut() {
        let (report, kept) = collected(&["9\n1", "0\n11", "\n", "12\n13\n"]);
        assert!(report.passed(), "{report:?}");
        assert_eq!((report.received, report.first, report.last), (5, Some(9), Some(13)));
        assert!(report.longest_gap_ms >= 20.0, "{report:?}");
        assert_eq!((kept.as_str(), report.ended), ("9\n10\n11\n12\n13\n", End::Closed));
    }

    #[test]
    fn loss_repetition_and_damage_are_found() {
        for pieces in [&["1\n", "3\n"][..], &["1\n1\n"], &["1\n2\nx\n"], &["1\n", "2"], &["5\n4\n"], &[""]] {
            let (report, _) = collected(pieces);
            assert!(!report.passed(), "{pieces:?} {report:?}");
        }
    }

    #[test]
    fn the_stop_ends_it_even_when_nobody_connects() {
        let directory = tempfile::tempdir().unwrap();
        let stop = Stop::on_file(None);
        stop.after(Duration::from_millis(30));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let report = collect(listener, &directory.path().join("numbers"), &stop).unwrap();
        assert_eq!((report.ended, report.passed()), (End::Stopped, false));
    }
}
