//! The `drover` command, run in one lab, for a bounded time.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::stop::Stop;

/// The pause between two looks at a command that runs.
const LOOK: Duration = Duration::from_millis(5);

/// A command that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not even begin.
    #[error("cannot run {0}")]
    Start(String, #[source] std::io::Error),
    /// It said no.
    #[error("cannot run {command}: it ended with {status}: {said}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        said: String,
    },
    /// It took too long and was killed.
    #[error("cannot run {0}: it took longer than {1:?}")]
    Late(String, Duration),
    /// It printed something else than expected.
    #[error("cannot read what {0} printed")]
    Answer(String, #[source] serde_json::Error),
    /// Ctrl-C came first.
    #[error("cannot wait for {0}: interrupted")]
    Interrupted(String),
}

/// The command, and the lab it works in.
#[derive(Debug)]
pub struct Drover<'a> {
    /// The binary.
    pub program: PathBuf,
    /// The lab's name.
    pub lab: String,
    /// When to give up.
    pub stop: &'a Stop,
}

impl Drover<'_> {
    /// Runs a command that must succeed, unless it is time to end; gives what it printed.
    pub fn run(&self, arguments: &[&str], patience: Duration) -> Result<String, CommandError> {
        self.start(arguments)?.finish(patience, Some(self.stop))
    }

    /// The same, even when it is time to end.
    pub fn insist(&self, arguments: &[&str], patience: Duration) -> Result<String, CommandError> {
        self.start(arguments)?.finish(patience, None)
    }

    /// Runs a command and reads the JSON that it prints.
    pub fn ask<T: DeserializeOwned>(&self, arguments: &[&str], patience: Duration) -> Result<T, CommandError> {
        let printed = self.run(&[&["--json"], arguments].concat(), patience)?;
        serde_json::from_str(&printed).map_err(|error| CommandError::Answer(line(arguments), error))
    }

    /// Starts a command.
    pub fn start(&self, arguments: &[&str]) -> Result<Running, CommandError> {
        let line = line(arguments);
        let start = || {
            // Files, for a pipe that nobody reads would stop the command.
            let (out, error) = (tempfile::tempfile()?, tempfile::tempfile()?);
            let mut command = Command::new(&self.program);
            command.args(arguments).env("DROVER_LAB", &self.lab).env_remove("DROVER_CONTEXT");
            command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(error.try_clone()?);
            // Ctrl-C is for us alone: the lab has to be taken down in order.
            let child = command.process_group(0).spawn()?;
            Ok(Running { line: line.clone(), child, out, error })
        };
        start().map_err(|error| CommandError::Start(line.clone(), error))
    }
}

fn line(arguments: &[&str]) -> String {
    format!("drover {}", arguments.join(" "))
}

/// A command that runs; dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    out: File,
    error: File,
}

impl Running {
    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, CommandError> {
        self.child.try_wait().map_err(|error| CommandError::Start(self.line.clone(), error))
    }

    /// Waits until it ends, `patience` is over, or it is time to end.
    pub fn wait(&mut self, patience: Duration, stop: Option<&Stop>) -> Result<ExitStatus, CommandError> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if stop.is_some_and(Stop::asked) {
                return Err(CommandError::Interrupted(self.line.clone()));
            }
            if begin.elapsed() >= patience {
                return Err(CommandError::Late(self.line.clone(), patience));
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits for a success and gives what it printed.
    pub fn finish(mut self, patience: Duration, stop: Option<&Stop>) -> Result<String, CommandError> {
        let status = self.wait(patience, stop)?;
        if status.success() { Ok(self.printed()) } else { Err(self.failure(status)) }
    }

    /// What it has printed so far.
    pub fn printed(&mut self) -> String {
        read(&mut self.out)
    }

    /// The error for this end.
    pub fn failure(&mut self, status: ExitStatus) -> CommandError {
        let said = read(&mut self.error).trim().replace('\n', "; ");
        CommandError::Failed { command: self.line.clone(), status, said }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither matters for a command that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole file; what cannot be read shows as an empty text, which no caller takes for an answer.
fn read(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(stop: &Stop) -> Drover<'_> {
        Drover { program: "/bin/sh".into(), lab: "t".into(), stop }
    }

    #[test]
    fn a_command_knows_its_lab_and_its_failure_is_told() {
        let stop = Stop::on_file(None);
        let patience = Duration::from_secs(10);
        assert_eq!(shell(&stop).run(&["-c", "echo $DROVER_LAB"], patience).unwrap(), "t\n");
        let error = shell(&stop).run(&["-c", "echo no >&2; exit 3"], patience).unwrap_err();
        assert!(error.to_string().ends_with("it ended with exit status: 3: no"), "{error}");
    }

    #[test]
    fn no_command_is_waited_for_without_end() {
        let stop = Stop::on_file(None);
        let late = shell(&stop).run(&["-c", "exec sleep 60"], Duration::from_millis(20));
        assert!(matches!(late, Err(CommandError::Late(..))), "{late:?}");
        stop.after(Duration::ZERO);
        let interrupted = shell(&stop).run(&["-c", "exec sleep 60"], Duration::from_secs(60));
        assert!(matches!(interrupted, Err(CommandError::Interrupted(_))), "{interrupted:?}");
        assert!(shell(&stop).insist(&["-c", "exit 0"], Duration::from_secs(10)).is_ok());
    }
}
