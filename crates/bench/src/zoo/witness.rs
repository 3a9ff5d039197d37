//! Whoever looks at an exhibit: a client that uses it, or the program itself.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::exhibit::Exhibit;
use super::ground::{Ground, ROOT, WITNESSES};
use crate::command::{CommandError, Running};
use crate::lab::{CLIENT, SHORT, inside};

/// How long it may take until it is under way: databases are made.
const READY: Duration = Duration::from_secs(240);
/// How long it may take to look at everything in the end.
const END: Duration = Duration::from_secs(120);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A witness that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file of the client.
    #[error("cannot use {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// It has not begun.
    #[error("cannot begin: {0}")]
    Unready(String),
    /// It says nothing.
    #[error("cannot find out what was seen: the last words are {0:?}")]
    Mute(String),
}

/// What was seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Whether all was as it has to be.
    pub ok: bool,
    /// What was asked and answered, or done.
    pub operations: u64,
    /// What was not as it has to be.
    pub wrong: Vec<String>,
    /// The longest time without an operation.
    pub longest_gap_ms: f64,
}

/// A witness at work.
#[derive(Debug)]
pub enum Witness {
    /// A program on the client.
    Client(Running, PathBuf),
    /// The container's own program.
    Itself,
}

impl Witness {
    /// Begins, and waits until it is under way.
    pub fn begin(ground: &Ground, exhibit: &Exhibit) -> Result<Self, WitnessError> {
        let Some(witness) = &exhibit.witness else {
            let log = || ground.lab.run(&["logs", &exhibit.name], SHORT).map_err(WitnessError::from);
            return await_ready(log, || Ok(None)).map(|()| Self::Itself);
        };
        let stop = format!("/run/{}.stop", exhibit.name);
        let stop_file = inside(ground.client, ROOT).join(stop.trim_start_matches('/'));
        // Of a visit before.
        let _ = std::fs::remove_file(&stop_file);
        let program = format!("{WITNESSES}/{}", witness[0]);
        let address = exhibit.address.split('/').next().unwrap_or_default();
        let path = "PATH=/usr/sbin:/usr/bin";
        let begin =
            ["lab", "exec", CLIENT, "--", "env", path, "chroot", ROOT, "python3", &program, "--stop", &stop, address];
        let more: Vec<&str> = witness[1..].iter().map(String::as_str).collect();
        let running = ground.lab.start(&[&begin[..], &more].concat(), None)?;
        let running = std::cell::RefCell::new(running);
        await_ready(
            || Ok(running.borrow_mut().printed()),
            || {
                let mut running = running.borrow_mut();
                Ok(running.ended()?.map(|status| format!("{} {}", running.printed(), running.failure(status))))
            },
        )?;
        Ok(Self::Client(running.into_inner(), stop_file))
    }

    /// Ends it, and tells what it saw; its container may be ended by that.
    pub fn end(self, ground: &Ground, exhibit: &Exhibit) -> Result<Seen, WitnessError> {
        let mut seen = match self {
            Self::Client(mut running, stop) => {
                std::fs::write(&stop, "").map_err(|error| WitnessError::File(stop.clone(), error))?;
                let status = running.wait(END)?;
                last_words(&running.printed())
                    .map_err(|words| WitnessError::Mute(format!("{words} {}", running.failure(status))))?
            }
            Self::Itself => {
                ground.lab.run(&["stop", "--timeout", "60", &exhibit.name], END)?;
                last_words(&ground.lab.run(&["logs", &exhibit.name], SHORT)?).map_err(WitnessError::Mute)?
            }
        };
        if let Some(command) = &exhibit.inside {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let printed = ground.lab.run(&[&["exec", &exhibit.name][..], &command].concat(), SHORT)?;
            let inside = last_words(&printed).map_err(WitnessError::Mute)?;
            seen.ok &= inside.ok;
            seen.wrong.extend(inside.wrong);
        }
        Ok(seen)
    }
}

/// The last line, which is what was seen.
fn last_words(printed: &str) -> Result<Seen, String> {
    let last = printed.lines().next_back().unwrap_or_default();
    serde_json::from_str(last).map_err(|_| last.to_owned())
}

fn await_ready(
    printed: impl Fn() -> Result<String, WitnessError>,
    ended: impl Fn() -> Result<Option<String>, WitnessError>,
) -> Result<(), WitnessError> {
    let begin = Instant::now();
    loop {
        let end = ended()?;
        let said = printed()?;
        let unready = if said.lines().any(|line| line == "ready") {
            return Ok(());
        } else if let Some(end) = end {
            end
        } else if begin.elapsed() >= READY {
            format!("not within {READY:?}: {said}")
        } else {
            thread::sleep(LOOK);
            continue;
        };
        return Err(WitnessError::Unready(unready));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_the_last_line_and_nothing_else() {
        let seen = last_words("ready\n{\"ok\":true,\"operations\":3,\"wrong\":[],\"longest_gap_ms\":4.5}\n").unwrap();
        assert!(seen.ok && seen.operations == 3, "{seen:?}");
        assert_eq!(last_words("{}\nKilled\n").unwrap_err(), "Killed");
        assert_eq!(last_words("").unwrap_err(), "");
    }
}
