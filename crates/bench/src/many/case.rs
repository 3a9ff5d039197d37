//! The containers, their client, and one drain after the other, to and fro.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Options;
use crate::command::{CommandError, Running};
use crate::lab::{CLIENT, ImageError, Lab, SHORT, SOURCE, TARGET};

/// How long a drain may take.
const DRAIN: Duration = Duration::from_secs(900);
/// How often the client is looked for, and the pause in between.
const LOOKS: u32 = 600;
const LOOK: Duration = Duration::from_millis(100);
/// Where the witness listens in each container.
const PORT: u16 = 7000;

/// A measurement that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A container did not leave.
    #[error("container {0} did not move: {1}")]
    Stayed(String, String),
    /// A client saw something wrong.
    #[error("the client of container {0} saw something wrong: {1}")]
    Wrong(String, String),
    /// The client did not begin.
    #[error("cannot talk to the containers: the client does not come up")]
    Client,
    /// The client printed something else.
    #[error("cannot read what the client saw")]
    Beat(#[source] serde_json::Error),
}

/// One container's move.
#[derive(Debug, Clone)]
pub struct Move {
    /// The container.
    pub container: String,
    /// How long it stood still, by the source's clock.
    pub downtime_ms: f64,
    /// The longest time in which its client had no answer.
    pub gap_ms: f64,
    /// How long the move took.
    pub total_ms: f64,
}

/// One drain.
#[derive(Debug, Clone)]
pub struct Drain {
    /// How many moves there were at a time.
    pub limit: u32,
    /// How long it took.
    pub seconds: f64,
    /// Its moves.
    pub moves: Vec<Move>,
}

/// The lab with its containers.
#[derive(Debug)]
pub struct Case<'a> {
    lab: &'a Lab,
    every_ms: u64,
    /// The containers, and the addresses by which their client knows them.
    containers: BTreeMap<String, String>,
    /// Where they are, and where they go next.
    way: [&'static str; 2],
}

#[derive(Debug, Deserialize)]
struct DrainState {
    moves: Vec<DrainMove>,
}

#[derive(Debug, Deserialize)]
struct DrainMove {
    container: String,
    outcome: Option<String>,
    downtime_ms: Option<f64>,
    total_ms: Option<f64>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Beat {
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    address: String,
    longest_gap_ms: f64,
    wrong: Option<String>,
}

impl<'a> Case<'a> {
    /// Imports the image and starts the containers.
    pub fn make(lab: &'a Lab, programs: &Path, options: &Options) -> Result<Self, CaseError> {
        lab.import_witness("echo", &options.image, programs)?;
        let mut containers = BTreeMap::new();
        for number in 1..=options.containers {
            let (name, address) = (format!("c{number:03}"), format!("10.77.9.{number}"));
            let run = ["run", "--node", SOURCE, "--name", &name, "--ip", &address, "-d", "echo"];
            let program = ["drover-check", "echo", "--listen", &format!("0.0.0.0:{PORT}")];
            lab.run(&[&run[..], &program].concat(), SHORT)?;
            containers.insert(name, format!("{address}:{PORT}"));
        }
        Ok(Self { lab, every_ms: options.every_ms, containers, way: [SOURCE, TARGET] })
    }

    /// Drains the node with so many moves at a time, while clients talk to all containers.
    pub fn drain(&mut self, limit: u32) -> Result<Drain, CaseError> {
        let [from, to] = self.way;
        for node in [from, to] {
            self.limit(node, limit)?;
        }
        let beat = self.begin_beat()?;
        let begun = Instant::now();
        // A container that stays makes it fail, and its table says why.
        let state: DrainState = self.lab.ask(&["node", "drain", from], DRAIN)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.lab.exec(CLIENT, &["touch", "/run/stop"], SHORT)?;
        let beat: Beat = serde_json::from_str(&beat.finish(SHORT)?).map_err(CaseError::Beat)?;
        let gaps: BTreeMap<String, Peer> = beat.peers.into_iter().map(|peer| (peer.address.clone(), peer)).collect();
        self.lab.run(&["node", "undrain", from], SHORT)?;
        self.way = [to, from];
        let moves = state.moves.into_iter().map(|one| self.row(one, &gaps));
        Ok(Drain { limit, seconds, moves: moves.collect::<Result<_, _>>()? })
    }

    fn row(&self, one: DrainMove, gaps: &BTreeMap<String, Peer>) -> Result<Move, CaseError> {
        let DrainMove { container, outcome, downtime_ms, total_ms, reason } = one;
        let (Some(downtime_ms), Some(total_ms), Some("moved")) = (downtime_ms, total_ms, outcome.as_deref()) else {
            return Err(CaseError::Stayed(container, reason.unwrap_or_default()));
        };
        let peer = self.containers.get(&container).and_then(|address| gaps.get(address)).ok_or(CaseError::Client)?;
        if let Some(wrong) = &peer.wrong {
            return Err(CaseError::Wrong(container, wrong.clone()));
        }
        Ok(Move { container, downtime_ms, gap_ms: peer.longest_gap_ms, total_ms })
    }

    /// Lets so many moves leave a node and come to it at one time.
    fn limit(&self, node: &str, limit: u32) -> Result<(), CaseError> {
        let file = "/etc/drover/agent.toml";
        let script = format!(
            "sed -i '/^\\[migrations\\]/,$d' {file} && \
             printf '\\n[migrations]\\noutgoing = {limit}\\nincoming = {limit}\\n' >>{file}"
        );
        self.lab.exec(node, &["sh", "-c", &script], SHORT)?;
        for change in ["stop", "start"] {
            self.lab.run(&["lab", "agent", node, change], SHORT)?;
        }
        for _ in 0..LOOKS {
            if self.lab.run(&["ps", "--node", node], SHORT).is_ok() {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        self.lab.run(&["ps", "--node", node], SHORT).map(drop).map_err(CaseError::Command)
    }

    /// Begins to talk to all containers; returns when all have answered.
    fn begin_beat(&self) -> Result<Running, CaseError> {
        self.lab.exec(CLIENT, &["rm", "-f", "/run/ready", "/run/stop"], SHORT)?;
        let (to, every) = (self.containers.values().cloned().collect::<Vec<_>>().join(","), self.every_ms.to_string());
        let files = ["--ready-file", "/run/ready", "--stop-file", "/run/stop", "--json"];
        let beat = ["lab", "exec", CLIENT, "--", "/opt/drover/drover-check", "beat", "--to", &to, "--every-ms", &every];
        let mut beat = self.lab.start(&[&beat[..], &files].concat(), None)?;
        for _ in 0..LOOKS {
            if self.lab.exec(CLIENT, &["test", "-e", "/run/ready"], SHORT).is_ok() {
                return Ok(beat);
            }
            if let Some(status) = beat.ended()? {
                return Err(beat.failure(status).into());
            }
            std::thread::sleep(LOOK);
        }
        Err(CaseError::Client)
    }
}
