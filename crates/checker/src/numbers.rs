//! Numbers that must increase by one each: the check on the fly, and `drover-check verify-numbers`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use serde::Serialize;

/// The longest line that can hold a number, its newline included.
pub const LONGEST_LINE: usize = 21;

/// A run of numbers so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Numbers seen.
    pub count: u64,
    /// The first of them.
    pub first: Option<u64>,
    /// The newest of them.
    pub last: Option<u64>,
    /// Places where a number was not the one before plus one, or was no number.
    pub breaks: u64,
    /// The first such place.
    pub first_break: Option<String>,
}

impl Sequence {
    /// Takes the next line, without its newline.
    pub fn take(&mut self, line: &[u8]) {
        let Some(number) = parse(line) else {
            self.note_break(format!("{:?} is no number", String::from_utf8_lossy(&line[..line.len().min(40)])));
            return;
        };
        let expected = self.last.map(|last| last.wrapping_add(1));
        if let Some(expected) = expected.filter(|expected| *expected != number) {
            self.note_break(format!("{number} where {expected} was expected"));
        }
        self.count += 1;
        self.first = self.first.or(Some(number));
        self.last = Some(number);
    }

    /// Counts a place where something else was found.
    pub fn note_break(&mut self, what: String) {
        self.breaks += 1;
        let line = self.count + self.breaks;
        self.first_break.get_or_insert_with(|| format!("line {line}: {what}"));
    }
}

/// A number as `count` writes it: digits alone, no zero in front.
fn parse(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

/// Which file.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The file with one number on each line.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// What the file holds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Numbers.
    pub count: u64,
    /// The first.
    pub first: Option<u64>,
    /// The last.
    pub last: Option<u64>,
    /// Whether there is at least one number, and each is the one before plus one.
    pub ok: bool,
    /// Places where that does not hold.
    pub breaks: u64,
    /// The first of them.
    pub first_break: Option<String>,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot verify {path}")]
pub struct VerifyError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Reads and checks the file.
pub fn run(options: &Options) -> Result<Report, VerifyError> {
    let wrap = |source| VerifyError { path: options.file.clone(), source };
    let file = File::open(&options.file).map_err(wrap)?;
    verify(BufReader::new(file)).map_err(wrap)
}

fn verify(mut input: impl BufRead) -> std::io::Result<Report> {
    let mut sequence = Sequence::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        // A longer line comes in pieces, and none of them passes.
        input.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        match line.split_last() {
            None => break,
            Some((b'\n', number)) => sequence.take(number),
            Some(_) => sequence.note_break(format!("{:?} has no end", String::from_utf8_lossy(&line))),
        }
    }
    let Sequence { count, first, last, breaks, first_break } = sequence;
    Ok(Report { count, first, last, ok: breaks == 0 && count > 0, breaks, first_break })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Report {
        verify(text.as_bytes()).unwrap()
    }

    #[test]
    fn consecutive_numbers_pass() {
        let expected = Report { count: 4, first: Some(8), last: Some(11), ok: true, breaks: 0, first_break: None };
        assert_eq!(of("8\n9\n10\n11\n"), expected);
    }

    #[test]
    fn loss_repetition_and_return_are_found() {
        for (text, what) in [
            ("1\n2\n4\n", "line 3: 4 where 3 was expected"),
            ("1\n2\n2\n", "line 3: 2 where 3 was expected"),
            ("5\n6\n1\n2\n", "line 3: 1 where 7 was expected"),
        ] {
            let report = of(text);
            assert_eq!((report.ok, report.breaks, report.first_break.as_deref()), (false, 1, Some(what)));
        }
    }

    #[test]
    fn nothing_is_ignored() {
        let zeros = format!("1\n{}2\n", "0".repeat(50));
        for text in ["", "1\n\n2\n", "1\n 2\n", "1\n+2\n", "1\n02\n", "1\n2", "1\n\0\n2\n", "x\n", "1\r\n2\r\n", &zeros]
        {
            assert!(!of(text).ok, "{text:?}");
        }
    }
}
