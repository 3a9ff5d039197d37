//! What the demo has to say in the end: a row for each move and one line that scripts can rely on.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;

use super::witness::{Findings, Gap, nanoseconds};

/// One move, by the engine's clock and by the client's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    /// The node it left.
    pub from: String,
    /// The node it went to.
    pub to: String,
    /// Just before the command.
    #[serde(skip)]
    pub began: SystemTime,
    /// How long the container stood still, by the engine's clock.
    pub downtime_ms: f64,
    /// The longest time without an answer from the begin of this move to the begin of the next, when it was over 5 ms.
    pub longest_gap_ms: Option<f64>,
    /// From the order until all was settled, by the engine's clock.
    pub total_ms: f64,
    /// Bytes that crossed.
    pub bytes_sent: u64,
}

/// What came of the demo.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The moves that came off.
    pub moves: Vec<Move>,
    /// Requests that the client sent and got answers to.
    pub ops: Option<u64>,
    /// Values that it knows.
    pub keys: Option<u64>,
    /// Whether the client's one connection held; nothing when it could not be told.
    pub connection_survived: Option<bool>,
    /// Whether every answer was right, and every value there in the end; nothing when it could not be told.
    pub data_intact: Option<bool>,
    /// The longest time without an answer.
    pub longest_gap_ms: Option<f64>,
    /// Some of the wrong answers, and why the client ended early.
    pub complaints: Vec<String>,
    /// Why the demo did not come off.
    pub failure: Option<String>,
}

impl Report {
    /// Adds what the client found, and finds the longest gap of each move.
    pub fn take(&mut self, findings: Findings) {
        let begins: Vec<u64> = self.moves.iter().map(|one| nanoseconds(one.began)).collect();
        for (index, one) in self.moves.iter_mut().enumerate() {
            let end = begins.get(index + 1).copied().unwrap_or(u64::MAX);
            one.longest_gap_ms = longest(&findings.gaps, begins[index], end);
        }
        self.ops = Some(findings.ops);
        self.keys = Some(findings.keys);
        self.connection_survived = Some(findings.connection_survived);
        self.data_intact = Some(findings.data_intact);
        self.longest_gap_ms = Some(findings.longest_gap_ms);
        self.complaints = findings.examples.into_iter().chain(findings.error).collect();
    }

    /// Whether there were so many moves and nobody noticed.
    pub fn passed(&self, moves: usize) -> bool {
        let unharmed = self.connection_survived == Some(true) && self.data_intact == Some(true);
        self.moves.len() == moves && unharmed && self.failure.is_none()
    }

    /// The table, whatever went wrong, and the last line.
    pub fn for_people(&self) -> String {
        let mut text = String::new();
        if !self.moves.is_empty() {
            text.push_str("\nmove   from   to    downtime   longest gap       total        sent\n");
        }
        for (index, one) in self.moves.iter().enumerate() {
            let gap = match one.longest_gap_ms {
                Some(ms) => format!("{ms:.1} ms"),
                None if self.longest_gap_ms.is_some() => "≤ 5 ms".to_owned(),
                None => "unknown".to_owned(),
            };
            let (down, total) = (format!("{:.1} ms", one.downtime_ms), format!("{:.1} ms", one.total_ms));
            let sent = format!("{:.1} MiB", one.bytes_sent as f64 / f64::from(1 << 20));
            let (number, from, to) = (index + 1, &one.from, &one.to);
            let _ = writeln!(text, "{number:>4}   {from:<4}   {to:<4}{down:>10}{gap:>14}{total:>12}{sent:>12}");
        }
        if let (Some(ops), Some(keys)) = (self.ops, self.keys) {
            let _ = writeln!(text, "\nclient: {ops} requests answered, {keys} values known");
        }
        for complaint in &self.complaints {
            let _ = writeln!(text, "client: {complaint}");
        }
        if let Some(failure) = &self.failure {
            let _ = writeln!(text, "failed: {failure}");
        }
        text + &self.last_line() + "\n"
    }

    fn last_line(&self) -> String {
        let word = |fact| match fact {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        format!(
            "demo: {} moves, connection survived: {}, data intact: {}, longest gap {}",
            self.moves.len(),
            word(self.connection_survived),
            word(self.data_intact),
            self.longest_gap_ms.map_or("unknown".to_owned(), |ms| format!("{ms:.0} ms")),
        )
    }
}

/// The longest gap of which any part lies between `begin` and `end`.
fn longest(gaps: &[Gap], begin: u64, end: u64) -> Option<f64> {
    let touches = |gap: &&Gap| gap.at_ns < end && gap.end_ns() > begin;
    gaps.iter().filter(touches).map(|gap| gap.ms).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn report() -> Report {
        let one = |from: &str, to: &str, second| Move {
            from: from.into(),
            to: to.into(),
            began: UNIX_EPOCH + Duration::from_secs(second),
            downtime_ms: 40.25,
            longest_gap_ms: None,
            total_ms: 1234.5,
            bytes_sent: 300 << 20,
        };
        Report { moves: vec![one("n1", "n2", 10), one("n2", "n1", 20), one("n1", "n2", 30)], ..Report::default() }
    }

    fn findings() -> Findings {
        let gap = |ms_since_1970: u64, ms| Gap { at_ns: ms_since_1970 * 1_000_000, ms };
        Findings {
            connection_survived: true,
            data_intact: true,
            longest_gap_ms: 56.7,
            ops: 9000,
            keys: 65536,
            examples: vec![],
            error: None,
            gaps: vec![gap(9_000, 6.0), gap(9_995, 7.5), gap(12_000, 43.0), gap(14_000, 9.0), gap(31_000, 56.7)],
        }
    }

    #[test]
    fn each_gap_counts_for_the_move_in_which_it_was() {
        let mut report = report();
        report.take(findings());
        let gaps: Vec<_> = report.moves.iter().map(|one| one.longest_gap_ms).collect();
        assert_eq!(gaps, [Some(43.0), None, Some(56.7)]);
        // A gap that spans the begin of a move counts for it.
        assert_eq!(longest(&findings().gaps, 10_000_000_000, 11_000_000_000), Some(7.5));
        assert!(report.passed(3) && !report.passed(6));
    }

    #[test]
    fn a_good_demo_ends_with_its_line() {
        let mut report = report();
        report.take(findings());
        let expected = "
move   from   to    downtime   longest gap       total        sent
   1   n1     n2     40.2 ms       43.0 ms   1234.5 ms   300.0 MiB
   2   n2     n1     40.2 ms        ≤ 5 ms   1234.5 ms   300.0 MiB
   3   n1     n2     40.2 ms       56.7 ms   1234.5 ms   300.0 MiB

client: 9000 requests answered, 65536 values known
demo: 3 moves, connection survived: yes, data intact: yes, longest gap 57 ms
";
        assert_eq!(report.for_people(), expected);
    }

    #[test]
    fn a_bad_demo_fails_and_says_why_and_what_is_unknown() {
        let nothing = Report { failure: Some("cannot find a lab".into()), ..Report::default() };
        let expected = "failed: cannot find a lab\n\
                        demo: 0 moves, connection survived: unknown, data intact: unknown, longest gap unknown\n";
        assert_eq!(nothing.for_people(), expected);
        for spoil in [
            |findings: &mut Findings| findings.connection_survived = false,
            |findings: &mut Findings| findings.data_intact = false,
        ] {
            let (mut report, mut findings) = (report(), findings());
            spoil(&mut findings);
            report.take(findings);
            assert!(!report.passed(3) && report.for_people().contains(": no,"), "{report:?}");
        }
        let failed = Report { failure: Some("it stays".into()), ..Report::default() };
        assert!(!failed.passed(0));
    }
}
