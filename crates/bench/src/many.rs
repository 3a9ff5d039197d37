//! `drover-bench many`: a node with many containers is drained, at several limits, while a client talks to each of them.

mod case;
mod table;

use std::path::{Path, PathBuf};

use crate::command::CommandError;
use crate::lab::Lab;
use case::{Case, CaseError};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many containers.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub containers: u16,
    /// How many moves at a time, one drain for each.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_name = "N,N")]
    pub limits: Vec<u32>,
    /// How often each limit is measured, in turn with the others.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub repeat: u32,
    /// Milliseconds from one question of a client to the next.
    #[arg(long, default_value_t = 10, value_name = "MS")]
    pub every_ms: u64,
    /// The limit whose containers are listed one by one.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub shown: u32,
    /// The document with the markers.
    #[arg(long, value_name = "FILE")]
    pub document: PathBuf,
    /// The root of the image that the containers run, without the witness.
    #[arg(long, default_value = "/var/lib/drover/cache/images/toolbox", value_name = "DIR")]
    pub image: PathBuf,
    /// The root of the lab's hosts.
    #[arg(long, default_value = "/var/lib/drover/base", value_name = "DIR")]
    pub base: PathBuf,
}

/// A measurement that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ManyError {
    /// Something in the lab.
    #[error("cannot measure many moves")]
    Case(#[from] CaseError),
    /// The lab.
    #[error("cannot measure many moves")]
    Command(#[from] CommandError),
    /// Where this program is.
    #[error("cannot find the programs")]
    Programs(#[source] std::io::Error),
    /// The document.
    #[error("cannot use document {0}")]
    Document(PathBuf, #[source] std::io::Error),
    /// A marker is missing.
    #[error("cannot find the markers in {0}: <!-- bench:many --> and <!-- /bench:many -->")]
    Marker(PathBuf),
}

/// Measures, and writes the tables.
pub fn run(options: &Options) -> Result<(), ManyError> {
    // Before the minutes that it takes.
    let document = |error| ManyError::Document(options.document.clone(), error);
    let text = std::fs::read_to_string(&options.document).map_err(document)?;
    crate::report::replace(&text, "many", "").ok_or_else(|| ManyError::Marker(options.document.clone()))?;
    let programs = std::env::current_exe().map_err(ManyError::Programs)?;
    let programs = programs.parent().unwrap_or(Path::new("/")).to_owned();
    let lab = Lab { drover: programs.join("drover"), name: "bench-many".into(), base: options.base.clone() };
    lab.up()?;
    let measured = measure(&lab, &programs, options);
    let removed = lab.down();
    let drains = measured?;
    removed?;
    let content = table::content(options, &drains);
    let text = crate::report::replace(&text, "many", &content);
    let text = text.ok_or_else(|| ManyError::Marker(options.document.clone()))?;
    std::fs::write(&options.document, text).map_err(document)
}

fn measure(lab: &Lab, programs: &Path, options: &Options) -> Result<Vec<case::Drain>, CaseError> {
    let mut case = Case::make(lab, programs, options)?;
    let mut drains = Vec::new();
    for repetition in 1..=options.repeat {
        for &limit in &options.limits {
            let drain = case.drain(limit)?;
            eprintln!("{repetition}: limit {limit}: {} moves in {:.1} s", drain.moves.len(), drain.seconds);
            drains.push(drain);
        }
    }
    Ok(drains)
}
