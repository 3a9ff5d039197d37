//! Programs that are run for a bounded time.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

/// The pause between two looks at a program that runs.
const LOOK: Duration = Duration::from_millis(3);
/// The most of what a program said that goes into an error.
const SAID: usize = 600;

/// Raised by SIGINT and SIGTERM: whoever waits gives up.
pub static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// A program that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not even begin.
    #[error("cannot run {0}")]
    Start(String, #[source] std::io::Error),
    /// It said no.
    #[error("cannot run {line}: it ended with {status}: {said}")]
    Failed {
        /// The program and its arguments, shortened.
        line: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        said: String,
    },
    /// It took too long and was killed.
    #[error("cannot run {0}: it took longer than {1:?}")]
    Late(String, Duration),
    /// It printed something else than expected.
    #[error("cannot read what {0} printed")]
    Answer(String, #[source] serde_json::Error),
    /// Somebody wants the end.
    #[error("cannot wait for {0}: interrupted")]
    Interrupted(String),
}

/// A program that runs; dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    out: File,
    error: File,
}

impl Running {
    /// Starts a program, whose standard input is `input` or nothing.
    pub fn start(mut command: Command, line: String, input: Option<File>) -> Result<Self, CommandError> {
        let start = || {
            // Files, for a pipe that nobody reads would stop the program.
            let (out, error) = (tempfile::tempfile()?, tempfile::tempfile()?);
            command.stdin(input.map_or_else(Stdio::null, Stdio::from));
            command.stdout(out.try_clone()?).stderr(error.try_clone()?);
            // Ctrl-C is for us alone: the lab has to be taken down in order.
            let child = command.process_group(0).spawn()?;
            Ok((child, out, error))
        };
        match start() {
            Ok((child, out, error)) => Ok(Self { line, child, out, error }),
            Err(error) => Err(CommandError::Start(line, error)),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, CommandError> {
        self.child.try_wait().map_err(|error| CommandError::Start(self.line.clone(), error))
    }

    /// Waits until it ends.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus, CommandError> {
        self.wait_unless(patience, &INTERRUPTED)
    }

    /// Waits for a success even when somebody wants the end, as for what takes things away.
    pub fn outlast(mut self, patience: Duration) -> Result<(), CommandError> {
        let status = self.wait_unless(patience, &AtomicBool::new(false))?;
        if status.success() { Ok(()) } else { Err(self.failure(status)) }
    }

    fn wait_unless(&mut self, patience: Duration, interrupted: &AtomicBool) -> Result<ExitStatus, CommandError> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(CommandError::Interrupted(self.line.clone()));
            }
            if begin.elapsed() >= patience {
                return Err(CommandError::Late(self.line.clone(), patience));
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits for a success and gives what it printed.
    pub fn finish(mut self, patience: Duration) -> Result<String, CommandError> {
        let status = self.wait(patience)?;
        if status.success() { Ok(self.printed()) } else { Err(self.failure(status)) }
    }

    /// What it has printed so far.
    pub fn printed(&mut self) -> String {
        read(&mut self.out)
    }

    /// The error for this end.
    pub fn failure(&mut self, status: ExitStatus) -> CommandError {
        let said = read(&mut self.error).trim().replace('\n', "; ");
        let from = said.char_indices().rev().nth(SAID).map_or(0, |(at, _)| at);
        CommandError::Failed { line: self.line.clone(), status, said: said[from..].to_owned() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither matters for a program that has ended.
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

    fn shell(script: &str) -> Running {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Running::start(command, "sh".into(), None).unwrap()
    }

    #[test]
    fn what_a_program_printed_and_how_it_failed_are_told() {
        assert_eq!(shell("echo one").finish(Duration::from_secs(10)).unwrap(), "one\n");
        let error = shell("echo no >&2; exit 3").finish(Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().ends_with("it ended with exit status: 3: no"), "{error}");
    }

    #[test]
    fn no_program_is_waited_for_without_end() {
        let late = shell("exec sleep 60").finish(Duration::from_millis(20));
        assert!(matches!(late, Err(CommandError::Late(..))), "{late:?}");
    }
}
