//! `drover-bench zoo`: the programs that people run, each moved to and fro under load, and a table of what came of it.

mod exhibit;
mod ground;
mod row;
mod table;
mod visit;
mod witness;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::command::INTERRUPTED;
use crate::lab::Lab;
use exhibit::Exhibit;
use ground::{Ground, GroundError};
use row::Row;

/// Which exhibits, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only these exhibits.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub only: Vec<String>,
    /// How often each of them moves.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub moves: u32,
    /// How many labs at a time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub jobs: u32,
    /// The beginning of the labs' names.
    #[arg(long, default_value = "zoo", value_name = "NAME")]
    pub lab: String,
    /// The directory of exhibits and witnesses.
    #[arg(long, default_value = "zoo", value_name = "DIR")]
    pub zoo: PathBuf,
    /// Keep a row of each exhibit in this file, the newest alone.
    #[arg(long, value_name = "FILE")]
    pub rows: Option<PathBuf>,
    /// Write the table of the rows that are kept between the markers of this document.
    #[arg(long, requires = "rows", value_name = "FILE")]
    pub document: Option<PathBuf>,
    /// Move nothing: write the document anew.
    #[arg(long, requires = "document", conflicts_with_all = ["only", "moves", "jobs"])]
    pub render: bool,
    /// Keep the agents' logs of visits in which something was wrong in this directory.
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
    /// Where the roots of the images are.
    #[arg(long, default_value = "/var/lib/drover/cache/images", value_name = "DIR")]
    pub images: PathBuf,
    /// The root of the labs' hosts.
    #[arg(long, default_value = "/var/lib/drover/base", value_name = "DIR")]
    pub base: PathBuf,
}

/// A zoo that cannot be gone through, or in which something was wrong.
#[derive(Debug, thiserror::Error)]
pub enum ZooError {
    /// An exhibit.
    #[error(transparent)]
    Exhibit(#[from] exhibit::ExhibitError),
    /// A lab.
    #[error("cannot go through the zoo")]
    Ground(#[from] GroundError),
    /// A file.
    #[error("cannot use {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// The file of rows.
    #[error("cannot read the rows in {0}")]
    Rows(PathBuf, #[source] serde_json::Error),
    /// A marker is missing.
    #[error("cannot find the markers in {0}: <!-- bench:zoo --> and <!-- /bench:zoo -->")]
    Marker(PathBuf),
    /// A row does not hold.
    #[error("cannot call it well: {0}")]
    Wrong(String),
}

/// Goes through the exhibits, and writes the table.
pub fn run(options: &Options) -> Result<(), ZooError> {
    let all = exhibit::load(&options.zoo.join("exhibits"))?;
    if options.render {
        return render(options, &all, &kept(options)?);
    }
    // Before the minutes that it takes.
    render(options, &all, &kept(options)?)?;
    let chosen = exhibit::choose(&all, &options.only)?;
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worked = thread::scope(|scope| {
        let work = |number| {
            let (chosen, next, rows) = (&chosen, &next, &rows);
            scope.spawn(move || work(options, number, chosen, next, rows))
        };
        let jobs: Vec<_> = (0..options.jobs).map(work).collect();
        jobs.into_iter()
            .map(|job| job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<()>, GroundError>>()
    });
    let rows = rows.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    keep(options, &all, &rows)?;
    eprintln!("{}", table::summary(&rows));
    worked?;
    let wrong: Vec<&str> = rows.iter().filter(|row| !row.holds()).map(|row| &*row.exhibit).collect();
    match wrong[..] {
        [] if rows.len() == chosen.len() => Ok(()),
        [] => Err(ZooError::Wrong(format!("{} of {} exhibits were visited", rows.len(), chosen.len()))),
        _ => Err(ZooError::Wrong(wrong.join(", "))),
    }
}

/// Takes one exhibit after the other, in a lab of its own, that is made anew after something was wrong.
fn work(
    options: &Options,
    number: u32,
    exhibits: &[&Exhibit],
    next: &AtomicUsize,
    rows: &Mutex<Vec<Row>>,
) -> Result<(), GroundError> {
    let drover = ground::beside_us("drover")?;
    let lab = Lab { drover, name: format!("{}-{number}", options.lab), base: options.base.clone() };
    let mut ground = None;
    let mut through = || -> Result<(), GroundError> {
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(&exhibit) = exhibits.get(index)
            && !INTERRUPTED.load(Ordering::Relaxed)
        {
            let mut made = match ground.take() {
                Some(ground) => ground,
                None => Ground::make(lab.clone(), &options.images, &options.zoo.join("witness"))?,
            };
            let row = visit::visit(&mut made, exhibit, options.moves);
            eprintln!("{}", table::line(&row));
            if row.holds() {
                ground = Some(made);
            } else if let Some(directory) = &options.logs {
                made.keep_logs(&directory.join(&exhibit.name))?;
            }
            rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(row);
        }
        Ok(())
    };
    let went = through();
    let removed = lab.down();
    went?;
    Ok(removed?)
}

/// The rows of earlier visits, by exhibit.
fn kept(options: &Options) -> Result<BTreeMap<String, Row>, ZooError> {
    let Some(path) = &options.rows else { return Ok(BTreeMap::new()) };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        read => read.map_err(|error| ZooError::File(path.clone(), error))?,
    };
    let row = |line: &str| serde_json::from_str(line).map(|row: Row| (row.exhibit.clone(), row));
    text.lines().map(row).collect::<Result<_, _>>().map_err(|error| ZooError::Rows(path.clone(), error))
}

/// Puts new rows in the place of the old ones, and writes the document.
fn keep(options: &Options, all: &[Exhibit], rows: &[Row]) -> Result<(), ZooError> {
    let mut kept = kept(options)?;
    kept.extend(rows.iter().map(|row| (row.exhibit.clone(), row.clone())));
    // An exhibit that has been taken away takes its row with it.
    kept.retain(|name, _| all.iter().any(|exhibit| exhibit.name == *name));
    if let Some(path) = &options.rows {
        let line = |row| serde_json::to_string(row).expect("a row is always JSON") + "\n";
        write(path, &kept.values().map(line).collect::<String>())?;
    }
    render(options, all, &kept)
}

fn render(options: &Options, all: &[Exhibit], rows: &BTreeMap<String, Row>) -> Result<(), ZooError> {
    let Some(path) = &options.document else { return Ok(()) };
    let text = std::fs::read_to_string(path).map_err(|error| ZooError::File(path.clone(), error))?;
    let content = table::content(all, rows);
    let text = crate::report::replace(&text, "zoo", &content).ok_or_else(|| ZooError::Marker(path.clone()))?;
    write(path, &text)
}

fn write(path: &Path, text: &str) -> Result<(), ZooError> {
    std::fs::write(path, text).map_err(|error| ZooError::File(path.to_owned(), error))
}
