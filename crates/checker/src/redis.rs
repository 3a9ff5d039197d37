//! `drover-check redis`: loads a server, uses it over one connection, checks every answer, reads all back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::connection::{Connection, ConnectionError};
use crate::dirty::{self, Dirt};
use crate::record::{GapFileError, Record, Summary};
use crate::resp::{LONGEST_BULK, Reply, write_command};
use crate::stop::{Stop, WatchError};
use crate::value::Values;

/// The fewest keys that are used, even when nothing was to be loaded.
const FEWEST_KEYS: u64 = 16;
/// The most keys: each takes four bytes here.
const MOST_KEYS: u64 = 1 << 28;
/// The most bytes of values in one pipelined batch (but at least one value).
const BATCH: usize = 256 << 10;
/// The most wrong answers that are described.
const MOST_EXAMPLES: usize = 10;

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the server listens.
    #[arg(long, value_name = "IP:PORT")]
    pub address: SocketAddr,
    /// End after this many seconds; without it, on --stop-file, SIGINT or SIGTERM.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Load this many MiB of random values first (at least 16 values are loaded).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub load_mib: u64,
    /// The length of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 4096,
          value_parser = clap::value_parser!(u64).range(8..=LONGEST_BULK as u64))]
    pub value_bytes: u64,
    /// Microseconds from one request to the next.
    #[arg(long, value_name = "US", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000_000))]
    pub interval_us: u64,
    /// The seed of all values and choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Create this file when the load is done and the steady use begins.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// End when this file appears.
    #[arg(long, value_name = "PATH")]
    pub stop_file: Option<PathBuf>,
    /// Append a line of JSON for each gap over 5 ms to this file.
    #[arg(long, value_name = "PATH")]
    pub gap_file: Option<PathBuf>,
    /// Write a line for each answer to this file: nanoseconds since 1970 and microseconds that it took.
    #[arg(long, value_name = "PATH")]
    pub series_file: Option<PathBuf>,
    /// How many hundredths of each value are random; the rest can be compressed.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub random_percent: u8,
    /// Dirty this many distinct pages of 4 KiB in each second, over a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub dirty_pages: u64,
    /// How many MiB of the load are there to be dirtied (a power of two); by default half of it.
    #[arg(long, value_name = "N")]
    pub dirty_mib: Option<u64>,
}

/// Seconds, whole or not.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Answers in the steady use.
    pub ops: u64,
    /// Answers that contradicted what was stored, in the steady use and when reading back.
    pub wrong: u64,
    /// Keys that were gone, in the steady use and when reading back.
    pub missing: u64,
    /// Whether the one connection held from the start of the steady use to the last key read back.
    pub connection_survived: bool,
    /// Whether every key was read back and nothing was ever wrong or missing.
    pub data_intact: bool,
    /// Keys in use.
    pub keys: u64,
    /// Keys that were read back in the end.
    pub read_back: u64,
    /// What came of dirtying pages, if that was asked for.
    pub dirty: Option<dirty::Report>,
    /// Gaps and latencies of the steady use.
    #[serde(flatten)]
    pub summary: Summary,
    /// Some of the wrong answers.
    pub examples: Vec<String>,
    /// Why it ended early, if it did.
    pub error: Option<String>,
}

impl Report {
    /// Whether the server passed.
    pub fn passed(&self) -> bool {
        self.connection_survived && self.data_intact && self.dirty.as_ref().is_none_or(dirty::Report::passed)
    }
}

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// Too many keys to keep track of.
    #[error("cannot load {0} keys: the most is {MOST_KEYS}")]
    ManyKeys(u64),
    /// More pages in each second than there are would be fewer pages than they say.
    #[error("cannot dirty {rate} distinct pages in each second: there are {pages}")]
    FewPages {
        /// What was asked for.
        rate: u64,
        /// What there is.
        pages: usize,
    },
    /// No signals.
    #[error("cannot check redis")]
    Watch(#[from] WatchError),
    /// No gap file.
    #[error("cannot check redis")]
    GapFile(#[from] GapFileError),
    /// Loading failed.
    #[error("cannot load the server")]
    Load(#[source] ConnectionError),
    /// The server did not take a value.
    #[error("cannot load the server: it answered {0:?}")]
    Refused(String),
    /// The end came before the steady use.
    #[error("cannot load the server: asked to end before it was loaded")]
    Stopped,
    /// No connection for the steady use.
    #[error("cannot begin the steady use")]
    Begin(#[source] ConnectionError),
    /// The ready file cannot be made.
    #[error("cannot create ready file {0}")]
    Ready(PathBuf, #[source] std::io::Error),
}

/// Loads, uses, reads back.
pub fn run(options: &Options) -> Result<Report, RedisError> {
    let stop = Stop::on_signal_or_file(options.stop_file.clone())?;
    check(options, &stop)
}

fn check(options: &Options, stop: &Stop) -> Result<Report, RedisError> {
    let dirt_mib = options.dirty_mib.unwrap_or(options.load_mib / 2);
    let mut dirt = (options.dirty_pages > 0).then(|| Dirt::new(options.seed, dirt_mib));
    if let Some(pages) = dirt.as_ref().map(Dirt::pages).filter(|&pages| options.dirty_pages > pages as u64) {
        return Err(RedisError::FewPages { rate: options.dirty_pages, pages });
    }
    let load_mib = options.load_mib.saturating_sub(if dirt.is_some() { dirt_mib } else { 0 });
    let keys = (load_mib.saturating_mul(1 << 20) / options.value_bytes).max(FEWEST_KEYS);
    if keys > MOST_KEYS {
        return Err(RedisError::ManyKeys(keys));
    }
    // At least as much as tells values apart.
    let random = ((options.value_bytes * u64::from(options.random_percent) / 100) as usize).max(8);
    let mut check = Check {
        values: Values { seed: options.seed, length: options.value_bytes as usize, random },
        versions: vec![0; keys as usize],
        ops: 0,
        wrong: 0,
        missing: 0,
        read_back: 0,
        examples: Vec::new(),
    };
    check.load(options.address, dirt.as_ref(), stop)?;
    let opened = Connection::open(options.address, stop).map_err(RedisError::Begin)?;
    let mut connection = opened.ok_or(RedisError::Stopped)?;
    if let Some(path) = &options.ready_file {
        std::fs::write(path, "ready\n").map_err(|error| RedisError::Ready(path.clone(), error))?;
    }
    if let Some(time) = options.seconds {
        stop.after(time);
    }
    let mut record = Record::begin(options.gap_file.as_deref())?.with_series(options.series_file.as_deref())?;
    let (ended, dirtied) = check.use_steadily(options, dirt.as_mut(), &mut connection, &mut record, stop);
    record.flush()?;
    let ended = match ended {
        Ok(()) => check.read_back(&mut connection, stop),
        Err(SteadyEnd::Connection(error)) => Err(error),
        Err(SteadyEnd::GapFile(error)) => return Err(error.into()),
    };
    let dirty = dirt.map(|mut dirt| {
        let complete = ended.is_ok() && dirtied.is_ok() && dirt.read_back(&mut connection, stop).is_ok();
        dirt.report(complete)
    });
    Ok(Report { dirty, ..check.report(record.summary(), ended.and(dirtied).err()) })
}

/// Why the steady use ended early.
enum SteadyEnd {
    Connection(ConnectionError),
    GapFile(GapFileError),
}

impl From<ConnectionError> for SteadyEnd {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<GapFileError> for SteadyEnd {
    fn from(error: GapFileError) -> Self {
        Self::GapFile(error)
    }
}

/// What is known of the server and what was found.
struct Check {
    values: Values,
    /// The newest version of each key that the server has confirmed.
    versions: Vec<u32>,
    ops: u64,
    wrong: u64,
    missing: u64,
    read_back: u64,
    examples: Vec<String>,
}

impl Check {
    fn batch(&self) -> usize {
        (BATCH / self.values.length).max(1)
    }

    /// Stores version 0 of every key over a connection of its own.
    fn load(&self, address: SocketAddr, dirt: Option<&Dirt>, stop: &Stop) -> Result<(), RedisError> {
        let opened = Connection::open(address, stop).map_err(RedisError::Load)?;
        let mut connection = opened.ok_or(RedisError::Stopped)?;
        let (mut commands, mut value) = (Vec::new(), Vec::new());
        let keys: Vec<usize> = (0..self.versions.len()).collect();
        for batch in keys.chunks(self.batch()) {
            if stop.asked() {
                return Err(RedisError::Stopped);
            }
            commands.clear();
            for &key in batch {
                self.values.fill(key as u64, 0, &mut value);
                write_command(&mut commands, &[b"SET", name(key).as_bytes(), &value]);
            }
            connection.send(&commands, stop).map_err(RedisError::Load)?;
            for _ in batch {
                match connection.receive(stop).map_err(RedisError::Load)? {
                    Reply::Status(text) if text == "OK" => {}
                    reply => return Err(RedisError::Refused(describe(&reply))),
                }
            }
        }
        match dirt.map(|dirt| dirt.load(&mut connection, stop)).transpose().map_err(RedisError::Load)?.flatten() {
            Some(reply) => Err(RedisError::Refused(describe(&reply))),
            None => Ok(()),
        }
    }

    /// The steady use, and beside it the dirtying of pages.
    fn use_steadily(
        &mut self,
        options: &Options,
        dirt: Option<&mut Dirt>,
        connection: &mut Connection,
        record: &mut Record,
        stop: &Stop,
    ) -> (Result<(), SteadyEnd>, Result<(), ConnectionError>) {
        let ended = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            let flag = ended.clone();
            let dirtying = dirt.map(|dirt| scope.spawn(|| dirt.run(options.address, options.dirty_pages, flag)));
            let used = self.steady(options, connection, record, stop);
            ended.store(true, Ordering::Relaxed);
            (used, dirtying.map_or(Ok(()), |thread| thread.join().expect("the load does not panic")))
        })
    }

    /// One request in each interval, SET and GET in turn, each answer awaited and checked.
    fn steady(
        &mut self,
        options: &Options,
        connection: &mut Connection,
        record: &mut Record,
        stop: &Stop,
    ) -> Result<(), SteadyEnd> {
        let interval = Duration::from_micros(options.interval_us);
        let mut chance = SmallRng::seed_from_u64(options.seed);
        let mut next = Instant::now();
        let (mut command, mut value) = (Vec::new(), Vec::new());
        while !stop.asked() {
            let key = chance.random_range(0..self.versions.len());
            let write = self.ops.is_multiple_of(2);
            command.clear();
            if write {
                self.values.fill(key as u64, self.versions[key] + 1, &mut value);
                write_command(&mut command, &[b"SET", name(key).as_bytes(), &value]);
            } else {
                write_command(&mut command, &[b"GET", name(key).as_bytes()]);
            }
            let sent = Instant::now();
            let answer = connection.send(&command, stop).and_then(|()| connection.receive(stop));
            let now = Instant::now();
            let reply = match answer {
                Ok(reply) => reply,
                Err(error) => {
                    record.given_up(sent, now)?;
                    return Err(error.into());
                }
            };
            record.answered(sent, now)?;
            self.ops += 1;
            if write {
                self.stored(key, &reply)
            } else {
                self.found(key, &reply, &mut value)
            }
            // After a gap the requests that were due are left out, not sent in a burst.
            next = (next + interval).max(Instant::now());
            stop.sleep_until(next);
        }
        Ok(())
    }

    /// Reads all keys in batches.
    fn read_back(&mut self, connection: &mut Connection, stop: &Stop) -> Result<(), ConnectionError> {
        let (mut commands, mut value) = (Vec::new(), Vec::new());
        let (keys, batch) = (self.versions.len(), self.batch());
        for start in (0..keys).step_by(batch) {
            let keys = start..(start + batch).min(keys);
            commands.clear();
            for key in keys.clone() {
                write_command(&mut commands, &[b"GET", name(key).as_bytes()]);
            }
            connection.send(&commands, stop)?;
            for key in keys {
                let reply = connection.receive(stop)?;
                self.found(key, &reply, &mut value);
                self.read_back += 1;
            }
        }
        Ok(())
    }

    /// The answer to SET of the next version.
    fn stored(&mut self, key: usize, reply: &Reply) {
        match reply {
            Reply::Status(text) if text == "OK" => self.versions[key] += 1,
            other => self.count_wrong(format!("SET {} was answered {:?}", name(key), describe(other))),
        }
    }

    /// The answer to GET.
    fn found(&mut self, key: usize, reply: &Reply, value: &mut Vec<u8>) {
        let version = self.versions[key];
        match reply {
            Reply::Bulk(found) => {
                self.values.fill(key as u64, version, value);
                if found != value {
                    let what = match self.values.version_of(key as u64, version, found) {
                        Some(old) => format!("its version {old}"),
                        None => format!("{} bytes that were never stored there", found.len()),
                    };
                    self.count_wrong(format!("{} holds {what}, not version {version}", name(key)));
                }
            }
            Reply::Missing => {
                self.missing += 1;
                self.give_example(format!("{} is missing", name(key)));
            }
            other => self.count_wrong(format!("GET {} was answered {:?}", name(key), describe(other))),
        }
    }

    fn count_wrong(&mut self, what: String) {
        self.wrong += 1;
        self.give_example(what);
    }

    fn give_example(&mut self, what: String) {
        if self.examples.len() < MOST_EXAMPLES {
            self.examples.push(what);
        }
    }

    fn report(self, summary: Summary, error: Option<ConnectionError>) -> Report {
        let keys = self.versions.len() as u64;
        Report {
            ops: self.ops,
            wrong: self.wrong,
            missing: self.missing,
            connection_survived: error.is_none(),
            data_intact: self.wrong == 0 && self.missing == 0 && self.read_back == keys,
            keys,
            read_back: self.read_back,
            summary,
            dirty: None,
            examples: self.examples,
            error: error.map(|error| crate::chain(&error)),
        }
    }
}

fn name(key: usize) -> String {
    format!("k{key}")
}

/// A short description of an answer.
fn describe(reply: &Reply) -> String {
    match reply {
        Reply::Status(text) | Reply::Error(text) => text.chars().take(80).collect(),
        Reply::Integer(number) => number.to_string(),
        Reply::Bulk(bytes) => format!("{} bytes", bytes.len()),
        Reply::Missing => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::fake::{Behaviour, FakeServer};

    fn options(address: SocketAddr) -> Options {
        Options {
            address,
            seconds: Some(Duration::from_millis(150)),
            load_mib: 1,
            value_bytes: 4096,
            interval_us: 200,
            seed: 3,
            ready_file: None,
            stop_file: None,
            gap_file: None,
            series_file: None,
            random_percent: 100,
            dirty_pages: 0,
            dirty_mib: None,
        }
    }

    fn report(behaviour: Behaviour) -> Report {
        let server = FakeServer::start(behaviour);
        check(&options(server.address), &Stop::on_file(None)).unwrap()
    }

    #[test]
    fn a_good_server_passes() {
        let report = report(Behaviour::Good);
        assert!(report.passed(), "{report:?}");
        assert_eq!((report.keys, report.read_back, report.wrong, report.missing), (256, 256, 0, 0));
        assert!(report.ops > 10, "{report:?}");
        assert!(report.summary.latency_p50_us <= report.summary.latency_p99_us);
    }

    #[test]
    fn a_server_that_went_back_in_time_is_caught() {
        let report = report(Behaviour::ForgetsWritesAfter(300));
        assert!(report.connection_survived && !report.data_intact && report.wrong > 0, "{report:?}");
        assert!(report.examples[0].contains("holds its version 0, not version 1"), "{report:?}");
    }

    #[test]
    fn a_server_that_lost_a_key_is_caught() {
        let report = report(Behaviour::Loses("k17"));
        assert!(!report.passed() && report.missing >= 1 && report.wrong == 0, "{report:?}");
    }

    #[test]
    fn a_server_that_damages_a_value_is_caught() {
        let report = report(Behaviour::Damages("k200"));
        assert!(!report.passed() && report.wrong >= 1, "{report:?}");
        assert!(report.examples[0].contains("never stored"), "{report:?}");
    }

    #[test]
    fn pages_are_dirtied_at_the_rate_and_a_write_that_was_lost_is_caught() {
        let dirtying = |behaviour| {
            let server = FakeServer::start(behaviour);
            let options = Options { load_mib: 2, dirty_pages: 200, ..options(server.address) };
            check(&options, &Stop::on_file(None)).unwrap()
        };
        let report = dirtying(Behaviour::Good);
        let dirty = report.dirty.clone().unwrap();
        assert!(report.passed() && dirty.pages > 0 && dirty.wrong == 0, "{report:?}");
        assert_eq!(report.keys, 256, "half of the load is there to be dirtied");
        let report = dirtying(Behaviour::ForgetsWritesAfter(270));
        assert!(!report.passed() && report.dirty.unwrap().wrong > 0);
    }

    #[test]
    fn more_distinct_pages_than_there_are_cannot_be_dirtied() {
        let server = FakeServer::start(Behaviour::Good);
        let options = Options { load_mib: 2, dirty_pages: 257, ..options(server.address) };
        let refused = check(&options, &Stop::on_file(None));
        assert!(matches!(refused, Err(RedisError::FewPages { rate: 257, pages: 256 })), "{refused:?}");
    }

    #[test]
    fn a_closed_connection_fails_and_is_not_made_again() {
        let server = FakeServer::start(Behaviour::ClosesAfter(300));
        let report = check(&options(server.address), &Stop::on_file(None)).unwrap();
        assert!(!report.connection_survived && !report.data_intact, "{report:?}");
        assert!(report.error.is_some());
        assert_eq!(server.connections(), 2, "one to load and one to use");
    }

    #[test]
    fn a_pause_is_reported_and_survived() {
        let pause = Duration::from_millis(250);
        let report = report(Behaviour::PausesAfter(300, pause));
        assert!(report.passed(), "{report:?}");
        assert!(report.summary.longest_gap_ms >= 250.0 && !report.summary.gaps.is_empty(), "{report:?}");
    }

    #[test]
    fn the_stop_file_ends_the_run_and_the_ready_file_tells_of_its_begin() {
        let directory = tempfile::tempdir().unwrap();
        let (ready, stop) = (directory.path().join("ready"), directory.path().join("stop"));
        let server = Arc::new(FakeServer::start(Behaviour::Good));
        let options = Options {
            seconds: None,
            ready_file: Some(ready.clone()),
            stop_file: Some(stop.clone()),
            ..options(server.address)
        };
        let run = thread::spawn(move || check(&options, &Stop::on_file(options.stop_file.clone())).unwrap());
        crate::fake::wait_for(|| ready.exists());
        std::fs::write(&stop, "").unwrap();
        assert!(run.join().unwrap().passed());
    }
}
