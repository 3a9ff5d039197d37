//! A visit to an exhibit: it is started, checked, moved to and fro while its witness uses it, and looked at in the end.

use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::exhibit::{Blocked, Exhibit};
use super::ground::{Ground, GroundError};
use super::row::Row;
use super::witness::{Witness, WitnessError};
use crate::command::CommandError;
use crate::lab::{SHORT, SOURCE, TARGET};
use crate::mover::{MoveError, by_drover};

/// A visit that came to no end.
#[derive(Debug, thiserror::Error)]
enum VisitError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Ground(#[from] GroundError),
    #[error(transparent)]
    Witness(#[from] WitnessError),
}

/// What of an answer of `drover check` counts here.
#[derive(Debug, Deserialize)]
struct Check {
    findings: Vec<Finding>,
    took_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Finding {
    severity: String,
    kind: String,
    reason: String,
}

/// Visits an exhibit, and leaves nothing of it.
pub fn visit(ground: &mut Ground, exhibit: &Exhibit, moves: u32) -> Row {
    let mut row = Row {
        exhibit: exhibit.name.clone(),
        version: ground.version(exhibit),
        asked: moves,
        machine: crate::machine::summary(),
        ..Row::default()
    };
    if let Err(error) = go(ground, exhibit, &mut row) {
        row.wrong.push(crate::run::chain(&error));
    }
    // A container that did not even start is not there.
    if let Err(error) = ground.lab.run(&["rm", "-f", &exhibit.name], SHORT)
        && row.wrong.is_empty()
    {
        row.wrong.push(crate::run::chain(&error));
    }
    row
}

fn go(ground: &mut Ground, exhibit: &Exhibit, row: &mut Row) -> Result<(), VisitError> {
    ground.import(exhibit)?;
    let words = |words: &[String]| words.iter().map(String::as_str).collect::<Vec<_>>().join("\u{0}");
    let (options, command) = (words(&exhibit.run), words(&exhibit.command));
    let split =
        |joined: &'_ str| joined.split('\u{0}').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let run = ["run", "--node", SOURCE, "--name", &exhibit.name, "--ip", &exhibit.address, "-d"].map(str::to_owned);
    let run = [run.to_vec(), split(&options), vec![exhibit.image.clone()], split(&command)].concat();
    ground.lab.run(&run.iter().map(String::as_str).collect::<Vec<_>>(), SHORT)?;
    let witness = Witness::begin(ground, exhibit)?;
    match &exhibit.blocked {
        Some(blocked) => refuse(ground, exhibit, blocked, row)?,
        None => to_and_fro(ground, exhibit, row)?,
    }
    await_one(ground, exhibit, row)?;
    row.seen = witness.end(ground, exhibit)?;
    Ok(())
}

/// Moves an exhibit as often as is asked; a move that fails ends it.
fn to_and_fro(ground: &Ground, exhibit: &Exhibit, row: &mut Row) -> Result<(), VisitError> {
    for number in 0..row.asked {
        let to = if number % 2 == 0 { TARGET } else { SOURCE };
        let check = check(ground, exhibit, to)?;
        row.checks_ms.push(check.took_ms);
        row.refused.extend(blocking(&check).map(|finding| format!("{}: {}", finding.kind, finding.reason)));
        // What a move will take is said before, so that it can be compared.
        ground.lab.run(&["migrate", &exhibit.name, "--to", to, "--dry-run"], SHORT)?;
        match by_drover(&ground.lab, &exhibit.name, to, &[]) {
            Ok(moved) => row.reports.extend(moved.report),
            Err(error) => {
                row.wrong.push(format!("move {}: {}", number + 1, refusal(&error)));
                break;
            }
        }
        thread::sleep(Duration::from_millis(exhibit.dwell_ms));
    }
    Ok(())
}

fn refusal(error: &MoveError) -> String {
    crate::run::chain(error)
}

/// Wants an exhibit refused by the finding that its file names, by a check and by a move.
fn refuse(ground: &Ground, exhibit: &Exhibit, blocked: &Blocked, row: &mut Row) -> Result<(), VisitError> {
    let check = check(ground, exhibit, TARGET)?;
    row.checks_ms.push(check.took_ms);
    let mut others = blocking(&check).filter(|finding| finding.kind != blocked.finding);
    if let Some(other) = others.next() {
        row.wrong.push(format!("found {} where {} is planted", other.kind, blocked.finding));
    }
    match blocking(&check).find(|finding| finding.kind == blocked.finding) {
        Some(finding) => row.blocked = Some(format!("{}: {}", finding.kind, finding.reason)),
        None => row.wrong.push(format!("{} was not found", blocked.finding)),
    }
    if by_drover(&ground.lab, &exhibit.name, TARGET, &[]).is_ok() {
        row.wrong.push("it was moved all the same".to_owned());
    }
    Ok(())
}

fn blocking(check: &Check) -> impl Iterator<Item = &Finding> {
    check.findings.iter().filter(|finding| finding.severity == "blocks")
}

/// The check says by its status that something blocks, and prints all the same.
fn check(ground: &Ground, exhibit: &Exhibit, to: &str) -> Result<Check, CommandError> {
    let arguments = ["--json", "check", &exhibit.name, "--to", to];
    let mut running = ground.lab.start(&arguments, None)?;
    let status = running.wait(SHORT)?;
    serde_json::from_str(&running.printed()).map_err(|error| {
        if status.success() { CommandError::Answer(arguments.join(" "), error) } else { running.failure(status) }
    })
}

/// Wants it on one node, and running.
fn await_one(ground: &Ground, exhibit: &Exhibit, row: &mut Row) -> Result<(), CommandError> {
    let listed: Vec<Value> = ground.lab.ask(&["ps", "-a"], SHORT)?;
    let mine: Vec<&Value> = listed.iter().filter(|one| one["spec"]["name"] == *exhibit.name).collect();
    match mine[..] {
        [one] if one["state"] == "running" || one["state"]["state"] == "running" => {}
        [one] => row.wrong.push(format!("it is in state {}", one["state"])),
        _ => row.wrong.push(format!("there are {} of it", mine.len())),
    }
    Ok(())
}
