//! A promise that was broken.

/// Which promise, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// In the simulation's time, in microseconds.
    pub at: u64,
    /// The promise that was broken, in words.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "after {:.3} ms: {}", self.at as f64 / 1e3, self.what)
    }
}
