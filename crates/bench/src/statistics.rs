//! Medians and ratios of repeated runs. Pure.

use std::collections::BTreeMap;

use crate::row::{Measures, Row};
use crate::suite::{Link, Suite, Workload};

/// A median and the extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

/// The spread of some numbers; none of none.
pub fn spread(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let (&least, &most) = (numbers.first()?, numbers.last()?);
    let middle = numbers.len() / 2;
    let median = if numbers.len() % 2 == 1 { numbers[middle] } else { (numbers[middle - 1] + numbers[middle]) / 2.0 };
    Some(Spread { median, least, most })
}

/// All valid runs of one contestant with one workload over one link.
#[derive(Debug)]
pub struct Cell<'a> {
    /// Who.
    pub contestant: &'a str,
    /// The rows that count.
    pub valid: Vec<&'a Row>,
    /// Why the others do not.
    pub invalid: Vec<&'a str>,
}

/// The cells of one workload over one link, in the order in which they were run.
#[derive(Debug)]
pub struct Block<'a> {
    /// What was moved.
    pub workload: Workload,
    /// Over what.
    pub link: Link,
    /// By whom.
    pub cells: Vec<Cell<'a>>,
}

impl Cell<'_> {
    /// The spread of something that was measured.
    pub fn spread(&self, of: impl Fn(&Measures) -> Option<f64>) -> Option<Spread> {
        spread(self.valid.iter().filter_map(|row| of(row.measures.as_ref()?)))
    }

    /// Its median.
    pub fn median(&self, of: impl Fn(&Measures) -> Option<f64>) -> Option<f64> {
        self.spread(of).map(|spread| spread.median)
    }

    /// How many rounds of copying there were, the last one while frozen not counted.
    pub fn rounds(&self) -> Option<f64> {
        let rounds = |row: &&Row| row.report.as_ref()?.get("rounds")?.as_array().map(|all| all.len() as f64 - 1.0);
        spread(self.valid.iter().filter_map(rounds).map(|rounds| rounds.max(0.0))).map(|spread| spread.median)
    }
}

impl Block<'_> {
    /// How many times as long the gap of `cell` was as that of the block's first contestant: the median of the ratios
    /// within each repetition.
    pub fn ratio(&self, cell: &Cell<'_>) -> Option<f64> {
        let gap = |row: &&Row| Some((row.repetition, row.measures.as_ref()?.gap_ms));
        let base: BTreeMap<u32, f64> = self.cells.first()?.valid.iter().filter_map(gap).collect();
        let pairs = cell.valid.iter().filter_map(gap).filter_map(|(number, ms)| Some((ms, *base.get(&number)?)));
        spread(pairs.filter(|(_, base)| *base > 0.0).map(|(ms, base)| ms / base)).map(|spread| spread.median)
    }
}

/// The rows of a suite's last session, in blocks.
pub fn blocks(rows: &[Row], suite: Suite) -> Vec<Block<'_>> {
    let Some(session) = last_session(rows, suite) else { return Vec::new() };
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for row in rows.iter().filter(|row| row.suite == suite && row.session == session) {
        let place = blocks.iter().position(|block| (block.workload, block.link) == (row.workload, row.link));
        let place = place.unwrap_or_else(|| {
            blocks.push(Block { workload: row.workload, link: row.link, cells: Vec::new() });
            blocks.len() - 1
        });
        let cells = &mut blocks[place].cells;
        let place = cells.iter().position(|cell| cell.contestant == row.contestant).unwrap_or_else(|| {
            cells.push(Cell { contestant: &row.contestant, valid: Vec::new(), invalid: Vec::new() });
            cells.len() - 1
        });
        match &row.invalid {
            None => cells[place].valid.push(row),
            Some(reason) => cells[place].invalid.push(reason),
        }
    }
    blocks
}

/// The last session in which a suite was run.
pub fn last_session(rows: &[Row], suite: Suite) -> Option<&str> {
    rows.iter().rev().find(|row| row.suite == suite).map(|row| &*row.session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(spread([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(spread([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(spread([]), None);
    }

    #[test]
    fn ratios_are_made_within_repetitions() {
        // The machine became ten times slower between the two repetitions.
        let rows = [row("a", 1, 10.0), row("b", 1, 30.0), row("a", 2, 100.0), row("b", 2, 300.0)];
        let blocks = blocks(&rows, Suite::Core);
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].ratio(&blocks[0].cells[1]), Some(3.0));
        assert_eq!(blocks[0].ratio(&blocks[0].cells[0]), Some(1.0));
    }

    #[test]
    fn what_is_invalid_or_of_an_earlier_session_does_not_count() {
        let old = Row { session: "0".into(), ..row("a", 1, 5.0) };
        let bad = Row { invalid: Some("no".into()), ..row("a", 2, 900.0) };
        let rows = [old, row("a", 1, 10.0), bad];
        let blocks = blocks(&rows, Suite::Core);
        let cell = &blocks[0].cells[0];
        assert_eq!(cell.median(|measures| Some(measures.gap_ms)), Some(10.0));
        assert_eq!((cell.valid.len(), cell.invalid.as_slice()), (1, &["no"][..]));
    }
}
