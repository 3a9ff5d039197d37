//! `drover-bench faults`: every fault in every phase of a move, and a table of what came of it.

mod cell;
pub mod flip;
mod ground;
mod moment;
mod plan;
mod processes;
mod strike;
mod table;
mod watch;
mod witness;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::command::INTERRUPTED;
use crate::lab::Lab;
use cell::Row;
use ground::{Ground, GroundError};
use plan::{Cell, Choice};

/// How often a cell is tried whose phase was over before the fault came.
const ATTEMPTS: u32 = 3;

/// Which cells, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only these cells: PHASE/FAULT, either of them `*` for any.
    #[arg(long, value_delimiter = ',', value_name = "PHASE/FAULT")]
    pub only: Vec<Choice>,
    /// How many labs at a time.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub jobs: u32,
    /// The beginning of the labs' names.
    #[arg(long, default_value = "faults", value_name = "NAME")]
    pub lab: String,
    /// Write the table between the markers of this document.
    #[arg(long, value_name = "FILE")]
    pub document: Option<PathBuf>,
    /// Print each row as a line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Keep the agents' logs of cells in which a promise was broken in this directory.
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
    /// The root of the image that the containers run, without the witness.
    #[arg(long, default_value = "/var/lib/drover/cache/images/toolbox", value_name = "DIR")]
    pub image: PathBuf,
    /// The root of the labs' hosts.
    #[arg(long, default_value = "/var/lib/drover/base", value_name = "DIR")]
    pub base: PathBuf,
}

/// A table that cannot be made, or that shows a broken promise.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// A lab.
    #[error("cannot go through the faults")]
    Ground(#[from] GroundError),
    /// Where this program is.
    #[error("cannot find the programs")]
    Programs(#[source] std::io::Error),
    /// The document.
    #[error("cannot use document {0}")]
    Document(PathBuf, #[source] std::io::Error),
    /// A marker is missing.
    #[error("cannot find the markers in {0}: <!-- bench:faults --> and <!-- /bench:faults -->")]
    Marker(PathBuf),
    /// A row does not hold.
    #[error("cannot call it well: {0}")]
    Broken(String),
}

/// Goes through the cells, and writes the table.
pub fn run(options: &Options) -> Result<(), FaultsError> {
    // Before the minutes that it takes.
    write_document(options, "", false)?;
    let programs = std::env::current_exe().map_err(FaultsError::Programs)?;
    let programs = programs.parent().unwrap_or(Path::new("/")).to_owned();
    let cells = plan::cells(&options.only);
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worked = thread::scope(|scope| {
        let work = |number| {
            let (cells, next, rows, programs) = (&cells, &next, &rows, &programs);
            scope.spawn(move || work(options, programs, number, cells, next, rows))
        };
        let jobs: Vec<_> = (0..options.jobs).map(work).collect();
        jobs.into_iter()
            .map(|job| job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<()>, GroundError>>()
    });
    let mut rows = rows.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    rows.sort_by_key(|(number, _)| *number);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let summary = table::summary(&rows);
    eprintln!("{summary}");
    write_document(options, &table::content(&rows, &crate::machine::summary()), true)?;
    worked?;
    if rows.iter().all(Row::holds) && rows.len() == cells.len() { Ok(()) } else { Err(FaultsError::Broken(summary)) }
}

/// Takes one cell after the other, in a lab of its own, that is made anew after a promise was broken.
fn work(
    options: &Options,
    programs: &Path,
    number: u32,
    cells: &[Cell],
    next: &AtomicUsize,
    rows: &Mutex<Vec<(usize, Row)>>,
) -> Result<(), GroundError> {
    let lab =
        Lab { drover: programs.join("drover"), name: format!("{}-{number}", options.lab), base: options.base.clone() };
    let mut ground = None;
    let mut through = || -> Result<(), GroundError> {
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(&cell) = cells.get(index)
            && !INTERRUPTED.load(Ordering::Relaxed)
        {
            let row = attempt(&mut ground, &lab, (programs, options), cell, index)?;
            show(options, &row);
            rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, row));
        }
        Ok(())
    };
    let went = through();
    let removed = lab.down();
    went?;
    Ok(removed?)
}

/// Runs a cell, again while the fault came too late.
fn attempt(
    ground: &mut Option<Ground>,
    lab: &Lab,
    (programs, options): (&Path, &Options),
    cell: Cell,
    index: usize,
) -> Result<Row, GroundError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let made = match ground.take() {
            Some(ground) => ground,
            None => Ground::make(lab.clone(), programs, &options.image)?,
        };
        let row = cell::run(&made, cell, &format!("c{index}-{attempt}"));
        // What was not come to an end is no success, and says nothing about the cells after it.
        let row = row.unwrap_or_else(|error| Row::unfinished(cell, crate::run::chain(&error)));
        let holds = row.holds();
        if holds {
            *ground = Some(made);
        } else if let Some(directory) = &options.logs {
            made.keep_logs(&directory.join(cell.to_string().replace('/', "-")))?;
        }
        if !holds || row.is_in_time() || attempt == ATTEMPTS || INTERRUPTED.load(Ordering::Relaxed) {
            return Ok(row);
        }
    }
}

/// Tells of a row as soon as it is there.
fn show(options: &Options, row: &Row) {
    if options.json {
        let line = serde_json::to_string(row).expect("a row is always JSON");
        // A reader that has gone away wants no more.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    let verdict = if row.holds() { "well" } else { "BROKEN" };
    let came = row.came.as_deref().unwrap_or("nothing to hit");
    eprintln!(
        "{verdict}: {}/{} came in {came}: {}, {:.1} s {}{}",
        row.phase,
        row.fault,
        row.outcome,
        row.seconds,
        row.wrong.join("; "),
        table::leftovers(row)
    );
}

/// Puts the table into the document, if there is one; at first it is only looked at.
fn write_document(options: &Options, content: &str, write: bool) -> Result<(), FaultsError> {
    let Some(path) = &options.document else { return Ok(()) };
    let failed = |error| FaultsError::Document(path.clone(), error);
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let text = crate::report::replace(&text, "faults", content).ok_or_else(|| FaultsError::Marker(path.clone()))?;
    if write { std::fs::write(path, text).map_err(failed) } else { Ok(()) }
}
