//! One cell: a container moves, the fault comes in the phase, what can be mended is, and then it is looked at what came of it.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::ground::{Ground, GroundError, LOOK};
use super::moment::Log;
use super::plan::{Cell, Fault};
use super::strike::Strike;
use super::watch::Watch;
use super::witness::{Findings, Witness};
use crate::lab::{SHORT, SOURCE, TARGET};

/// How long a phase may take to come.
const APPROACH: Duration = Duration::from_secs(20);
/// How long everything may take to come to an end once the fault is mended.
const SETTLING: Duration = Duration::from_secs(120);
/// How long what is left over may take to go.
const TIDYING: Duration = Duration::from_secs(30);
/// How long a cut that nobody mends may leave a move without an end or doubt.
const VERDICT: Duration = Duration::from_secs(180);

/// What came of a cell.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The phase that was wanted.
    pub phase: &'static str,
    /// The fault.
    pub fault: &'static str,
    /// The phase in which it came, by the log of the source; nothing when there was nothing for it to hit.
    pub came: Option<String>,
    /// How the move ended, in words.
    pub outcome: String,
    /// The node that runs the container in the end.
    pub node: Option<String>,
    /// The longest time in which the client heard nothing; nothing when its connection ended with the container's node.
    pub gap_ms: Option<f64>,
    /// What became of the container's memory, files and connection.
    pub data: &'static str,
    /// What was left over.
    pub leftovers: Vec<String>,
    /// Whether it ran twice at any time.
    pub doubled: bool,
    /// Whether it, or something of it, was lost without a reason.
    pub lost: bool,
    /// What should not have been, in words.
    pub wrong: Vec<String>,
    /// How long the cell took, in seconds.
    pub seconds: f64,
}

impl Row {
    /// Of a cell of which nothing is known yet.
    fn of(cell: Cell) -> Self {
        Self {
            phase: cell.phase,
            fault: cell.fault.word(),
            came: None,
            outcome: String::new(),
            node: None,
            gap_ms: None,
            data: "",
            leftovers: Vec::new(),
            doubled: false,
            lost: false,
            wrong: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Of a cell that did not come to its end.
    pub fn unfinished(cell: Cell, why: String) -> Self {
        Self { outcome: "unknown".to_owned(), data: "unknown", lost: true, wrong: vec![why], ..Self::of(cell) }
    }

    /// Whether every promise held.
    pub fn holds(&self) -> bool {
        !self.lost && !self.doubled && self.leftovers.is_empty() && self.wrong.is_empty()
    }

    /// Whether the fault came, and in the phase that was wanted.
    pub fn is_in_time(&self) -> bool {
        self.came.as_deref() == Some(self.phase)
    }
}

/// Runs a cell with a container of this name.
pub fn run(ground: &Ground, cell: Cell, name: &str) -> Result<Row, GroundError> {
    let begun = Instant::now();
    let file = |error| GroundError::File(ground.log.clone(), error);
    let mut strike = Strike::prepare(ground, cell.fault)?;
    let witness = Witness::begin(ground, name)?;
    let watch = Watch::begin(ground.nodes.clone(), &witness.id);
    let mut log = Log::from_now(&ground.log).map_err(file)?;
    let mut order = ground.lab.start(&["migrate", name, "--to", TARGET, "--detach"], None)?;
    let seen = log.await_phase(cell.phase, APPROACH).map_err(file)?;
    // A phase that was missed is told as what it became: the fault comes all the same, or mending it would mean nothing.
    let came = strike.bring_in(ground, &mut log)?;
    let came = came.map(|came| if seen { came } else { format!("{came} (missed)") });
    let doubted = endure(ground, cell.fault, name)?;
    strike.mend(ground)?;
    // Whoever ordered the move may have been told that the agent went away.
    let _ = order.wait(SHORT)?;
    ground.await_answers()?;
    let mut row = Row { came, ..Row::of(cell) };
    settle(ground, &witness, doubted, &mut row)?;
    // A phase that was missed may have left it less than a look to run before its node lost power: such a cell says nothing, and is
    // tried again.
    let may_be_unseen = !row.is_in_time() && cell.fault.node_without_power() == Some(TARGET);
    if row.node.as_deref() == Some(TARGET) && !may_be_unseen && !watch.sees_arrival(SHORT) {
        row.wrong.push("nobody saw it run on the target, so nobody would have seen it run twice".to_owned());
    }
    if let Some(seen) = watch.end() {
        row.doubled = true;
        row.wrong.push(format!("it ran on the source after it had run on the target: {seen}"));
    }
    let died_with_its_node = row.node.is_some() && row.node.as_deref() == cell.fault.node_without_power();
    let findings = if row.node.is_some() { Some(witness.end(ground, died_with_its_node)?) } else { None };
    judge(died_with_its_node, findings, &mut row);
    strike.clear(ground)?;
    row.leftovers = tidied(ground)?;
    row.seconds = begun.elapsed().as_secs_f64();
    Ok(row)
}

/// Waits for as long as the fault lasts; whether the move was in doubt meanwhile.
fn endure(ground: &Ground, fault: Fault, name: &str) -> Result<bool, GroundError> {
    let begin = Instant::now();
    let mut doubted = false;
    let asked = match fault {
        Fault::CutForEver | Fault::Cut(_) => true,
        Fault::Agent(_) | Fault::Criu(_) | Fault::Node(_) | Fault::Stall(_) | Fault::Flip(_) => false,
        Fault::Disk | Fault::Memory => true,
    };
    loop {
        if asked {
            let state = state(ground, name);
            doubted |= state.as_ref().is_some_and(|state| state["in_doubt"] == true);
            // In `settle` it is known to run on the target, and its source waits to hear that it will after a restart, too.
            let known = |state: Value| !state["report"].is_null() || state["phase"] == "settle";
            let decided = doubted || state.is_some_and(known);
            if fault == Fault::CutForEver && decided {
                return Ok(doubted);
            }
        }
        let lasts = fault.lasts().unwrap_or(if fault == Fault::CutForEver { VERDICT } else { Duration::ZERO });
        let left = lasts.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return if fault == Fault::CutForEver {
                Err(GroundError::Late("an end or doubt", VERDICT))
            } else {
                Ok(doubted)
            };
        }
        thread::sleep(left.min(LOOK));
    }
}

/// The move as its source knows it.
fn state(ground: &Ground, name: &str) -> Option<Value> {
    let states: Vec<Value> = ground.lab.ask(&["migrations", "--node", SOURCE], SHORT).ok()?;
    states.into_iter().rfind(|state| state["container"] == name)
}

/// Waits until the move has ended and the container runs on one node; how and where.
fn settle(ground: &Ground, witness: &Witness, mut doubted: bool, row: &mut Row) -> Result<(), GroundError> {
    let begin = Instant::now();
    loop {
        let state = state(ground, &witness.name);
        doubted |= state.as_ref().is_some_and(|state| state["in_doubt"] == true);
        let ended = state.as_ref().is_none_or(|state| !state["report"].is_null());
        let records: Vec<Value> = ground.lab.ask(&["ps", "-a"], SHORT).unwrap_or_default();
        let records: Vec<&Value> = records.iter().filter(|record| record["spec"]["name"] == *witness.name).collect();
        row.outcome = outcome(state.as_ref(), doubted);
        if let [record] = records[..]
            && ended
            && record["state"] == "running"
        {
            row.node = record["node"].as_str().map(str::to_owned);
            return Ok(());
        }
        if begin.elapsed() >= SETTLING {
            let told: Vec<String> =
                records.iter().map(|record| format!("{} on {}", record["state"], record["node"])).collect();
            row.wrong.push(format!("after {} s: {}, {}", SETTLING.as_secs(), row.outcome, told.join(" and ")));
            row.lost = true;
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}

fn outcome(state: Option<&Value>, doubted: bool) -> String {
    let word = match state.map(|state| &state["report"]["outcome"]) {
        None => "rolled back, and no longer listed",
        Some(Value::String(word)) => match word.as_str() {
            "moved" => "moved",
            "rolled_back" => "rolled back",
            _ => "failed",
        },
        Some(_) => "under way",
    };
    if doubted { format!("in doubt, then {word}") } else { word.to_owned() }
}

/// What the client and the container have to say, and whether there is a reason for what is missing.
fn judge(died_with_its_node: bool, findings: Option<Findings>, row: &mut Row) {
    let Some(findings) = findings else {
        row.data = "unknown";
        return;
    };
    let Findings { gap_ms, heard, anew, mut wrong } = findings;
    row.gap_ms = heard.then_some(gap_ms);
    row.data = if anew { "begun anew from its files" } else { "intact" };
    if !died_with_its_node {
        if anew {
            wrong.push("its program has begun anew although its node was never without power".to_owned());
        }
        if !heard {
            wrong.push("its client hears nothing any more".to_owned());
        }
    }
    if !wrong.is_empty() {
        row.data = "not intact";
        row.lost = true;
        row.wrong.append(&mut wrong);
    }
}

/// Waits until nothing is left over; what is, in vain.
fn tidied(ground: &Ground) -> Result<Vec<String>, GroundError> {
    let begin = Instant::now();
    loop {
        let left = ground.leftovers()?;
        if left.is_empty() || begin.elapsed() >= TIDYING {
            return Ok(left);
        }
        thread::sleep(LOOK);
    }
}
