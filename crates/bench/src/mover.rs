//! How each contestant starts the container and moves it, and what it says of its phases.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::now_ns;
use crate::command::{CommandError, Running};
use crate::lab::{ADDRESS, LONG, Lab, SHORT, SOURCE, Script, TARGET};
use crate::suite::{Contestant, Means};

/// How long a move may take: 1.3 GiB at 100 Mbit/s take two minutes, and some movers send them twice.
const MOVE: Duration = Duration::from_secs(420);
/// How long the target's script has to listen before the source's begins.
const LISTEN: Duration = Duration::from_secs(10);
/// The name of Drover's container.
const CONTAINER: &str = "bench";
/// The server's command under the peers, which is that of the image but for a log that nobody reads.
const SERVER: [&str; 11] = [
    "redis-server",
    "--save",
    "",
    "--appendonly",
    "no",
    "--protected-mode",
    "no",
    "--bind",
    "*",
    "--logfile",
    "/dev/null",
];

macro_rules! script {
    ($name:literal $(, $argument:literal)*) => {
        Script { name: $name, text: include_str!(concat!("scripts/", $name)), arguments: &[$($argument),*] }
    };
}

/// A move that failed.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A temporary file cannot be used.
    #[error("cannot hand files to a host")]
    File(#[source] std::io::Error),
    /// runc's own configuration makes no sense.
    #[error("cannot read runc's configuration")]
    Bundle(#[source] serde_json::Error),
    /// The target does not listen.
    #[error("cannot begin: the target does not listen")]
    Deaf,
    /// A moment is missing.
    #[error("cannot find out when {0:?} was: {1}")]
    Moment(&'static str, String),
    /// Drover did something else than it was told.
    #[error("cannot count a move that ended as {0}")]
    Outcome(String),
}

/// A move that came off.
#[derive(Debug, Clone)]
pub struct Moved {
    /// When it was ordered: nanoseconds since 1970.
    pub began_ns: u64,
    /// When the source was free.
    pub ended_ns: u64,
    /// How long the container stood still, in milliseconds, by the mover's account.
    pub downtime_ms: f64,
    /// Milliseconds in each phase.
    pub phases: BTreeMap<String, f64>,
    /// Drover's report.
    pub report: Option<Value>,
}

/// Makes the hosts of a new lab ready for all contestants.
pub fn prepare_hosts(lab: &Lab, image: &Path) -> Result<(), MoveError> {
    lab.run(&["image", "import", "redis", &image.to_string_lossy()], LONG)?;
    let root = tar(image)?;
    let again = |file: &File| -> Result<File, MoveError> {
        let mut file = file.try_clone().map_err(MoveError::File)?;
        file.rewind().map_err(MoveError::File)?;
        Ok(file)
    };
    for host in [SOURCE, TARGET] {
        lab.run_script(host, &script!("criu.sh"), None)?;
        let config = lab.run_script(host, &script!("bundle.sh"), Some(again(&root)?))?;
        let config = bundle(&config).map_err(MoveError::Bundle)?;
        let write = ["sh", "-c", "cat >/run/bench/bundle/config.json"];
        let arguments = [&["lab", "exec", host, "--"][..], &write].concat();
        lab.start(&arguments, Some(file_of(config.as_bytes())?))?.finish(SHORT)?;
    }
    lab.run_script(SOURCE, &script!("podman-host.sh", "import"), Some(again(&root)?))?;
    let save = ["podman", "save", "-q", "localhost/bench"];
    // The archive is no text: it goes by a file of the host.
    lab.exec(SOURCE, &[&save[..], &["-o", "/run/bench/image.tar"]].concat(), LONG)?;
    let pids = lab.pids()?;
    let image = File::open(crate::lab::inside(pids.source, "/run/bench/image.tar")).map_err(MoveError::File)?;
    lab.run_script(TARGET, &script!("podman-host.sh", "load"), Some(image))?;
    lab.exec(SOURCE, &["rm", "/run/bench/image.tar"], SHORT)?;
    lab.run_script(SOURCE, &script!("count.sh", "10.77.0.12"), None)?;
    lab.run_script(TARGET, &script!("count.sh", "10.77.0.11"), None)?;
    Ok(())
}

/// An image's root as a tar in a temporary file.
fn tar(image: &Path) -> Result<File, MoveError> {
    let file = tempfile::tempfile().map_err(MoveError::File)?;
    let out = file.try_clone().map_err(MoveError::File)?;
    let status = std::process::Command::new("tar").arg("-C").arg(image).args(["-cf", "-", "."]).stdout(out).status();
    match status {
        Ok(status) if status.success() => Ok(file),
        Ok(_) => Err(MoveError::File(std::io::Error::other("tar failed"))),
        Err(error) => Err(MoveError::File(error)),
    }
}

fn file_of(bytes: &[u8]) -> Result<File, MoveError> {
    let mut file = tempfile::tempfile().map_err(MoveError::File)?;
    file.write_all(bytes).and_then(|()| file.rewind()).map_err(MoveError::File)?;
    Ok(file)
}

/// runc's configuration with our program, in the namespace that wire.sh makes.
fn bundle(config: &str) -> Result<String, serde_json::Error> {
    let mut config: Value = serde_json::from_str(config)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(SERVER);
    config["root"]["readonly"] = json!(false);
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        for namespace in namespaces.iter_mut().filter(|namespace| namespace["type"] == "network") {
            namespace["path"] = json!("/run/netns/ct");
        }
    }
    serde_json::to_string(&config)
}

/// A container as `drover ps` lists it.
#[derive(Debug, Deserialize)]
struct Listed {
    node: String,
    spec: ListedSpec,
}

#[derive(Debug, Deserialize)]
struct ListedSpec {
    id: String,
}

/// Takes away what earlier runs have left, of all contestants.
pub fn clean(lab: &Lab) -> Result<(), MoveError> {
    let containers: Vec<Listed> = lab.ask(&["ps", "-a"], SHORT)?;
    for container in &containers {
        lab.run(&["rm", "-f", "--node", &container.node, &container.spec.id], SHORT)?;
    }
    for host in [SOURCE, TARGET] {
        lab.run_script(host, &script!("clean.sh"), None)?;
    }
    Ok(())
}

/// Starts the container on the source.
pub fn start(lab: &Lab, contestant: &Contestant) -> Result<(), MoveError> {
    let run = match contestant.means {
        Means::Drover(_) => {
            lab.run(&["run", "--node", SOURCE, "--name", CONTAINER, "--ip", ADDRESS, "-d", "redis"], SHORT)?;
            return Ok(());
        }
        Means::RuncStop | Means::RuncPageServer | Means::RuncLazy => script!("runc-run.sh"),
        Means::Podman => script!("podman-run.sh"),
    };
    lab.run_script(TARGET, &script!("wire.sh", "there"), None)?;
    lab.run_script(SOURCE, &script!("wire.sh", "here"), None)?;
    lab.run_script(SOURCE, &run, None)?;
    Ok(())
}

/// Moves it to the target.
pub fn migrate(lab: &Lab, contestant: &Contestant) -> Result<Moved, MoveError> {
    match contestant.means {
        Means::Drover(options) => by_drover(lab, options),
        Means::RuncStop => by_scripts(lab, script!("runc-stop-source.sh"), script!("runc-stop-target.sh"), &[7000]),
        Means::RuncPageServer => {
            let source = script!("runc-page-server-source.sh");
            by_scripts(lab, source, script!("runc-page-server-target.sh"), &[7000, 9001])
        }
        Means::RuncLazy => by_scripts(lab, script!("runc-lazy-source.sh"), script!("runc-lazy-target.sh"), &[7000]),
        Means::Podman => by_scripts(lab, script!("podman-source.sh"), script!("podman-target.sh"), &[7000]),
    }
}

fn by_drover(lab: &Lab, options: &[&str]) -> Result<Moved, MoveError> {
    let began_ns = now_ns();
    let report: Value = lab.ask(&[&["migrate", CONTAINER, "--to", TARGET], options].concat(), MOVE)?;
    let ended_ns = now_ns();
    let outcome = report["outcome"].as_str().unwrap_or_default();
    if outcome != "moved" {
        return Err(MoveError::Outcome(outcome.to_owned()));
    }
    let phases = report["phases"].as_object().into_iter().flatten();
    Ok(Moved {
        began_ns,
        ended_ns,
        downtime_ms: report["downtime_ms"].as_f64().unwrap_or_default(),
        phases: phases.filter_map(|(name, ms)| Some((name.clone(), ms.as_f64()?))).collect(),
        report: Some(report),
    })
}

/// Both halves of a peer's move; the target's is started first and waits for the source's.
fn by_scripts(lab: &Lab, source: Script, target: Script, ports: &[u16]) -> Result<Moved, MoveError> {
    let mut receiving = lab.script(TARGET, &target, None)?;
    await_listeners(lab, &mut receiving, ports)?;
    let mut sending = lab.script(SOURCE, &source, None)?;
    // A source that has failed leaves the target waiting.
    let status = sending.wait(MOVE)?;
    if !status.success() {
        return Err(sending.failure(status).into());
    }
    let status = receiving.wait(MOVE)?;
    if !status.success() {
        return Err(receiving.failure(status).into());
    }
    let printed = format!("{}{}", sending.printed(), receiving.printed());
    let moment = |name: &'static str| moment(&printed, name).ok_or_else(|| MoveError::Moment(name, printed.clone()));
    let (begin, dumped, received, restored) =
        (moment("begin")?, moment("dumped")?, moment("received")?, moment("restored")?);
    let ended = ["filled", "served"].into_iter().filter_map(|name| self::moment(&printed, name)).max();
    let ended = ended.unwrap_or(restored);
    let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e3;
    let phases = [
        ("checkpoint", ms(begin, dumped)),
        ("transfer", ms(dumped, received)),
        ("restore", ms(received.max(dumped), restored)),
        ("settle", ms(restored, ended)),
    ];
    Ok(Moved {
        began_ns: begin * 1000,
        ended_ns: ended * 1000,
        downtime_ms: ms(begin, restored),
        phases: phases.map(|(name, ms)| (name.to_owned(), ms)).into(),
        report: None,
    })
}

/// The moment that a script has printed, in microseconds since 1970.
fn moment(printed: &str, name: &str) -> Option<u64> {
    printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Waits until the target listens on all these ports.
fn await_listeners(lab: &Lab, receiving: &mut Running, ports: &[u16]) -> Result<(), MoveError> {
    let begin = Instant::now();
    while begin.elapsed() < LISTEN {
        if let Some(status) = receiving.ended()? {
            return Err(receiving.failure(status).into());
        }
        let listening = lab.exec(TARGET, &["ss", "-Htln"], SHORT)?;
        if ports.iter().all(|port| listening.split_whitespace().any(|word| word.ends_with(&format!(":{port}")))) {
            return Ok(());
        }
    }
    Err(MoveError::Deaf)
}

/// The bytes of IP packets that the nodes have sent each other so far.
pub fn bytes(lab: &Lab) -> Result<u64, MoveError> {
    let mut total = 0;
    for host in [SOURCE, TARGET] {
        let text = lab.exec(host, &["nft", "list", "counter", "inet", "bench", "wire"], SHORT)?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "bytes");
        total += words.nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_found_by_their_whole_names() {
        let printed = "begin 100\nsend 5\nsent 250\n";
        assert_eq!(moment(printed, "begin"), Some(100));
        assert_eq!(moment(printed, "sent"), Some(250));
        assert_eq!(moment(printed, "restored"), None);
    }

    #[test]
    fn a_bundle_runs_the_server_in_the_prepared_network() {
        let config = r#"{"process":{"terminal":true,"args":["sh"]},"root":{"path":"rootfs","readonly":true},
            "linux":{"namespaces":[{"type":"pid"},{"type":"network"}]}}"#;
        let config: Value = serde_json::from_str(&bundle(config).unwrap()).unwrap();
        assert_eq!(config["process"]["args"][0], "redis-server");
        assert_eq!(config["linux"]["namespaces"][1]["path"], "/run/netns/ct");
        assert_eq!(config["linux"]["namespaces"][0]["path"], Value::Null);
        assert_eq!(config["root"], serde_json::json!({"path": "rootfs", "readonly": false}));
    }
}
