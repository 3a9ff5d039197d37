//! `drover-check demo`: a lab, a loaded container that moves back and forth, and a client that must notice nothing.
//!
//! It knows Drover only by its command line.

mod drover;
mod summary;
mod witness;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use crate::stop::{Stop, WatchError};
use drover::{CommandError, Drover};
use summary::{Move, Report};
use witness::{Witness, WitnessError};

/// The container that moves.
const CONTAINER: &str = "demo";
/// Its address, in the network of every lab.
const ADDRESS: &str = "10.77.0.50";
/// How often it goes from the first node to the second and back.
const ROUND_TRIPS: usize = 3;
/// How long the client uses the container undisturbed before each move and after the last.
const DWELL: Duration = Duration::from_millis(500);
/// How long the client may take to be answered again after a move; its TCP doubles its pauses while nobody answers.
const RECOVERY: Duration = Duration::from_secs(10);
/// How long making the lab may take, and whatever else copies files.
const LONG: Duration = Duration::from_secs(120);
/// How long a move may take.
const MOVE: Duration = Duration::from_secs(120);
/// How long anything else may take.
const SHORT: Duration = Duration::from_secs(60);

/// What to show.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The drover binary; drover-check must be in the same directory. By default the one beside drover-check.
    #[arg(long, value_name = "PATH")]
    pub drover: Option<PathBuf>,
    /// The root file system with redis-server. By default the one that scripts/images.sh has made.
    #[arg(long, value_name = "DIR")]
    pub image: Option<PathBuf>,
    /// The name of the lab, which is made anew and removed in the end.
    #[arg(long, value_name = "NAME", default_value = "demo")]
    pub lab: String,
    /// MiB of values to load the container with.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub load_mib: u64,
    /// Leave the lab up in the end, to look around in it.
    #[arg(long)]
    pub keep: bool,
}

/// A demo that did not come off.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No signals.
    #[error("cannot begin the demo")]
    Watch(#[from] WatchError),
    /// One of the programs is not where it belongs.
    #[error("cannot find {0}")]
    Find(PathBuf, #[source] std::io::Error),
    /// The lab shows one directory of programs to its hosts.
    #[error("cannot use {0}: drover-check must be in the same directory")]
    Apart(PathBuf),
    /// There is nothing to run.
    #[error("cannot find the image {0}; scripts/images.sh makes it")]
    NoImage(PathBuf),
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The client failed.
    #[error("cannot watch the container from the client")]
    Witness(#[from] WitnessError),
    /// A move ended elsewhere than it should.
    #[error("cannot move {CONTAINER} to {to}: it went from {from} to {at} ({outcome})")]
    Strayed {
        /// Where it should go.
        to: String,
        /// Where it is said to have been.
        from: String,
        /// Where it is said to have gone.
        at: String,
        /// How the engine calls that.
        outcome: String,
    },
    /// Not exactly one, or not where it should be.
    #[error("cannot find {CONTAINER} running on {expected} alone: {found}")]
    Place {
        /// Where it should be.
        expected: &'static str,
        /// What there is.
        found: String,
    },
    /// Ctrl-C.
    #[error("cannot go on: interrupted")]
    Interrupted,
}

/// What the demo needs of the report of a move.
#[derive(Debug, Deserialize)]
struct Moved {
    from: String,
    to: String,
    outcome: String,
    downtime_ms: f64,
    total_ms: f64,
    bytes_sent: u64,
}

/// Shows it, prints the result, and gives the exit status.
pub fn run(options: &Options, json: bool) -> ExitCode {
    let mut report = Report::default();
    if let Err(error) = play(options, json, &mut report) {
        report.failure = Some(crate::chain(&error));
    }
    if json {
        println!("{}", serde_json::to_string(&report).expect("a report is always JSON"));
    } else {
        print!("{}", report.for_people());
    }
    if report.passed(2 * ROUND_TRIPS) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Makes the lab, plays the demo in it, and removes it however that went.
fn play(options: &Options, json: bool, report: &mut Report) -> Result<(), DemoError> {
    let stop = Stop::on_signal_or_file(None)?;
    let checker = std::env::current_exe().map_err(|error| DemoError::Find("drover-check".into(), error))?;
    let drover = options.drover.clone().unwrap_or_else(|| checker.with_file_name("drover"));
    let drover = drover.canonicalize().map_err(|error| DemoError::Find(drover, error))?;
    if drover.parent() != checker.parent() {
        return Err(DemoError::Apart(drover));
    }
    let image = options.image.clone().unwrap_or_else(usual_image);
    if !image.is_dir() {
        return Err(DemoError::NoImage(image));
    }
    let drover = Drover { program: drover, lab: options.lab.clone(), stop: &stop };
    let demo = Demo { drover, options, image, checker, json };
    let played = demo.prepare().and_then(|()| demo.play(report));
    played.and(demo.remove_lab())
}

/// Where scripts/images.sh puts it.
fn usual_image() -> PathBuf {
    let home = std::env::var_os("DROVER_HOME").filter(|home| !home.is_empty());
    home.map_or_else(|| PathBuf::from("/var/lib/drover"), PathBuf::from).join("cache/images/redis")
}

struct Demo<'a> {
    drover: Drover<'a>,
    options: &'a Options,
    image: PathBuf,
    checker: PathBuf,
    json: bool,
}

impl Demo<'_> {
    /// Says what is being done: between the JSON and the reader of JSON nothing may stand.
    fn say(&self, what: &str) {
        if self.json { eprintln!("{what}") } else { println!("{what}") }
    }

    /// A lab with the container in it.
    fn prepare(&self) -> Result<(), DemoError> {
        let begin = Instant::now();
        // An earlier demo may have been killed.
        self.drover.insist(&["lab", "down"], SHORT)?;
        self.drover.run(&["lab", "up", "--nodes", "2"], LONG)?;
        self.say(&format!("lab {} is up: n1, n2, client ({:.1} s)", self.options.lab, begin.elapsed().as_secs_f64()));
        let begin = Instant::now();
        self.drover.run(&["image", "import", "redis", &self.image.to_string_lossy()], LONG)?;
        self.say(&format!("image redis is imported on n1 and n2 ({:.1} s)", begin.elapsed().as_secs_f64()));
        self.drover.run(&["run", "--node", "n1", "--name", CONTAINER, "--ip", ADDRESS, "-d", "redis"], SHORT)?;
        self.say(&format!("container {CONTAINER} runs redis-server on n1 with address {ADDRESS}"));
        Ok(())
    }

    /// Loads, moves, and looks at what the client saw.
    fn play(&self, report: &mut Report) -> Result<(), DemoError> {
        let begin = Instant::now();
        let program = Path::new("/opt/drover").join(self.checker.file_name().unwrap_or_default());
        let mut witness = Witness::start(&self.drover, &program, &format!("{ADDRESS}:6379"), self.options.load_mib)?;
        witness.await_ready(&self.drover, LONG)?;
        let seconds = begin.elapsed().as_secs_f64();
        self.say(&format!("client has loaded {} MiB of values ({seconds:.1} s)", self.options.load_mib));
        self.say("client sends a GET or SET each millisecond over one connection and checks each answer");
        let moved = self.move_about(report, &mut witness);
        if self.drover.stop.asked() {
            return Err(DemoError::Interrupted);
        }
        // What the client saw matters even when a move has failed.
        self.say("client reads all values back");
        let found = witness.finish(&self.drover, LONG).map(|findings| report.take(findings));
        moved?;
        found?;
        self.find("n1")
    }

    fn move_about(&self, report: &mut Report, witness: &mut Witness) -> Result<(), DemoError> {
        for number in 1..=2 * ROUND_TRIPS {
            self.dwell(witness)?;
            let (from, to) = if number % 2 == 1 { ("n1", "n2") } else { ("n2", "n1") };
            let began = SystemTime::now();
            let moved: Moved = self.drover.ask(&["migrate", CONTAINER, "--to", to], MOVE)?;
            if (&*moved.outcome, &*moved.from, &*moved.to) != ("moved", from, to) {
                let Moved { from, to: at, outcome, .. } = moved;
                return Err(DemoError::Strayed { to: to.into(), from, at, outcome });
            }
            let Moved { downtime_ms, total_ms, bytes_sent, .. } = moved;
            let gap = witness.await_answers(&self.drover, began, downtime_ms, RECOVERY)?;
            let gap = gap.map_or(String::new(), |ms| format!(", {ms:.1} ms without an answer"));
            self.say(&format!("move {number}: {from} → {to}, downtime {downtime_ms:.1} ms{gap}"));
            let (from, to) = (from.into(), to.into());
            report.moves.push(Move { from, to, began, downtime_ms, longest_gap_ms: None, total_ms, bytes_sent });
        }
        self.dwell(witness)
    }

    /// Leaves the client to its work for a moment.
    fn dwell(&self, witness: &mut Witness) -> Result<(), DemoError> {
        self.drover.stop.sleep_until(Instant::now() + DWELL);
        if self.drover.stop.asked() {
            return Err(DemoError::Interrupted);
        }
        Ok(witness.still_there()?)
    }

    /// The container must run on this node, and nowhere else.
    fn find(&self, expected: &'static str) -> Result<(), DemoError> {
        let containers: serde_json::Value = self.drover.ask(&["ps", "-a"], SHORT)?;
        let all = containers.as_array().map(Vec::as_slice).unwrap_or_default();
        let found: Vec<_> = all.iter().map(|one| format!("{} on {}", one["state"], one["node"])).collect();
        if found == [format!("\"running\" on \"{expected}\"")] {
            return Ok(());
        }
        Err(DemoError::Place { expected, found: found.join(", ") })
    }

    fn remove_lab(&self) -> Result<(), DemoError> {
        if self.options.keep {
            self.say(&format!("lab {0} stays up: DROVER_LAB={0} drover lab status", self.options.lab));
            return Ok(());
        }
        self.drover.insist(&["lab", "down"], SHORT)?;
        self.say(&format!("lab {} is gone", self.options.lab));
        Ok(())
    }
}
