//! What goes to standard output and standard error, for people or as JSON.

use std::io::{self, Write};
use std::time::Duration;

use drover_api::{LogRecord, LogStream};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::{Doing, Failure};

/// How output is to look.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// JSON instead of text.
    pub json: bool,
}

impl Printer {
    /// Prints `value` as JSON, or the text for people.
    pub fn either(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.value(value) } else { line(&text()) }
    }

    /// Prints `value` as JSON over several lines.
    pub fn value(self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from).doing(printing)?;
        line(&text)
    }

    /// Prints `value` as JSON on one line, for values that follow one another.
    pub fn record(self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(io::Error::from).doing(printing)?;
        line(&text)
    }

    /// Prints a log record: JSON, or its text where it came from.
    pub fn log(self, record: &LogRecord) -> Result<(), Failure> {
        if self.json { self.record(record) } else { output(record.stream, record.text.as_bytes()).doing(printing) }
    }

    /// Warns about something that does not keep the command from going on.
    pub fn warning(self, text: &str) {
        if self.json {
            eprintln!("{}", serde_json::json!({ "warning": text }));
        } else {
            eprintln!("warning: {text}");
        }
    }

    /// Says something beside the result.
    pub fn note(self, text: &str) {
        if self.json {
            eprintln!("{}", serde_json::json!({ "note": text }));
        } else {
            eprintln!("{text}");
        }
    }

    /// Prints a failure: the one that ends the command, or that of one thing of several.
    pub fn failure(self, failure: &Failure) {
        if !failure.is_unheard() {
            // Nobody can be told that standard error is gone.
            let _ = io::stderr().write_all(self.render(failure).as_bytes());
        }
    }

    fn render(self, failure: &Failure) -> String {
        let explained = failure.explain();
        if self.json {
            return serde_json::to_string(&explained).unwrap_or_default() + "\n";
        }
        match explained.hint {
            Some(hint) => format!("{}\nhint: {hint}\n", explained.error),
            None => format!("{}\n", explained.error),
        }
    }
}

fn printing() -> String {
    "write to standard output".into()
}

/// Prints text, with a newline when it has none.
pub fn line(text: &str) -> Result<(), Failure> {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    output(LogStream::Stdout, format!("{text}{end}").as_bytes()).doing(printing)
}

/// Writes bytes as they are.
pub fn output(stream: LogStream, bytes: &[u8]) -> io::Result<()> {
    fn write(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
        to.write_all(bytes)?;
        to.flush()
    }
    match stream {
        LogStream::Stdout => write(io::stdout().lock(), bytes),
        LogStream::Stderr => write(io::stderr().lock(), bytes),
    }
}

/// A time span in its largest fitting unit.
pub fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// The time since an RFC 3339 date; nothing when it is no date, zero when it lies ahead.
pub fn since(date: &str) -> Option<String> {
    let then = OffsetDateTime::parse(date, &Rfc3339).ok()?;
    Some(span((OffsetDateTime::now_utc() - then).try_into().unwrap_or_default()))
}

/// Milliseconds for people: three digits, in the fitting unit.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 10_000.0 => format!("{:.2} s", ms / 1000.0),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// The same, when they are known.
pub fn some_millis(ms: Option<f64>) -> String {
    ms.map_or_else(|| "unknown".to_owned(), millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::ChoiceError;

    #[test]
    fn errors_look_the_same_everywhere() {
        let nodes = vec!["n1".parse().unwrap(), "n2".parse().unwrap()];
        let error = ChoiceError::Ambiguous { name: "web".into(), nodes };
        let failure = Err::<(), _>(error).doing(|| "stop web".into()).unwrap_err();
        let text = "cannot stop web: n1 and n2 each have a container web\nhint: choose one with --node\n";
        assert_eq!(Printer { json: false }.render(&failure), text);
        let json = "{\"error\":\"cannot stop web: n1 and n2 each have a container web\",\
                    \"hint\":\"choose one with --node\"}\n";
        assert_eq!(Printer { json: true }.render(&failure), json);
    }

    #[test]
    fn spans_are_short() {
        let cases = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")];
        for (seconds, text) in cases {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        for (ms, text) in [(1.234, "1.23 ms"), (45.67, "45.7 ms"), (345.6, "346 ms"), (4567.0, "4.57 s")] {
            assert_eq!(millis(ms), text);
        }
        assert_eq!(since("not a date"), None);
        assert_eq!(since("2999-01-01T00:00:00Z").unwrap(), "0 s");
    }
}
