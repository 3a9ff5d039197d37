//! The rows of this suite: one line of JSON for each turn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Case;
use crate::suite::Link;

/// One turn that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The session it was part of.
    pub session: String,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// In which case.
    pub case: Case,
    /// Over which link.
    pub link: Link,
    /// Whose turn it was.
    pub contestant: String,
    /// Which repetition, from 1.
    pub repetition: u32,
    /// Why it does not count, if it does not.
    pub invalid: Option<String>,
    /// What was measured: milliseconds and bytes by name.
    pub measures: BTreeMap<String, f64>,
    /// Drover's own reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<serde_json::Value>,
}

/// The file with the rows in the directory of results.
pub fn rows_file(directory: &Path) -> PathBuf {
    directory.join("disk.jsonl")
}
