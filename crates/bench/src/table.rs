//! Results as Markdown. Pure.

use std::fmt::Write;

use crate::row::{Measures, Session};
use crate::statistics::{Block, Cell, Spread};

/// The phases in their order.
const PHASES: [&str; 8] = ["prepare", "copy", "freeze", "checkpoint", "transfer", "restore", "commit", "settle"];
const MIB: f64 = (1 << 20) as f64;

/// The tables of a suite: what users notice, what it costs, and where the time went.
pub fn tables(blocks: &[Block<'_>]) -> String {
    let (mut seen, mut cost, mut phases) = (String::new(), String::new(), String::new());
    for block in blocks {
        let first = block.cells.first().map_or("", |cell| cell.contestant);
        let title = format!("**{}, {}**\n\n", block.workload.title(), block.link.title());
        seen.push_str(&title);
        let head = format!(
            "| | n | longest gap, ms | × {first} | downtime, ms | total, s | pages in place, s | p50, ms | p99, ms | \
             p99 while pages come, ms |\n|---|---|---|---|---|---|---|---|---|---|\n"
        );
        seen.push_str(&head);
        let head = "| | MiB sent | CPU source, s | CPU target, s | memory source, MiB | memory target, MiB | pages \
                    dirtied per s | rounds |\n|---|---|---|---|---|---|---|---|\n";
        cost.push_str(&title);
        cost.push_str(head);
        phases.push_str(&title);
        let _ = writeln!(phases, "| | {} |\n|---|{}", PHASES.join(" | "), "---|".repeat(PHASES.len()));
        for cell in &block.cells {
            seen.push_str(&seen_line(block, cell));
            cost.push_str(&cost_line(cell));
            phases.push_str(&phases_line(cell));
        }
        for text in [&mut seen, &mut cost, &mut phases] {
            text.push('\n');
        }
    }
    let cost = fold("What it costs", &cost);
    let phases = fold("Milliseconds in each phase", &phases);
    format!("{seen}{cost}{phases}{}", invalid(blocks))
}

/// A part that the reader opens.
fn fold(title: &str, text: &str) -> String {
    format!("<details><summary>{title}</summary>\n\n{text}</details>\n\n")
}

fn seen_line(block: &Block<'_>, cell: &Cell<'_>) -> String {
    let median = |of: fn(&Measures) -> f64| cell.median(|measures| Some(of(measures)));
    let columns = [
        cell.contestant.to_owned(),
        cell.valid.len().to_string(),
        cell.spread(|measures| Some(measures.gap_ms)).map_or("–".into(), with_extremes),
        block.ratio(cell).map_or("–".into(), |ratio| digits(ratio, 1)),
        number(median(|measures| measures.downtime_ms), 0),
        number(median(|measures| measures.total_ms / 1e3), 2),
        number(median(|measures| measures.filled_ms / 1e3), 2),
        number(median(|measures| measures.latency.p50_us as f64 / 1e3), 2),
        number(median(|measures| measures.latency.p99_us as f64 / 1e3), 1),
        number(cell.median(|measures| Some(measures.fill_latency?.p99_us as f64 / 1e3)), 1),
    ];
    line(&columns)
}

fn cost_line(cell: &Cell<'_>) -> String {
    let median = |of: fn(&Measures) -> f64| cell.median(|measures| Some(of(measures)));
    let columns = [
        cell.contestant.to_owned(),
        number(median(|measures| measures.bytes as f64 / MIB), 0),
        number(median(|measures| measures.source.cpu_s), 2),
        number(median(|measures| measures.target.cpu_s), 2),
        number(median(|measures| measures.source.memory_bytes as f64 / MIB), 0),
        number(median(|measures| measures.target.memory_bytes as f64 / MIB), 0),
        number(cell.median(|measures| measures.dirty_pages_per_s), 0),
        number(cell.rounds(), 0),
    ];
    line(&columns)
}

fn phases_line(cell: &Cell<'_>) -> String {
    let phase = |name: &&str| number(cell.median(|measures| measures.phases.get(*name).copied()), 0);
    let columns: Vec<String> = std::iter::once(cell.contestant.to_owned()).chain(PHASES.iter().map(phase)).collect();
    line(&columns)
}

/// One line of a table.
pub fn line(columns: &[String]) -> String {
    format!("| {} |\n", columns.join(" | "))
}

fn with_extremes(spread: Spread) -> String {
    format!("**{}** ({}–{})", digits(spread.median, 0), digits(spread.least, 0), digits(spread.most, 0))
}

/// A number with so many decimals; a dash for none.
pub fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("–".into(), |value| digits(value, decimals))
}

/// A number with so many decimals, its thousands set apart.
fn digits(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) =
        text.split_once('.').map_or((&*text, String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let groups: Vec<&str> = whole.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    format!("{}{rest}", groups.join(","))
}

/// The runs that do not count, and why.
fn invalid(blocks: &[Block<'_>]) -> String {
    let mut text = String::new();
    for block in blocks {
        for cell in block.cells.iter().filter(|cell| !cell.invalid.is_empty()) {
            let (title, count) = (block.workload.title(), cell.invalid.len());
            let reason = cell.invalid[0].replace('|', "/");
            let _ = writeln!(
                text,
                "- {}, {title}, {}: {count} did not count: {reason}",
                cell.contestant,
                block.link.title()
            );
        }
    }
    if text.is_empty() { text } else { format!("{text}\n") }
}

/// One paragraph about what a session ran on.
pub fn machine(session: &Session) -> String {
    let machine = &session.machine;
    let versions: Vec<String> = session.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "{} cores of {}, {} MiB of memory, {}, kernel {}; {}.\n",
        machine.cores,
        machine.processor,
        digits(machine.memory_mib as f64, 0),
        machine.system,
        machine.kernel,
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Row;
    use crate::row::tests::row;
    use crate::statistics::blocks;
    use crate::suite::Suite;

    #[test]
    fn a_table_has_medians_extremes_ratios_and_what_did_not_count() {
        let bad = Row { invalid: Some("the connection | did not survive".into()), ..row("runc", 2, 1.0) };
        let rows = [row("drover", 1, 100.0), row("runc", 1, 5400.0), row("drover", 2, 140.0), bad];
        let text = tables(&blocks(&rows, Suite::Core));
        assert!(text.contains("**64 MiB, unshaped**"), "{text}");
        assert!(text.contains("| drover | 2 | **120** (100–140) | 1.0 |"), "{text}");
        assert!(text.contains("| runc | 1 | **5,400** (5,400–5,400) | 54.0 |"), "{text}");
        assert!(text.contains("- runc, 64 MiB, unshaped: 1 did not count: the connection / did not survive"), "{text}");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(digits(1_234_567.0, 0), "1,234,567");
        assert_eq!(digits(0.126, 2), "0.13");
        assert_eq!(digits(999.96, 1), "1,000.0");
    }
}
