//! What came of a visit to an exhibit.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::witness::Seen;

/// What came of a visit.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    /// The exhibit.
    pub exhibit: String,
    /// The version of its package.
    pub version: Option<String>,
    /// How often it was to move.
    pub asked: u32,
    /// The reports of the moves that came off.
    pub reports: Vec<Value>,
    /// How long each check took, in milliseconds.
    pub checks_ms: Vec<f64>,
    /// The kinds of findings that refused an exhibit which can be moved.
    pub refused: Vec<String>,
    /// The kind of finding that refused one which cannot be moved.
    pub blocked: Option<String>,
    /// What the witness saw.
    pub seen: Seen,
    /// What was not as it has to be.
    pub wrong: Vec<String>,
    /// The machine.
    pub machine: String,
}

impl Row {
    /// Whether everything was as it has to be.
    pub fn holds(&self) -> bool {
        let moved = self.blocked.is_some() || self.reports.len() == self.asked as usize;
        moved && self.wrong.is_empty() && self.refused.is_empty() && self.seen.ok
    }

    /// A number of each report.
    pub fn numbers(&self, pointer: &'static str) -> impl Iterator<Item = f64> + '_ {
        self.reports.iter().filter_map(move |report| report.pointer(pointer)?.as_f64())
    }

    /// How far off each prediction was, as a part of what it was about.
    pub fn errors(&self, name: &str) -> Vec<f64> {
        let of = |report: &Value| {
            let (predicted, came) = (report["predicted"][name].as_f64()?, report[name].as_f64()?);
            (came > 0.0).then(|| (came - predicted).abs() / came)
        };
        self.reports.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn row() -> Row {
        let report = serde_json::json!({"downtime_ms": 50.0, "total_ms": 200.0, "bytes_sent": 2_097_152,
            "predicted": {"downtime_ms": 40.0, "total_ms": 220.0}});
        let seen = Seen { ok: true, operations: 9, wrong: vec![], longest_gap_ms: 61.0 };
        Row { exhibit: "redis".to_owned(), asked: 1, reports: vec![report], seen, ..Row::default() }
    }

    #[test]
    fn a_row_holds_when_every_move_came_off_and_nothing_is_wrong() {
        assert!(row().holds());
        assert!(!Row { asked: 2, ..row() }.holds());
        assert!(!Row { wrong: vec!["lost".to_owned()], ..row() }.holds());
        assert!(!Row { refused: vec!["device".to_owned()], ..row() }.holds());
        assert!(!Row { seen: Seen { ok: false, ..row().seen }, ..row() }.holds());
    }

    #[test]
    fn an_error_is_a_part_of_what_came() {
        assert_eq!(row().errors("downtime_ms"), [0.2]);
        assert_eq!(row().errors("total_ms"), [0.1]);
    }
}
