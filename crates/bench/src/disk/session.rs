//! The session: turn after turn in one lab, each with its row.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::database::Database;
use super::row::{Row, rows_file};
use super::turn::{Measured, TurnError};
use super::{Case, Turn, images, trees};
use crate::client::now_ns;
use crate::command::INTERRUPTED;
use crate::lab::{Lab, Pids, SOURCE, TARGET, script};
use crate::machine;
use crate::row::{self, Session};
use crate::run::{RunError, chain};
use crate::suite::Link;

/// The lab, and what earlier turns have left in it for later ones.
struct Stage<'a> {
    lab: &'a Lab,
    images: &'a Path,
    pids: Pids,
    database: Option<Database>,
}

/// Takes all turns, in each repetition anew. `images` is the directory that scripts make images in.
pub fn hold(lab: &Lab, images: &Path, turns: &[Turn], repeat: u32, out: &Path) -> Result<(), RunError> {
    let mut stage = Stage::set(lab, images)?;
    let session = (now_ns() / 1_000_000_000).to_string();
    let versions = machine::versions(lab);
    row::append(
        &row::sessions_file(out),
        &Session { session: session.clone(), machine: machine::describe(), versions },
    )?;
    for repetition in 1..=repeat {
        for turn in turns {
            let began_ms = now_ns() / 1_000_000;
            let (measured, invalid) = match stage.take(turn) {
                Ok(measured) => (measured, None),
                Err(error) => (Measured::default(), Some(chain(&error))),
            };
            if INTERRUPTED.load(Ordering::Relaxed) {
                return Err(RunError::Interrupted);
            }
            let row = Row {
                session: session.clone(),
                began_ms,
                case: turn.case,
                link: turn.link,
                contestant: turn.contestant.name().to_owned(),
                repetition,
                invalid,
                measures: measured.measures,
                reports: measured.reports,
            };
            row::append(&rows_file(out), &row)?;
            eprintln!("[{repetition}/{repeat}] {}: {}", turn.title(), told(&row));
            if row.invalid.is_some() {
                // Who knows what it has left.
                stage = Stage::set(lab, images)?;
            }
        }
    }
    Ok(())
}

/// A row for whoever watches.
fn told(row: &Row) -> String {
    if let Some(why) = &row.invalid {
        return format!("INVALID: {why}");
    }
    let numbers: Vec<String> = row.measures.iter().map(|(name, value)| format!("{name} {value:.0}")).collect();
    numbers.join(", ")
}

impl<'a> Stage<'a> {
    /// Makes the lab anew.
    fn set(lab: &'a Lab, images: &'a Path) -> Result<Self, RunError> {
        lab.up()?;
        lab.run_script(SOURCE, &script!("count.sh", "10.77.0.12"), None)?;
        lab.run_script(TARGET, &script!("count.sh", "10.77.0.11"), None)?;
        Ok(Self { lab, images, pids: lab.pids()?, database: None })
    }

    fn take(&mut self, turn: &Turn) -> Result<Measured, TurnError> {
        let lab = self.lab;
        let measured = match turn.case {
            Case::Database => {
                let database = match self.database.take() {
                    Some(database) => database,
                    None => Database::start(lab, &self.images.join("postgres"))?,
                };
                self.database.insert(database).turn(lab, &self.pids, turn)
            }
            Case::Blocks => trees::BLOCKS.turn(lab, &self.pids, turn),
            Case::SmallFiles => trees::SMALL_FILES.turn(lab, &self.pids, turn),
            Case::Images => images::turn(lab, &self.images.join("redis"), turn),
        };
        lab.link(Link::Unshaped)?;
        measured
    }
}
