//! The lab that faults are brought into, and what there is on its nodes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::processes::NodeProcesses;
use crate::command::CommandError;
use crate::lab::{CLIENT, ImageError, Lab, SHORT, SOURCE, TARGET, script};

/// The target keeps its files on a disk of its own, that can be full.
pub const STATE: &str = "/var/lib/drover";
/// Its size.
pub const DISK: &str = "300M";
/// How long an agent may take to answer again.
const ANSWER: Duration = Duration::from_secs(60);
/// The pause between two looks.
pub const LOOK: Duration = Duration::from_millis(50);
/// The image of the witness.
pub const IMAGE: &str = "witness";

/// A lab that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    /// A command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of a host.
    #[error("cannot use {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// A host that is not there.
    #[error("cannot find host {0}")]
    Host(&'static str),
    /// What has to come did not.
    #[error("cannot go on: {0} did not come within {1:?}")]
    Late(&'static str, Duration),
}

#[derive(Debug, Deserialize)]
struct Status {
    hosts: Vec<Host>,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
    pid: Option<u32>,
    agent_log: PathBuf,
}

/// What there is on a node: each thing, and how often.
pub type Inventory = BTreeMap<String, usize>;

/// The lab.
#[derive(Debug)]
pub struct Ground {
    /// The lab.
    pub lab: Lab,
    /// The log of the source's agent.
    pub log: PathBuf,
    /// The log of the target's.
    target_log: PathBuf,
    /// The first process of the client.
    pub client: u32,
    /// Source and target.
    pub nodes: [NodeProcesses; 2],
    /// What there is on the nodes without a container.
    empty: [Inventory; 2],
}

impl Ground {
    /// Makes a lab anew, with the image of the witness.
    pub fn make(lab: Lab, programs: &Path, image: &Path) -> Result<Self, GroundError> {
        lab.up_with(&[("RUST_LOG", "info,drover_engine::lead=debug,drover_engine::receive=debug")])?;
        lab.run(&["lab", "agent", TARGET, "stop"], SHORT)?;
        lab.exec(TARGET, &["mount", "-t", "tmpfs", "-o", &format!("size={DISK}"), "tmpfs", STATE], SHORT)?;
        lab.run(&["lab", "agent", TARGET, "start"], SHORT)?;
        await_answer(&lab, TARGET)?;
        lab.import_witness(IMAGE, image, programs)?;
        let status: Status = lab.ask(&["lab", "status"], SHORT)?;
        let host = |name| status.hosts.iter().find(|host| host.name == name).ok_or(GroundError::Host(name));
        let pid = |name| host(name)?.pid.ok_or(GroundError::Host(name));
        let (source, target) = (pid(SOURCE)?, pid(TARGET)?);
        let nodes = [NodeProcesses::of(&lab.name, SOURCE, source), NodeProcesses::of(&lab.name, TARGET, target)];
        let (log, target_log) = (host(SOURCE)?.agent_log.clone(), host(TARGET)?.agent_log.clone());
        let client = pid(CLIENT)?;
        let mut ground = Self { log, target_log, client, nodes, lab, empty: [Inventory::new(), Inventory::new()] };
        // The first container leaves what all share, such as the control group of the shims.
        for node in [SOURCE, TARGET] {
            ground.lab.run(&["run", "--node", node, "--name", "first", "-d", IMAGE, "sleep", "1000"], SHORT)?;
            ground.lab.run(&["rm", "-f", "first"], SHORT)?;
        }
        ground.settle_down()?;
        Ok(ground)
    }

    /// Waits until the shims of the first containers have ended; then the nodes are empty.
    fn settle_down(&mut self) -> Result<(), GroundError> {
        let begin = Instant::now();
        loop {
            let now = [inventory(&self.lab, SOURCE)?, inventory(&self.lab, TARGET)?];
            if !now.iter().flat_map(BTreeMap::keys).any(|line| line.contains(" shim ")) {
                self.empty = now;
                return Ok(());
            }
            if begin.elapsed() >= ANSWER {
                return Err(GroundError::Late("the end of a shim", ANSWER));
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until both agents answer.
    pub fn await_answers(&self) -> Result<(), GroundError> {
        [SOURCE, TARGET].iter().try_for_each(|node| await_answer(&self.lab, node))
    }

    /// What there is on the nodes that is not there without a container, by node; a container's journal, that says who has
    /// it, is not a leftover unless it has no end.
    pub fn leftovers(&self) -> Result<Vec<String>, GroundError> {
        let mut left = Vec::new();
        for (node, empty) in [SOURCE, TARGET].into_iter().zip(&self.empty) {
            for (line, count) in inventory(&self.lab, node)? {
                if count > empty.get(&line).copied().unwrap_or(0) {
                    left.push(format!("{node}: {line}"));
                }
            }
            left.extend(
                self.open_entries(node)?.into_iter().map(|entry| format!("{node}: open in the journal: {entry}")),
            );
        }
        Ok(left)
    }

    /// Migrations in a node's journal whose last mark is none that ends them.
    fn open_entries(&self, node: &str) -> Result<Vec<String>, GroundError> {
        let journal =
            self.lab.exec(node, &["sh", "-c", "cat /var/lib/drover/migrations.jsonl 2>/dev/null || true"], SHORT)?;
        let mut marks = BTreeMap::new();
        for entry in journal.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            marks.insert(text("migration"), text("mark"));
        }
        marks.retain(|_, mark| !["aborted", "settled", "owned", "discarded"].contains(&mark.as_str()));
        Ok(marks.into_iter().map(|(migration, mark)| format!("{migration} {mark}")).collect())
    }

    /// Keeps the agents' logs in a directory.
    pub fn keep_logs(&self, directory: &Path) -> Result<(), GroundError> {
        let failed = |error| GroundError::File(directory.to_owned(), error);
        std::fs::create_dir_all(directory).map_err(failed)?;
        for (log, node) in [(&self.log, SOURCE), (&self.target_log, TARGET)] {
            std::fs::copy(log, directory.join(format!("{node}.log"))).map_err(failed)?;
        }
        Ok(())
    }

    /// A file on the target as it is seen from outside.
    pub fn on_target(&self, path: &str) -> PathBuf {
        self.nodes[1].file(path)
    }

    /// A file on the client as it is seen from outside.
    pub fn on_client(&self, path: &str) -> PathBuf {
        crate::lab::inside(self.client, path)
    }
}

fn await_answer(lab: &Lab, node: &str) -> Result<(), GroundError> {
    let begin = Instant::now();
    while lab.run(&["ps", "-a", "--node", node], SHORT).is_err() {
        if begin.elapsed() >= ANSWER {
            return Err(GroundError::Late("an answer of an agent", ANSWER));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn inventory(lab: &Lab, node: &str) -> Result<Inventory, CommandError> {
    let mut inventory = Inventory::new();
    for line in lab.run_script(node, &script!("inventory.sh"), None)?.lines() {
        *inventory.entry(line.to_owned()).or_default() += 1;
    }
    Ok(inventory)
}
