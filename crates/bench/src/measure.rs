//! One run: a container from its start to its end, and what was measured meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, ClientError, Findings};
use crate::command::CommandError;
use crate::hosts;
use crate::lab::{Lab, Pids};
use crate::mover::{self, MoveError};
use crate::row::Measures;
use crate::series;
use crate::suite::{Contestant, Group, Link};
use crate::usage::{self, Moments, Sampler};

/// How long the client uses the container before a move, while nothing moves.
const DWELL: Duration = Duration::from_secs(2);
/// How long it uses it after all pages are in place.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// How long the client may take to be answered after a move: its TCP doubles its pauses up to two minutes.
const RECOVERY: Duration = Duration::from_secs(150);
/// How long a server's memory must not have grown until it is taken for whole.
const STEADY: Duration = Duration::from_secs(1);
/// How long placing pages may take.
const FILL: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// A run that does not count.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The move failed.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The client failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The client noticed nothing.
    #[error("cannot find the move in the client's series")]
    NoGap,
}

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// The numbers.
    pub measures: Measures,
    /// Drover's own report.
    pub report: Option<serde_json::Value>,
    /// What the client says of its data and its connections.
    pub findings: Findings,
}

/// One container from its start to its end.
pub fn measure(lab: &Lab, pids: &Pids, group: &Group, contestant: &Contestant) -> Result<Outcome, Trouble> {
    lab.link(Link::Unshaped)?;
    hosts::clean(lab)?;
    mover::start(lab, contestant)?;
    let mut client = Client::start(lab, pids, group.workload)?;
    lab.link(group.link)?;
    let bytes = hosts::bytes(lab)?;
    let sampler = Sampler::start(&lab.name, pids);
    thread::sleep(DWELL);
    client.still_there()?;
    let moved = mover::migrate(lab, contestant)?;
    client.await_answers(moved.began_ns, RECOVERY)?;
    await_whole(&lab.name);
    thread::sleep(AFTERWARDS);
    let bytes = hosts::bytes(lab)?.saturating_sub(bytes);
    let samples = sampler.finish();
    lab.link(Link::Unshaped)?;
    let (findings, series) = client.finish()?;
    let gap = series::longest_gap(&series, moved.began_ns, u64::MAX).ok_or(Trouble::NoGap)?;
    let moments = Moments { began: moved.began_ns, stopped: gap.from_ns, resumed: gap.to_ns, ended: moved.ended_ns };
    let filled = usage::filled_ns(&samples, moments);
    let (source, target) = usage::usage(&samples, moments, filled);
    let since = |ns: u64| ns.saturating_sub(moved.began_ns) as f64 / 1e6;
    let measures = Measures {
        gap_ms: gap.ms(),
        downtime_ms: moved.downtime_ms,
        total_ms: since(moved.ended_ns),
        filled_ms: since(filled),
        phases: moved.phases,
        bytes,
        latency: series::latency(&series, moved.began_ns, filled.max(moved.ended_ns)).unwrap_or_default(),
        fill_latency: series::latency(&series, gap.to_ns + 1, filled),
        source,
        target,
        dirty_pages_per_s: findings.dirty.as_ref().map(|dirty| dirty.pages_per_s),
    };
    Ok(Outcome { measures, report: moved.report, findings })
}

/// Waits until the server's memory on the target does not grow any more.
fn await_whole(lab: &str) {
    let begin = Instant::now();
    let (mut most, mut grown) = (0, Instant::now());
    while begin.elapsed() < FILL && grown.elapsed() < STEADY {
        let now = usage::resident_on_target(lab);
        // The client's own writes are growth, too, but of some pages alone.
        if now > most + most / 1000 {
            (most, grown) = (now, Instant::now());
        }
        thread::sleep(LOOK);
    }
}
