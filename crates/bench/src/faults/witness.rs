//! The container that is moved, and the client that listens to it: whether anything of it was lost, repeated or falsified.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::ground::{Ground, GroundError, IMAGE, LOOK};
use crate::command::{CommandError, Running};
use crate::lab::{CLIENT, SHORT, SOURCE};

/// Where the client listens.
const LISTEN: &str = "10.77.0.100:7000";
/// How long the first numbers may take, and the next ones.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long they may take where their connection may be lost.
const MOMENT: Duration = Duration::from_millis(500);
/// Numbers to a connection and to a file, and memory that is changed and looked at.
const PROGRAM: &str =
    "drover-check count --file /numbers --connect 10.77.0.100:7000 --interval-us 5000 >/dev/null & c=$!
    drover-check torture --json --mib 8 --threads 1 --children 0 --pause-us 1000 & t=$!
    trap 'kill $t $c' TERM; wait $t; wait $t; wait $c; exit 0";

/// What the client printed.
#[derive(Debug, Deserialize)]
struct Collected {
    received: u64,
    lost_or_repeated: u64,
    first_break: Option<String>,
    longest_gap_ms: f64,
}

/// A file of numbers.
#[derive(Debug, Deserialize)]
struct Numbers {
    ok: bool,
    breaks: u64,
    first_break: Option<String>,
}

/// What is known of the container in the end.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The longest time without a number, in milliseconds.
    pub gap_ms: f64,
    /// Whether the client heard of it to the end, on its one connection.
    pub heard: bool,
    /// Whether its program had begun anew.
    pub anew: bool,
    /// What was wrong.
    pub wrong: Vec<String>,
}

/// The container and its client.
#[derive(Debug)]
pub struct Witness {
    /// The container's name.
    pub name: String,
    /// Its id.
    pub id: String,
    collecting: Running,
    /// Files on the client.
    out: String,
    stop: String,
}

impl Witness {
    /// Starts both.
    pub fn begin(ground: &Ground, name: &str) -> Result<Self, GroundError> {
        let [out, ready, stop] = ["out", "ready", "stop"].map(|file| format!("/run/{name}.{file}"));
        let collect =
            ["lab", "exec", CLIENT, "--", "/opt/drover/drover-check", "collect", "--json", "--listen", LISTEN];
        let files = ["--out", &out, "--ready-file", &ready, "--stop-file", &stop];
        let collecting = ground.lab.start(&[&collect[..], &files].concat(), None)?;
        await_that("the client", || fs::exists(ground.on_client(&ready)).unwrap_or(false))?;
        let run = ["run", "--node", SOURCE, "--name", name, "--restart", "always", "-d", IMAGE, "sh", "-c", PROGRAM];
        ground.lab.run(&run, SHORT)?;
        let record: Value = ground.lab.ask(&["inspect", name], SHORT)?;
        let id = record["spec"]["id"].as_str().unwrap_or_default().to_owned();
        let witness = Self { name: name.to_owned(), id, collecting, out, stop };
        await_that("the first numbers", || witness.length(ground) > 0)?;
        await_that("the memory of the container", || {
            ground.lab.run(&["logs", name], SHORT).is_ok_and(|log| log.contains("ready"))
        })?;
        Ok(witness)
    }

    /// Bytes of numbers that have come.
    fn length(&self, ground: &Ground) -> u64 {
        fs::metadata(ground.on_client(&self.out)).map_or(0, |file| file.len())
    }

    /// Whether numbers come within so long.
    fn is_heard(&self, ground: &Ground, patience: Duration) -> bool {
        let before = self.length(ground);
        let begin = Instant::now();
        while begin.elapsed() < patience {
            if self.length(ground) > before {
                return true;
            }
            thread::sleep(LOOK);
        }
        false
    }

    /// Ends both, removes the container, and tells what is known. Whether its connection may have ended with its node.
    pub fn end(mut self, ground: &Ground, may_be_lost: bool) -> Result<Findings, GroundError> {
        let patience = if may_be_lost { MOMENT } else { PATIENCE };
        let mut findings = Findings { heard: self.is_heard(ground, patience), ..Findings::default() };
        let numbers = ["exec", &self.name, "drover-check", "verify-numbers", "--json", "/numbers"];
        match ask_of_failed::<Numbers>(ground, &numbers)? {
            Numbers { ok: true, .. } => {}
            // It counts from 1 whenever it begins, and nothing else may be wrong then.
            Numbers { breaks: 1, first_break: Some(why), .. } if why.contains(": 1 where ") => findings.anew = true,
            Numbers { first_break, .. } => findings.wrong.push(format!("file: {}", first_break.unwrap_or_default())),
        }
        self.collected(ground, &mut findings)?;
        ground.lab.run(&["stop", &self.name], SHORT)?;
        let log = ground.lab.run(&["logs", &self.name], SHORT)?;
        let mut reports = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        match reports.next_back() {
            None => findings.wrong.push("memory: it was not looked at to the end".to_owned()),
            Some(report) if report["wrong"].is_null() => {}
            Some(report) => findings.wrong.push(format!("memory: {}", report["wrong"])),
        }
        ground.lab.run(&["rm", "-f", &self.name], SHORT)?;
        Ok(findings)
    }

    fn collected(&mut self, ground: &Ground, findings: &mut Findings) -> Result<(), GroundError> {
        let stop = ground.on_client(&self.stop);
        fs::write(&stop, "").map_err(|error| GroundError::File(stop, error))?;
        self.collecting.wait(SHORT)?;
        let printed = self.collecting.printed();
        let collected: Collected = serde_json::from_str(&printed)
            .map_err(|error| CommandError::Answer("drover-check collect".to_owned(), error))?;
        findings.gap_ms = collected.longest_gap_ms;
        if collected.lost_or_repeated > 0 || collected.received == 0 {
            findings
                .wrong
                .push(format!("connection: {}", collected.first_break.unwrap_or_else(|| "nothing came".into())));
        }
        Ok(())
    }
}

/// What a command printed that may fail when it finds something wrong.
fn ask_of_failed<T: serde::de::DeserializeOwned>(ground: &Ground, arguments: &[&str]) -> Result<T, CommandError> {
    let mut running = ground.lab.start(arguments, None)?;
    let status = running.wait(SHORT)?;
    let printed = running.printed();
    match serde_json::from_str(&printed) {
        Ok(answer) => Ok(answer),
        Err(_) if !status.success() => Err(running.failure(status)),
        Err(error) => Err(CommandError::Answer(arguments.join(" "), error)),
    }
}

/// Waits for what has to come.
fn await_that(what: &'static str, mut there: impl FnMut() -> bool) -> Result<(), GroundError> {
    let begin = Instant::now();
    while !there() {
        if begin.elapsed() >= PATIENCE {
            return Err(GroundError::Late(what, PATIENCE));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}
