//! Trees that have crossed once and are changed then: how long it takes until the target has what changed, by Drover's
//! rounds and by rsync, both over a plain TCP connection.
//!
//! Drover's rounds run in a program of their own (`crates/disk/examples/travel.rs`): no container stands in the way. It has
//! followed the tree since its first round, as it does in a move. In that round it finds a copy, as after `drover sync`: what was
//! changed since then it finds by reading both, as rsync does.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Turn;
use super::case::Contestant;
use super::turn::{Measured, TurnError};
use crate::command::Running;
use crate::hosts;
use crate::lab::{Lab, Pids, SOURCE, Script, TARGET, TARGET_ADDRESS, inside, script};
use crate::mover::await_listeners;
use crate::suite::Link;

/// Where trees are, on both nodes: on a disk.
const PLACE: &str = "/var/lib/drover/bench";
/// The program with Drover's rounds, as hosts see it.
const TRAVEL: &str = "/opt/drover/examples/travel";
const TRAVEL_PORT: u16 = 7100;
/// Made by the source when all has crossed once, and awaited by it when everything is changed.
const READY: &str = "/run/bench.ready";
const GO: &str = "/run/bench.go";
/// What `travel` does for its changes: it lets the bench make them, or nothing.
const AWAIT_GO: &str = "touch /run/bench.ready; until [ -e /run/bench.go ]; do sleep 0.02; done";
const NOTHING: &str = "true";
/// How long everything may take to cross.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(20);

/// A tree, and what is done to it.
#[derive(Debug)]
pub struct Trees {
    /// Its directory below [`PLACE`].
    name: &'static str,
    /// Makes it, if it is not there.
    make: Script,
    /// Changes it, and prints how many bytes were written.
    change: Script,
    /// Has rsync make the target's equal, and prints how many nanoseconds that took.
    rsync: Script,
}

/// A file of 1 GiB, of which 5 % of the blocks of 8 KiB are changed.
pub const BLOCKS: Trees = Trees {
    name: "blocks",
    make: script!("make-blocks.sh"),
    change: script!("change-blocks.sh"),
    rsync: script!("rsync.sh", "blocks"),
};

/// 100,000 files of 1 KiB to 8 KiB, of which 1,000 are changed.
pub const SMALL_FILES: Trees = Trees {
    name: "files",
    make: script!("make-files.sh"),
    change: script!("change-files.sh"),
    rsync: script!("rsync.sh", "files"),
};

impl Trees {
    /// Brings all of it across, and then what was changed.
    pub fn turn(&self, lab: &Lab, pids: &Pids, turn: &Turn) -> Result<Measured, TurnError> {
        lab.script(SOURCE, &self.make, None)?.finish(PATIENCE)?;
        // Both have the same copy, which is equal when a turn ends.
        match turn.contestant {
            Contestant::Rsync => self.by_rsync(lab, turn.link),
            _ => self.by_drover(lab, pids, turn.link),
        }
    }

    fn by_drover(&self, lab: &Lab, pids: &Pids, link: Link) -> Result<Measured, TurnError> {
        let copy = inside(pids.target, &format!("{}/tree", self.copy()));
        if fs::read_dir(copy).map_or(true, |mut entries| entries.next().is_none()) {
            self.travel(lab, NOTHING)?.finish()?;
        }
        for file in [READY, GO] {
            // Neither need be there.
            let _ = fs::remove_file(inside(pids.source, file));
        }
        let changed_before = self.change(lab)?;
        lab.link(link)?;
        let begin = hosts::bytes(lab)?;
        let mut travel = self.travel(lab, AWAIT_GO)?;
        await_ready(pids, &mut travel.sending)?;
        let changed = self.change(lab)?;
        let ready = hosts::bytes(lab)?;
        let go = inside(pids.source, GO);
        fs::write(&go, "").map_err(|error| TurnError::File(go, error))?;
        let told = travel.finish()?;
        let mut measured = measured(hosts::bytes(lab)?.saturating_sub(ready), changed);
        measured.note("afresh_times_changed", ready.saturating_sub(begin) as f64 / changed_before);
        for (name, pointer) in
            [("afresh_ms", "/first_ms"), ("unchanged_ms", "/unchanged_ms"), ("changed_ms", "/last_ms")]
        {
            measured.note_from(name, &told, pointer);
        }
        measured.reports.push(told);
        Ok(measured)
    }

    /// Where the copy is. It stays: to make many files soon after many were removed is slow.
    fn copy(&self) -> String {
        format!("{PLACE}/copy/{}", self.name)
    }

    /// Begins to bring the tree across by Drover's rounds.
    fn travel(&self, lab: &Lab, changes: &str) -> Result<Travel, TurnError> {
        let (tree, copy) = (format!("{PLACE}/{}", self.name), self.copy());
        let listen = format!("0.0.0.0:{TRAVEL_PORT}");
        let mut receiving = lab.start(&["lab", "exec", TARGET, "--", TRAVEL, "receive", &copy, &listen], None)?;
        await_listeners(lab, &mut receiving, &[TRAVEL_PORT])?;
        let to = format!("{TARGET_ADDRESS}:{TRAVEL_PORT}");
        let sending = lab.start(&["lab", "exec", SOURCE, "--", TRAVEL, "send", &tree, &to, changes], None)?;
        Ok(Travel { sending, receiving })
    }

    fn by_rsync(&self, lab: &Lab, link: Link) -> Result<Measured, TurnError> {
        lab.run_script(TARGET, &script!("rsync-daemon.sh"), None)?;
        // So that there is a copy that rsync knows, if there was none.
        self.rsync_ms(lab)?;
        let unchanged_ms = self.rsync_ms(lab)?;
        let changed = self.change(lab)?;
        lab.link(link)?;
        let before = hosts::bytes(lab)?;
        let changed_ms = self.rsync_ms(lab)?;
        let mut measured = measured(hosts::bytes(lab)?.saturating_sub(before), changed);
        measured.note("unchanged_ms", unchanged_ms);
        measured.note("changed_ms", changed_ms);
        Ok(measured)
    }

    fn rsync_ms(&self, lab: &Lab) -> Result<f64, TurnError> {
        let printed = lab.script(SOURCE, &self.rsync, None)?.finish(PATIENCE)?;
        let ns: f64 = printed.trim().parse().map_err(|_| TurnError::Answer("rsync.sh", printed))?;
        Ok(ns / 1e6)
    }

    /// Changes the tree; gives the bytes that were written.
    fn change(&self, lab: &Lab) -> Result<f64, TurnError> {
        let printed = lab.run_script(SOURCE, &self.change, None)?;
        printed.trim().parse().map_err(|_| TurnError::Answer(self.change.name, printed))
    }
}

fn measured(sent: u64, changed: f64) -> Measured {
    let mut measured = Measured::default();
    measured.note("sent_bytes", sent as f64);
    measured.note("times_changed", sent as f64 / changed);
    measured
}

/// Both halves of `travel`.
struct Travel {
    sending: Running,
    receiving: Running,
}

impl Travel {
    /// Waits for its end, and gives what it tells.
    fn finish(self) -> Result<Value, TurnError> {
        let printed = self.sending.finish(PATIENCE)?;
        self.receiving.finish(PATIENCE)?;
        serde_json::from_str(&printed).map_err(|_| TurnError::Answer("travel", printed.trim().to_owned()))
    }
}

/// Waits until all has crossed once.
fn await_ready(pids: &Pids, sending: &mut Running) -> Result<(), TurnError> {
    let begin = Instant::now();
    while !inside(pids.source, READY).exists() {
        if let Some(status) = sending.ended()? {
            return Err(sending.failure(status).into());
        }
        if begin.elapsed() >= PATIENCE {
            return Err(TurnError::Unready("travel"));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}
