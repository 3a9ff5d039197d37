//! The error of one step, and the end of a log as a cause.

use std::fmt;
use std::io;
use std::path::Path;

/// One step at the system's edge that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {subject}")]
pub struct StepError {
    action: &'static str,
    subject: String,
    source: io::Error,
}

impl StepError {
    /// For `map_err`: doing `action` to the file `path`.
    pub(crate) fn at<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let subject = path.display().to_string();
        move |error| Self { action, subject, source: error.into() }
    }

    /// For `map_err`: doing `action` to something that is no file.
    pub(crate) fn of<E: Into<io::Error>>(action: &'static str, subject: &str) -> impl FnOnce(E) -> Self {
        let subject = subject.to_owned();
        move |error| Self { action, subject, source: error.into() }
    }

    /// What the kernel or the standard library said.
    pub(crate) fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// The last lines of a log, as the cause of an error.
#[derive(Debug)]
pub struct LogTail(String);

impl LogTail {
    const BYTES: usize = 4096;
    const LINES: usize = 12;

    /// Reads the ends of some logs; a log that cannot be read is left out.
    pub(crate) fn read(logs: &[&Path]) -> Self {
        let mut tail = String::new();
        for path in logs {
            let Ok(text) = std::fs::read(path) else { continue };
            let text = String::from_utf8_lossy(&text[text.len().saturating_sub(Self::BYTES)..]).into_owned();
            let lines: Vec<_> = text.lines().collect();
            tail.push_str(&format!("\n{} ends:", path.display()));
            for line in &lines[lines.len().saturating_sub(Self::LINES)..] {
                tail.push_str("\n  ");
                tail.push_str(line);
            }
        }
        Self(tail)
    }
}

impl fmt::Display for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("it left no log") } else { write!(f, "its logs say:{}", self.0) }
    }
}

impl std::error::Error for LogTail {}
