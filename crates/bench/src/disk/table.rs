//! The tables of this suite as Markdown. Pure.

use std::fmt::Write;

use super::{Case, Row};
use crate::statistics::spread;
use crate::suite::Link;
use crate::table::{line, number};

/// The last session in which the suite was run.
pub fn last_session(rows: &[Row]) -> Option<&str> {
    rows.last().map(|row| &*row.session)
}

/// A table for each case and link, in which each cell is a median of the last session in which the case was run; then what
/// did not count.
pub fn tables(rows: &[Row]) -> String {
    let is_last = |row: &&Row| {
        let last = rows.iter().rev().find(|other| other.case == row.case);
        last.is_some_and(|last| last.session == row.session)
    };
    let rows: Vec<&Row> = rows.iter().filter(is_last).collect();
    let mut text = String::new();
    for case in Case::ALL {
        let of_case: Vec<&Row> = rows.iter().copied().filter(|row| row.case == case).collect();
        for link in unique(of_case.iter().map(|row| row.link)) {
            let of_link: Vec<&Row> = of_case.iter().copied().filter(|row| row.link == link).collect();
            table(&mut text, case, link, &of_link);
        }
    }
    for row in rows {
        if let Some(why) = &row.invalid {
            let (case, link, why) = (row.case.title(), row.link.title(), why.replace('|', "/"));
            let _ = writeln!(text, "- {case}, {link}, {}: one did not count: {why}", row.contestant);
        }
    }
    text
}

fn table(text: &mut String, case: Case, link: Link, rows: &[&Row]) {
    // What nobody has measured is no column.
    let measured = |name: &str| rows.iter().any(|row| row.measures.contains_key(name));
    let columns: Vec<_> = case.columns().iter().filter(|column| measured(column.measure)).collect();
    let titles: Vec<String> =
        ["", "n"].into_iter().chain(columns.iter().map(|column| column.title)).map(Into::into).collect();
    let _ = writeln!(text, "**{}, {}**\n", case.title(), link.title());
    text.push_str(&line(&titles));
    let _ = writeln!(text, "|{}", "---|".repeat(titles.len()));
    for contestant in unique(rows.iter().map(|row| &row.contestant)) {
        let valid: Vec<&Row> =
            rows.iter().copied().filter(|row| row.contestant == *contestant && row.invalid.is_none()).collect();
        let median = |measure: &str| spread(valid.iter().filter_map(|row| row.measures.get(measure).copied()));
        let cells = columns
            .iter()
            .map(|column| number(median(column.measure).map(|spread| spread.median / column.unit), column.decimals));
        let cells: Vec<String> = [contestant.clone(), valid.len().to_string()].into_iter().chain(cells).collect();
        text.push_str(&line(&cells));
    }
    text.push('\n');
}

/// Each of them once, in the order in which they come.
fn unique<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.fold(Vec::new(), |mut found, one| {
        if !found.contains(&one) {
            found.push(one);
        }
        found
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn row(contestant: &str, repetition: u32, sent_bytes: f64) -> Row {
        Row {
            session: "2".into(),
            began_ms: 0,
            case: Case::Blocks,
            link: Link::Gigabit,
            contestant: contestant.into(),
            repetition,
            invalid: None,
            measures: BTreeMap::from([("sent_bytes".to_owned(), sent_bytes)]),
            reports: Vec::new(),
        }
    }

    #[test]
    fn a_table_has_the_medians_of_the_last_session_and_what_did_not_count() {
        let old = Row { session: "1".into(), ..row("drover", 1, 1.0) };
        let bad = Row { invalid: Some("a | b".into()), ..row("rsync", 1, 5.0) };
        let rows = [old, row("drover", 1, 3.0 * 1_048_576.0), row("drover", 2, 5.0 * 1_048_576.0), bad];
        let text = tables(&rows);
        assert_eq!(last_session(&rows), Some("2"));
        assert!(
            text.contains("|  | n | MiB sent |\n|---|---|---|\n| drover | 2 | 4.0 |\n| rsync | 0 | – |\n"),
            "{text}"
        );
        assert!(text.contains("1 Gbit/s, rsync: one did not count: a / b"), "{text}");
    }
}
