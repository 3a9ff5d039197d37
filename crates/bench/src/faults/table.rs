//! The table of faults. Pure.

use super::cell::Row;

/// How many things that are left over are named.
const SHOWN: usize = 4;

/// What is counted of all cells.
pub fn summary(rows: &[Row]) -> String {
    let count = |what: fn(&Row) -> bool| rows.iter().filter(|row| what(row)).count();
    let (lost, doubled) = (count(|row| row.lost), count(|row| row.doubled));
    let (left, wrong) = (count(|row| !row.leftovers.is_empty()), count(|row| !row.holds()));
    format!("{} cells, lost {lost}, doubled {doubled}, leftovers {left}, promises broken {wrong}", rows.len())
}

/// What stands between the markers of the document.
pub fn content(rows: &[Row], machine: &str) -> String {
    let mut text = format!("Made by `drover-bench faults`, {machine}.\n\n**{}.**\n\n", summary(rows));
    text.push_str("| Fault | Phase | Came in | Outcome | Runs on | Client's gap (ms) | Data | Left over |\n");
    text.push_str("|---|---|---|---|---|--:|---|---|\n");
    for row in rows {
        let came = match &row.came {
            None => "nothing to hit",
            Some(came) if came == row.phase => "✓",
            Some(came) => came,
        };
        let gap = row.gap_ms.map_or_else(|| "connection lost".to_owned(), |gap| format!("{gap:.0}"));
        let left = if row.leftovers.is_empty() { "none".to_owned() } else { escaped(&leftovers(row)) };
        let node = row.node.as_deref().unwrap_or("none");
        let data = match &row.wrong[..] {
            [] => row.data.to_owned(),
            wrong => format!("**{}**: {}", row.data, escaped(&wrong.join("; "))),
        };
        text.push_str(&format!(
            "| {} | {} | {came} | {} | {node} | {gap} | {data} | {left} |\n",
            row.fault, row.phase, row.outcome
        ));
    }
    text
}

/// The first of what is left over, and how much more there is.
pub fn leftovers(row: &Row) -> String {
    let mut text = row.leftovers.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if let more @ 1.. = row.leftovers.len().saturating_sub(SHOWN) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// A text that does not end a column.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            phase: "freeze",
            fault: "source-agent",
            came: Some("freeze".to_owned()),
            outcome: "rolled back".to_owned(),
            node: Some("n1".to_owned()),
            gap_ms: Some(1234.4),
            data: "intact",
            leftovers: Vec::new(),
            doubled: false,
            lost: false,
            wrong: Vec::new(),
            seconds: 3.0,
        }
    }

    #[test]
    fn a_row_tells_what_came_of_its_cell() {
        let text = content(&[row()], "on a machine");
        assert!(text.contains("**1 cells, lost 0, doubled 0, leftovers 0, promises broken 0.**"), "{text}");
        assert!(text.ends_with("| source-agent | freeze | ✓ | rolled back | n1 | 1234 | intact | none |\n"), "{text}");
    }

    #[test]
    fn what_is_left_over_lost_or_doubled_is_counted() {
        let left = Row { leftovers: vec!["n1: mount /x|y".to_owned()], ..row() };
        let lost = Row { lost: true, wrong: vec!["silence".to_owned()], node: None, gap_ms: None, ..row() };
        let doubled = Row { doubled: true, ..row() };
        let rows = [row(), left, lost, doubled];
        assert_eq!(summary(&rows), "4 cells, lost 1, doubled 1, leftovers 1, promises broken 3");
        let text = content(&rows, "on a machine");
        assert!(text.contains("n1: mount /x\\|y") && text.contains("**intact**: silence"), "{text}");
        assert!(text.contains("connection lost"), "{text}");
    }
}
