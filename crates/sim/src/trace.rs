//! What has happened in a run: a hash of it all, so that two runs can be compared, and the lines for whoever reads them.

use std::fmt::{self, Write};

/// FNV-1a, 64 bits.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// The hash, and the lines if they are wanted.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(with_lines: bool) -> Self {
        Self { hash: BASIS, events: 0, lines: with_lines.then(Vec::new) }
    }

    /// Notes what happens at `now`, in microseconds.
    pub fn note(&mut self, now: u64, what: fmt::Arguments<'_>) {
        self.events += 1;
        let _ = write!(Hashing(&mut self.hash), "{now} {what}");
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12.3} {what}", now as f64 / 1e3));
        }
    }

    pub fn end(self) -> (u64, u64, Vec<String>) {
        (self.hash, self.events, self.lines.unwrap_or_default())
    }
}

struct Hashing<'a>(&'a mut u64);

impl Write for Hashing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        *self.0 = text.bytes().fold(*self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        Ok(())
    }
}
