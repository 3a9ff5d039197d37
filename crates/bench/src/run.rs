//! `drover-bench run`: the matrix, run after run, each with its row.

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::client::now_ns;
use crate::command::{CommandError, INTERRUPTED};
use crate::disk::{self, Case};
use crate::hosts;
use crate::lab::{Lab, Pids, SHORT};
use crate::machine::{self, PipeLimit};
use crate::measure::{Outcome, measure};
use crate::mover::MoveError;
use crate::row::{self, Row, RowError, Session};
use crate::suite::{Contestant, Group, Link, Suite, groups, unknown_words};

/// How much more memory than it holds a move of a container takes, at the peer that takes most of it, and on both
/// nodes: the server, its images, its archive, the server again.
const APPETITE: u64 = 8;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The suites to run
    #[arg(long, value_name = "SUITE", value_delimiter = ',', value_enum, default_values = ["core", "idle"])]
    pub only: Vec<Suite>,
    /// How often to run each case
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// The directory that rows are appended in
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Run these contestants alone
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub contestants: Vec<String>,
    /// Run on these links alone
    #[arg(long, value_name = "RATE", value_delimiter = ',', value_enum)]
    pub links: Vec<Link>,
    /// Run with these sizes alone
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    pub sizes: Vec<u64>,
    /// Run these cases of the suite `disk` alone
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_enum)]
    pub cases: Vec<Case>,
    /// Show what would be run
    #[arg(long)]
    pub dry_run: bool,
    /// The drover binary, with drover-check in the same directory; by default the one beside this program
    #[arg(long, value_name = "PATH")]
    pub drover: Option<PathBuf>,
    /// The root file system with redis-server that scripts/images.sh makes
    #[arg(long, value_name = "DIR")]
    pub image: Option<PathBuf>,
    /// The root of the hosts that scripts/install-peers.sh makes
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// The name of the lab, which is made anew and removed in the end
    #[arg(long, value_name = "NAME", default_value = "bench")]
    pub lab: String,
}

/// A session that could not be held.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A program or a directory is not where it belongs.
    #[error("cannot find {0}")]
    Find(PathBuf, #[source] std::io::Error),
    /// The peers are not installed.
    #[error("cannot find the root with the peers in {0}; scripts/install-peers.sh makes it")]
    NoPeers(PathBuf),
    /// The image is not there.
    #[error("cannot find the image {0}; scripts/{1} makes it")]
    NoImage(PathBuf, &'static str),
    /// The lab failed.
    #[error("cannot use the lab")]
    Lab(#[from] CommandError),
    /// The hosts could not be made ready.
    #[error("cannot make the lab's hosts ready")]
    Hosts(#[from] MoveError),
    /// The rows could not be written.
    #[error("cannot keep the results")]
    Rows(#[from] RowError),
    /// Two sessions in one lab would be neither's.
    #[error(
        "cannot begin: lab {0} is up, and another session may be in it; if none is, end it: DROVER_LAB={0} drover lab down"
    )]
    Taken(String),
    /// The directory of results cannot be made.
    #[error("cannot make {0}")]
    Out(PathBuf, #[source] std::io::Error),
    /// Ctrl-C.
    #[error("cannot go on: interrupted; the rows so far are kept")]
    Interrupted,
}

/// Runs what was asked for.
pub fn run(options: &Options) -> Result<(), RunError> {
    let bench = Bench::of(options)?;
    let help = bench.lab.run(&["migrate", "--help"], SHORT)?;
    let groups = chosen(options, &help);
    let disk = options.only.contains(&Suite::Disk);
    let turns = if disk { disk::turns(&options.cases, &options.links, &options.contestants) } else { Vec::new() };
    if options.dry_run {
        for group in &groups {
            println!("{}", title(group));
        }
        for turn in &turns {
            println!("{}", turn.title());
        }
        return Ok(());
    }
    if bench.lab.exists()? {
        return Err(RunError::Taken(bench.lab.name));
    }
    std::fs::create_dir_all(&options.out).map_err(|error| RunError::Out(options.out.clone(), error))?;
    let _pipes = PipeLimit::raise();
    let done = bench.hold(options, &groups).and_then(|()| bench.hold_disk(options, &turns));
    // However it went, the lab goes.
    INTERRUPTED.store(false, Ordering::Relaxed);
    done.and(bench.lab.down().map_err(Into::into))
}

fn title(group: &Group) -> String {
    let names: Vec<_> = group.contestants.iter().map(|contestant| contestant.name).collect();
    format!("{}: {}, {}: {}", group.suite.name(), group.workload.title(), group.link.title(), names.join(", "))
}

/// The groups that the options leave, with the contestants that there are.
fn chosen(options: &Options, help: &str) -> Vec<Group> {
    let mut told: Vec<&str> = Vec::new();
    let mut wanted = |contestant: &Contestant| {
        let unknown = unknown_words(contestant, help);
        if !unknown.is_empty() && !told.contains(&contestant.name) {
            told.push(contestant.name);
            eprintln!("{} is left out: this drover does not know {}", contestant.name, unknown.join(", "));
        }
        let named = options.contestants.is_empty() || options.contestants.iter().any(|name| name == contestant.name);
        named && unknown.is_empty()
    };
    let suites = Suite::ALL.into_iter().filter(|suite| options.only.contains(suite));
    let mut all: Vec<Group> = suites.flat_map(groups).collect();
    all.retain(|group| options.links.is_empty() || options.links.contains(&group.link));
    all.retain(|group| options.sizes.is_empty() || options.sizes.contains(&group.workload.mib));
    for group in &mut all {
        group.contestants.retain(&mut wanted);
    }
    all.retain(|group| !group.contestants.is_empty());
    all
}

/// The lab and what is run in it.
struct Bench {
    lab: Lab,
    image: PathBuf,
}

impl Bench {
    fn of(options: &Options) -> Result<Self, RunError> {
        let home = std::env::var_os("DROVER_HOME").filter(|home| !home.is_empty());
        let home = home.map_or_else(|| PathBuf::from("/var/lib/drover"), PathBuf::from);
        let image = options.image.clone().unwrap_or_else(|| home.join("cache/images/redis"));
        let base = options.base.clone().unwrap_or_else(|| home.join("peers-base"));
        let own = std::env::current_exe().map_err(|error| RunError::Find("drover-bench".into(), error))?;
        let drover = options.drover.clone().unwrap_or_else(|| own.with_file_name("drover"));
        let drover = drover.canonicalize().map_err(|error| RunError::Find(drover, error))?;
        if !base.join(".drover-peers").exists() {
            return Err(RunError::NoPeers(base));
        }
        if !image.is_dir() {
            return Err(RunError::NoImage(image, "images.sh"));
        }
        Ok(Self { lab: Lab { drover, name: options.lab.clone(), base }, image })
    }

    /// All repetitions of all groups; the contestants of a group take turns, so that drift hits all of them alike.
    fn hold(&self, options: &Options, groups: &[Group]) -> Result<(), RunError> {
        if groups.is_empty() {
            return Ok(());
        }
        let largest = groups.iter().map(|group| group.workload.mib).max().unwrap_or(0);
        let begin = Instant::now();
        let warmed = machine::warm_up(largest * APPETITE);
        eprintln!("{warmed} MiB of memory touched in {:.1} s", begin.elapsed().as_secs_f64());
        let mut pids = self.make_lab()?;
        let session = (now_ns() / 1_000_000_000).to_string();
        let versions = machine::versions(&self.lab);
        let record = Session { session: session.clone(), machine: machine::describe(), versions };
        row::append(&row::sessions_file(&options.out), &record)?;
        for repetition in 1..=options.repeat {
            for group in groups {
                eprintln!("[{repetition}/{}] {}", options.repeat, title(group));
                for contestant in &group.contestants {
                    let row = self.row(&session, repetition, group, contestant, &pids);
                    if INTERRUPTED.load(Ordering::Relaxed) {
                        return Err(RunError::Interrupted);
                    }
                    row::append(&row::rows_file(&options.out), &row)?;
                    eprintln!("  {}", line(&row));
                    if row.invalid.is_some() {
                        // Who knows what it has left.
                        pids = self.make_lab()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// All turns of the suite `disk`.
    fn hold_disk(&self, options: &Options, turns: &[disk::Turn]) -> Result<(), RunError> {
        if turns.is_empty() {
            return Ok(());
        }
        let images = self.image.with_file_name("");
        if !images.join("postgres").is_dir() {
            return Err(RunError::NoImage(images.join("postgres"), "bench-image.sh"));
        }
        disk::hold(&self.lab, &images, turns, options.repeat, &options.out)
    }

    fn make_lab(&self) -> Result<Pids, RunError> {
        self.lab.up()?;
        hosts::prepare(&self.lab, &self.image)?;
        Ok(self.lab.pids()?)
    }

    fn row(&self, session: &str, repetition: u32, group: &Group, contestant: &Contestant, pids: &Pids) -> Row {
        let began_ms = now_ns() / 1_000_000;
        let (invalid, measures, report) = match measure(&self.lab, pids, group, contestant) {
            Ok(Outcome { measures, report, findings }) => (findings.trouble(), Some(measures), report),
            Err(trouble) => (Some(chain(&trouble)), None, None),
        };
        Row {
            session: session.to_owned(),
            began_ms,
            suite: group.suite,
            workload: group.workload,
            link: group.link,
            contestant: contestant.name.to_owned(),
            repetition,
            invalid,
            measures,
            report,
        }
    }
}

/// A row for whoever watches.
fn line(row: &Row) -> String {
    match (&row.invalid, &row.measures) {
        (None, Some(measures)) => format!(
            "{}: gap {:.0} ms, total {:.1} s, {:.0} MiB",
            row.contestant,
            measures.gap_ms,
            measures.total_ms / 1e3,
            measures.bytes as f64 / f64::from(1 << 20)
        ),
        (invalid, _) => format!("{}: INVALID: {}", row.contestant, invalid.as_deref().unwrap_or("nothing measured")),
    }
}

/// The error and its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
