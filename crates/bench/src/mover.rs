//! How each contestant starts the container and moves it, and what it says of its phases.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::now_ns;
use crate::command::{CommandError, Running};
use crate::lab::{ADDRESS, Lab, SHORT, SOURCE, Script, TARGET, script};
use crate::suite::{Contestant, Means};

/// How long a move may take: 1.3 GiB at 100 Mbit/s take two minutes, and some movers send them twice.
const MOVE: Duration = Duration::from_secs(420);
/// How long the target's script has to listen before the source's begins.
const LISTEN: Duration = Duration::from_secs(10);
/// The name of Drover's container.
const CONTAINER: &str = "bench";
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
        Means::Drover(options) => by_drover(lab, CONTAINER, TARGET, options),
        Means::RuncStop => by_scripts(lab, script!("runc-stop-source.sh"), script!("runc-stop-target.sh"), &[7000]),
        Means::RuncPageServer => {
            let source = script!("runc-page-server-source.sh");
            by_scripts(lab, source, script!("runc-page-server-target.sh"), &[7000, 9001])
        }
        Means::RuncLazy => by_scripts(lab, script!("runc-lazy-source.sh"), script!("runc-lazy-target.sh"), &[7000]),
        Means::Podman => by_scripts(lab, script!("podman-source.sh"), script!("podman-target.sh"), &[7000]),
    }
}

/// Has Drover move a container to a node.
pub fn by_drover(lab: &Lab, container: &str, to: &str, options: &[&str]) -> Result<Moved, MoveError> {
    let began_ns = now_ns();
    let report: Value = lab.ask(&[&["migrate", container, "--to", to], options].concat(), MOVE)?;
    let ended_ns = now_ns();
    let outcome = report["outcome"].as_str().unwrap_or_default();
    if outcome != "moved" {
        return Err(MoveError::Outcome(outcome.to_owned()));
    }
    let downtime_ms = report["downtime_ms"]
        .as_f64()
        .ok_or_else(|| MoveError::Outcome("moved, but nobody knows for how long it stood still".into()))?;
    let phases = report["phases"].as_object().into_iter().flatten();
    Ok(Moved {
        began_ns,
        ended_ns,
        downtime_ms,
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
pub fn await_listeners(lab: &Lab, receiving: &mut Running, ports: &[u16]) -> Result<(), MoveError> {
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
}
