//! The rows of the zoo as people read them.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::exhibit::Exhibit;
use super::row::Row;
use crate::statistics::spread;

const MIB: f64 = 1_048_576.0;

/// One visit, as soon as it is over.
pub fn line(row: &Row) -> String {
    let verdict = match &row.blocked {
        _ if !row.holds() => "WRONG",
        Some(_) => "refused as it has to be",
        None => "green",
    };
    let wrong = [&row.wrong[..], &row.refused, &row.seen.wrong].concat().join("; ");
    let still = spread(row.numbers("/downtime_ms")).map_or(0.0, |spread| spread.median);
    let (moves, asked) = (row.reports.len(), row.asked);
    let (operations, gap) = (row.seen.operations, row.seen.longest_gap_ms);
    format!(
        "{verdict}: {}: {moves} of {asked} moves, {still:.0} ms, {operations} operations, gap {gap:.0} ms {wrong}",
        row.exhibit
    )
}

/// All visits in one line.
pub fn summary(rows: &[Row]) -> String {
    let well = rows.iter().filter(|row| row.holds()).count();
    let moves: usize = rows.iter().map(|row| row.reports.len()).sum();
    format!("{} exhibits, {well} as they have to be, {moves} moves", rows.len())
}

/// The whole table, what cannot be moved, and how good checks and predictions were.
pub fn content(all: &[Exhibit], rows: &BTreeMap<String, Row>) -> String {
    let visited = |blocked: bool| {
        let of = move |exhibit: &&Exhibit| exhibit.blocked.is_some() == blocked;
        all.iter().filter(of).filter_map(|exhibit| Some((exhibit, rows.get(&exhibit.name)?)))
    };
    let mut text = String::new();
    let Some((_, first)) = rows.first_key_value() else { return "Not visited yet.\n".to_owned() };
    text.push_str(&first.machine);
    text.push_str(
        "\n\n| Exhibit | Version | Moves | Stood still, ms: median (most) | Longest gap seen, ms | Whole move, ms | Sent, MiB | Verdict |\n\
         |---|---|---:|---:|---:|---:|---:|---|\n",
    );
    for (exhibit, row) in visited(false) {
        let still =
            spread(row.numbers("/downtime_ms")).map(|spread| format!("{:.0} ({:.0})", spread.median, spread.most));
        let total = spread(row.numbers("/total_ms")).map(|spread| format!("{:.0}", spread.median));
        let sent = spread(row.reports.iter().filter_map(sent)).map(|spread| format!("{:.1}", spread.median / MIB));
        let verdict = if row.holds() { "green".to_owned() } else { format!("**{}**", wrong(row)) };
        let none = || "-".to_owned();
        let _ = writeln!(
            text,
            "| `{}`: {} | {} | {} of {} | {} | {:.0} | {} | {} | {verdict} |",
            exhibit.name,
            exhibit.about,
            row.version.as_deref().unwrap_or("-"),
            row.reports.len(),
            row.asked,
            still.unwrap_or_else(none),
            row.seen.longest_gap_ms,
            total.unwrap_or_else(none),
            sent.unwrap_or_else(none),
        );
    }
    for (exhibit, _) in visited(false) {
        if let Some(limits) = &exhibit.limits {
            let _ = write!(text, "\n`{}`: {limits}\n", exhibit.name);
        }
    }
    if visited(true).next().is_some() {
        text.push_str("\n| What cannot be moved | Found as | Why | What helps |\n|---|---|---|---|\n");
    }
    for (exhibit, row) in visited(true) {
        let Some(blocked) = &exhibit.blocked else { continue };
        let found = if row.holds() { format!("`{}`", blocked.finding) } else { format!("**{}**", wrong(row)) };
        let _ = writeln!(text, "| {} | {found} | {} | {} |", exhibit.about, blocked.why, blocked.helps);
    }
    let _ = write!(text, "\n{}\n", checks(rows));
    text.push_str(&predictions(rows));
    text
}

/// What a move sent, as the network carried it.
fn sent(report: &serde_json::Value) -> Option<f64> {
    report["bytes_sent"].as_f64()
}

/// What was wrong, as it fits into a table.
fn wrong(row: &Row) -> String {
    let all = [&row.wrong[..], &row.refused, &row.seen.wrong].concat().join("; ");
    let all: String = all.replace(['|', '\n'], " ").chars().take(300).collect();
    if all.is_empty() { "not all moves".to_owned() } else { all }
}

fn checks(rows: &BTreeMap<String, Row>) -> String {
    let took = spread(rows.values().flat_map(|row| row.checks_ms.iter().copied()));
    let count: usize = rows.values().map(|row| row.checks_ms.len()).sum();
    let refused = rows.values().filter(|row| !row.refused.is_empty()).count();
    let planted = rows.values().filter(|row| row.blocked.is_some()).count();
    let took = took
        .map_or_else(String::new, |took| format!(", in {:.0} ms each (median; at most {:.0})", took.median, took.most));
    format!(
        "{count} checks{took}: {planted} planted obstacles were found by name, {refused} exhibits were refused that can be moved."
    )
}

fn predictions(rows: &BTreeMap<String, Row>) -> String {
    let mut text = String::new();
    for (name, what) in [("downtime_ms", "time of standing still"), ("total_ms", "whole time")] {
        if let Some(error) = spread(rows.values().flat_map(|row| row.errors(name))) {
            let count: usize = rows.values().map(|row| row.errors(name).len()).sum();
            let (median, most) = (error.median * 100.0, error.most * 100.0);
            let _ = writeln!(
                text,
                "\nThe predicted {what} was off by {median:.0} % (median of {count} moves), at worst by {most:.0} %."
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::row;
    use super::*;

    #[test]
    fn a_table_says_what_moved_and_how_good_the_predictions_were() {
        let exhibit = r#"{"name":"redis","about":"a server","image":"redis","package":"redis","command":[],"address":"10.77.0.50/16"}"#;
        let exhibit: Exhibit = serde_json::from_str(exhibit).unwrap();
        let rows = BTreeMap::from([("redis".to_owned(), row())]);
        let text = content(std::slice::from_ref(&exhibit), &rows);
        assert!(text.contains("| `redis`: a server | - | 1 of 1 | 50 (50) | 61 | 200 | 2.0 | green |"), "{text}");
        assert!(text.contains("standing still was off by 20 % (median of 1 moves)"), "{text}");
        let wrong = BTreeMap::from([("redis".to_owned(), Row { asked: 2, wrong: vec!["a|b".to_owned()], ..row() })]);
        assert!(content(&[exhibit], &wrong).contains("| **a b** |"));
    }
}
