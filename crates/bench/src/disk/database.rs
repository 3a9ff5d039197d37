//! A PostgreSQL server that moves to and fro between two nodes, while pgbench on the client uses it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Turn;
use super::case::Contestant;
use super::turn::{Measured, TurnError, forget_image};
use crate::client::now_ns;
use crate::command::Running;
use crate::lab::{ADDRESS, CLIENT, LONG, Lab, Pids, SHORT, SOURCE, TARGET, inside, script};
use crate::mover::by_drover;
use crate::series::{Answer, longest_gap};

const IMAGE: &str = "postgres";
const CONTAINER: &str = "pg";
/// What the server is told: its log of transactions stays small beside its data.
const SERVER: [&str; 6] = ["-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "max_wal_size=128MB"];
/// 68 × 100,000 accounts are 1 GiB.
const SCALE: &str = "68";
/// Connections of pgbench, and how many transactions they begin in each second.
const CONNECTIONS: usize = 4;
const RATE: &str = "200";
/// The begin of the name of pgbench's log, on the client.
const LOG: &str = "bench.pgbench";
/// How long making the data may take, and whatever else the server does.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long it is used before and after a move.
const DWELL: Duration = Duration::from_secs(2);
/// The pause between two attempts to reach a server that has just been started.
const ATTEMPT: Duration = Duration::from_millis(100);

/// The server, with its data.
#[derive(Debug)]
pub struct Database {
    /// The node that it is on.
    at: &'static str,
}

impl Database {
    /// Starts it on the source, and makes its data.
    pub fn start(lab: &Lab, image: &Path) -> Result<Self, TurnError> {
        lab.run(&["image", "import", IMAGE, &image.to_string_lossy()], LONG)?;
        let run = ["run", "--node", SOURCE, "--name", CONTAINER, "--ip", ADDRESS, "-d", IMAGE];
        lab.run(&[&run[..], &SERVER].concat(), SHORT)?;
        let begin = Instant::now();
        while query(lab, "SELECT 1").is_err() {
            if begin.elapsed() >= SHORT {
                return Err(TurnError::Unready("PostgreSQL"));
            }
            thread::sleep(ATTEMPT);
        }
        let steps = ["pgbench", "-h", ADDRESS, "-U", "postgres", "-i", "-q", "-I", "dtGvp", "-s", SCALE, "postgres"];
        lab.exec(CLIENT, &steps, PATIENCE)?;
        query(lab, "CHECKPOINT")?;
        Ok(Self { at: SOURCE })
    }

    /// Moves it to the other node.
    pub fn turn(&mut self, lab: &Lab, pids: &Pids, turn: &Turn) -> Result<Measured, TurnError> {
        let to = if self.at == SOURCE { TARGET } else { SOURCE };
        if turn.contestant == Contestant::Whole {
            forget_image(lab, to, IMAGE)?;
        }
        // It was there before, and its files may have stayed.
        if turn.contestant != Contestant::Synced {
            lab.run(&["copies", "prune", "--node", to], LONG)?;
        }
        lab.link(turn.link)?;
        let load = Load::start(lab, pids)?;
        thread::sleep(DWELL);
        let mut measured = Measured::default();
        // The copy that has stayed there is brought up to date.
        if turn.contestant == Contestant::Synced {
            let begin = Instant::now();
            lab.run(&["sync", CONTAINER, "--to", to], PATIENCE)?;
            measured.note("sync_ms", begin.elapsed().as_secs_f64() * 1e3);
        }
        let moved = by_drover(lab, CONTAINER, to, &[])?;
        self.at = to;
        thread::sleep(DWELL);
        let series = load.finish(lab)?;
        let gap = longest_gap(&series, moved.began_ns, now_ns()).ok_or(TurnError::NoGap)?;
        check_sums(lab)?;
        let report = moved.report.unwrap_or_default();
        let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
        measured.note("gap_ms", gap.ms());
        measured.note("downtime_ms", moved.downtime_ms);
        measured.note("files_bytes", number("bytes_disk") - number("bytes_image"));
        measured.note_from("total_ms", &report, "/total_ms");
        measured.note_from("image_bytes", &report, "/bytes_image");
        measured.note_from("files_frozen_ms", &report, "/files_frozen_ms");
        // The last round is the one while frozen.
        let last = report["rounds"].as_array().map_or(0, |rounds| rounds.len().saturating_sub(1));
        measured.note_from("files_frozen_bytes", &report, &format!("/rounds/{last}/files"));
        measured.reports.push(report);
        Ok(measured)
    }
}

/// Asks the server, as its only user.
fn query(lab: &Lab, sql: &str) -> Result<String, TurnError> {
    Ok(lab.exec(CLIENT, &["psql", "-h", ADDRESS, "-U", "postgres", "-Atc", sql], PATIENCE)?)
}

/// Every transaction of pgbench adds the same to an account, a teller, a branch and the history.
fn check_sums(lab: &Lab) -> Result<(), TurnError> {
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";
    let answer = query(lab, sums)?;
    let mut numbers = answer.trim().split('|');
    let first = numbers.next().filter(|number| !number.is_empty());
    let equal = first.is_some_and(|first| numbers.all(|number| number == first));
    if equal { Ok(()) } else { Err(TurnError::Sums(answer.trim().to_owned())) }
}

/// pgbench at work.
struct Load {
    running: Running,
    pid: u32,
}

impl Load {
    fn start(lab: &Lab, pids: &Pids) -> Result<Self, TurnError> {
        lab.run_script(CLIENT, &script!("pgbench-clean.sh"), None)?;
        let (connections, log) = (CONNECTIONS.to_string(), format!("--log-prefix=/run/{LOG}"));
        let pgbench =
            ["lab", "exec", CLIENT, "--", "pgbench", "-h", ADDRESS, "-U", "postgres", "-n", "-T", "600", "-l"];
        let load = ["-j", "1", "-c", &connections, "-R", RATE, &log, "postgres"];
        let running = lab.start(&[&pgbench[..], &load].concat(), None)?;
        Ok(Self { running, pid: pids.client })
    }

    /// Ends it, and gives its series of transactions. It ends when it has lost its connections: nothing else has it write
    /// its log to the end.
    fn finish(mut self, lab: &Lab) -> Result<Vec<Answer>, TurnError> {
        let end = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE application_name = 'pgbench'";
        let survived = query(lab, end)?;
        let survived = survived.trim().parse().map_err(|_| TurnError::Answer("psql", survived))?;
        self.running.wait(SHORT)?;
        if survived != CONNECTIONS {
            return Err(TurnError::Connections(survived, CONNECTIONS));
        }
        let run = inside(self.pid, "/run");
        let failed = |error| TurnError::File(run.clone(), error);
        let mut files = fs::read_dir(&run).map_err(failed)?.flatten().map(|entry| entry.path());
        let is_log = |path: &std::path::PathBuf| path.file_stem().is_some_and(|stem| stem == LOG);
        let log = files.find(is_log).ok_or(TurnError::NoGap)?;
        let text = fs::read_to_string(&log).map_err(|error| TurnError::File(log, error))?;
        Ok(text.lines().filter_map(transaction).collect())
    }
}

/// A line of pgbench's log: connection, number, microseconds that it took, script, and when it ended in seconds and
/// microseconds since 1970. One that was skipped or broke off is none.
fn transaction(line: &str) -> Option<Answer> {
    let mut words = line.split(' ').skip(2);
    let took_us = words.next()?.parse().ok()?;
    let (seconds, micros): (u64, u64) = (words.nth(1)?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Answer { at_ns: (seconds * 1_000_000 + micros) * 1000, took_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_read_from_a_log_and_what_is_none_is_left_out() {
        let answer = Answer { at_ns: 1_795_414_494_205_887_000, took_us: 5_580_518 };
        assert_eq!(transaction("2 2443 5580518 0 1795414494 205887 5576022"), Some(answer));
        assert_eq!(transaction("2 2443 skipped 0 1795414494 205887 0"), None);
        assert_eq!(transaction("2 2443 55805"), None);
    }
}
