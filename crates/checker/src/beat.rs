//! `drover-check beat`: the witness outside of many containers. Over one connection to each it asks `echo` for one number
//! after the other, and measures the longest time without an answer of each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::connection::connect;
use crate::record::milliseconds;
use crate::stop::{Stop, WatchError};

/// The stack of the thread of a connection, in bytes.
const STACK: usize = 128 << 10;
/// The pause between two looks at whether it is time to end.
const LOOK: Duration = Duration::from_millis(20);
/// How long an answer may take: longer than any pause, and shorter than the kernel's own patience.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whom to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where `drover-check echo` listens, each once.
    #[arg(long, required = true, value_delimiter = ',', value_name = "IP:PORT,IP:PORT")]
    pub to: Vec<SocketAddr>,
    /// Milliseconds from one question to the next.
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub every_ms: u64,
    /// Write this file once all are connected and have answered.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// End when this file appears.
    #[arg(long, value_name = "PATH")]
    pub stop_file: Option<PathBuf>,
}

/// What was heard.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which they were named.
    pub peers: Vec<Peer>,
}

/// What was heard of one.
#[derive(Debug, Serialize)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// Right answers.
    pub answers: u64,
    /// The longest time from one answer to the next, in milliseconds.
    pub longest_gap_ms: f64,
    /// What was wrong, if anything.
    pub wrong: Option<String>,
}

impl Report {
    /// Whether all have answered, and nothing was wrong.
    pub fn passed(&self) -> bool {
        self.peers.iter().all(|peer| peer.answers > 0 && peer.wrong.is_none())
    }
}

/// Asking that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeatError {
    /// No signals.
    #[error("cannot ask")]
    Watch(#[from] WatchError),
    /// No thread.
    #[error("cannot ask {0}")]
    Thread(SocketAddr, #[source] std::io::Error),
    /// The ready file cannot be made.
    #[error("cannot create ready file {0}")]
    Ready(PathBuf, #[source] std::io::Error),
}

/// Asks all until it is time to end.
pub fn run(options: &Options) -> Result<Report, BeatError> {
    let stop = Stop::on_signal_or_file(options.stop_file.clone())?;
    let ended = Arc::new(AtomicBool::new(false));
    let (ready, every) = (Arc::new(AtomicUsize::new(0)), Duration::from_millis(options.every_ms));
    let mut asking = Vec::new();
    for (number, &address) in options.to.iter().enumerate() {
        let (stop, ready) = (Stop::on_flag(Arc::clone(&ended)), Arc::clone(&ready));
        // Not all at the same moment.
        let first = every.mul_f64(number as f64 / options.to.len() as f64);
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn(move || ask(address, (first, every), &stop, &ready));
        asking.push(thread.map_err(|error| BeatError::Thread(address, error))?);
    }
    while ready.load(Ordering::Relaxed) < options.to.len() && !stop.asked() {
        stop.sleep_until(Instant::now() + every);
    }
    if let Some(path) = &options.ready_file {
        std::fs::write(path, "").map_err(|error| BeatError::Ready(path.clone(), error))?;
    }
    while !stop.asked() && !asking.iter().all(std::thread::JoinHandle::is_finished) {
        stop.sleep_until(Instant::now() + LOOK);
    }
    ended.store(true, Ordering::Relaxed);
    let peers = asking.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    Ok(Report { peers: peers.collect() })
}

/// Asks one; `ready` counts those that have answered once, or never will.
fn ask(address: SocketAddr, (first, every): (Duration, Duration), stop: &Stop, ready: &AtomicUsize) -> Peer {
    let mut peer = Peer { address, answers: 0, longest_gap_ms: 0.0, wrong: None };
    if let Err(why) = exchange(&mut peer, (first, every), stop, ready) {
        peer.wrong = Some(why);
    }
    if peer.answers == 0 {
        ready.fetch_add(1, Ordering::Relaxed);
    }
    peer
}

fn exchange(
    peer: &mut Peer,
    (first, every): (Duration, Duration),
    stop: &Stop,
    ready: &AtomicUsize,
) -> Result<(), String> {
    let connected = connect(peer.address, stop).map_err(|error| format!("cannot connect: {error}"))?;
    let Some(mut stream) = connected else { return Ok(()) };
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let mut next = Instant::now() + first;
    let mut last: Option<Instant> = None;
    let mut longest = Duration::ZERO;
    while !stop.asked() {
        stop.sleep_until(next);
        let number = peer.answers + 1;
        answer(&mut stream, number)?;
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            longest = longest.max(now.saturating_duration_since(last));
            peer.longest_gap_ms = milliseconds(longest);
        } else {
            ready.fetch_add(1, Ordering::Relaxed);
        }
        peer.answers = number;
        next = (next + every).max(now);
    }
    Ok(())
}

/// Asks for a number and waits for it.
fn answer(stream: &mut TcpStream, number: u64) -> Result<(), String> {
    let line = format!("{number}\n");
    let mut answer = vec![0; line.len()];
    let asked = stream.write_all(line.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
    asked.map_err(|error| format!("the connection broke at {number}: {error}"))?;
    if answer == line.as_bytes() {
        Ok(())
    } else {
        Err(format!("{:?} was the answer to {number}", String::from_utf8_lossy(&answer)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers so many questions, each after this pause, the last one wrongly if asked to.
    fn peer(answers: u32, pause: Duration, lies: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut buffer = [0; 64];
            for number in 1..=answers {
                let length = stream.read(&mut buffer).unwrap();
                std::thread::sleep(pause);
                if lies && number == answers {
                    buffer[0] = b'x';
                }
                stream.write_all(&buffer[..length]).unwrap();
            }
            // Whoever asks on hears the end of the connection, or of its own run.
            let _ = stream.read(&mut buffer);
        });
        address
    }

    fn report(to: Vec<SocketAddr>) -> Report {
        run(&Options { to, every_ms: 1, ready_file: None, stop_file: None }).unwrap()
    }

    #[test]
    fn gaps_lies_and_broken_connections_are_told_of_each() {
        let slow = peer(2, Duration::from_millis(30), false);
        let liar = peer(2, Duration::ZERO, true);
        let report = report(vec![slow, liar]);
        let [slow, liar] = &report.peers[..] else { panic!("{report:?}") };
        assert!(slow.longest_gap_ms >= 30.0 && slow.wrong.as_ref().unwrap().contains("broke at 3"), "{slow:?}");
        assert_eq!(liar.wrong.as_deref(), Some("\"x\\n\" was the answer to 2"));
        assert!(!report.passed());
    }
}
