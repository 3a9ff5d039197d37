//! What a container has printed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which output a log record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One piece of output: a line with its newline, or a part of a line that was too long or came unfinished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogRecord {
    /// When it was read: nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// Where it came from.
    pub stream: LogStream,
    /// The text; bytes that are no UTF-8 are replaced.
    pub text: String,
}
