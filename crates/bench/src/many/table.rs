//! The tables of many moves. Pure.

use std::collections::BTreeMap;

use super::Options;
use super::case::{Drain, Move};

/// What stands between the markers of the document.
pub fn content(options: &Options, drains: &[Drain]) -> String {
    let mut limits: BTreeMap<u32, Vec<&Drain>> = BTreeMap::new();
    drains.iter().for_each(|drain| limits.entry(drain.limit).or_default().push(drain));
    let command = format!(
        "drover-bench many --containers {} --limits {} --repeat {} --every-ms {}",
        options.containers,
        options.limits.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        options.repeat,
        options.every_ms
    );
    let mut text = format!("Made by `{command}`, {}.\n\n", crate::machine::summary());
    text.push_str("| Moves at a time | Moves a minute | Downtime: min, median, p90, max (ms) | Client's gap: min, median, p90, max (ms) |\n|--:|--:|--:|--:|\n");
    for (limit, drains) in &limits {
        let moves: Vec<&Move> = drains.iter().flat_map(|drain| &drain.moves).collect();
        let seconds: f64 = drains.iter().map(|drain| drain.seconds).sum();
        let rate = moves.len() as f64 / seconds * 60.0;
        let downtime = distribution(moves.iter().map(|one| one.downtime_ms).collect());
        let gap = distribution(moves.iter().map(|one| one.gap_ms).collect());
        text.push_str(&format!("| {limit} | {rate:.0} | {downtime} | {gap} |\n"));
    }
    if let Some(drain) = drains.iter().rfind(|drain| drain.limit == options.shown) {
        text.push_str(&format!(
            "\nThe last drain with {} at a time, container by container: {} moves in {:.1} s.\n\n",
            drain.limit,
            drain.moves.len(),
            drain.seconds
        ));
        text.push_str("| Container | Downtime (ms) | Client's gap (ms) | Whole move (ms) |\n|---|--:|--:|--:|\n");
        for Move { container, downtime_ms, gap_ms, total_ms } in &drain.moves {
            text.push_str(&format!("| {container} | {downtime_ms:.0} | {gap_ms:.0} | {total_ms:.0} |\n"));
        }
    }
    text
}

/// The least, the median, nine tenths and the most.
fn distribution(mut numbers: Vec<f64>) -> String {
    numbers.sort_by(f64::total_cmp);
    let Some(last) = numbers.len().checked_sub(1) else { return "-".to_owned() };
    let at = |share: f64| numbers[(last as f64 * share).round() as usize];
    [0.0, 0.5, 0.9, 1.0].map(|share| format!("{:.0}", at(share))).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_its_ends_its_middle_and_nine_tenths() {
        assert_eq!(distribution((0..=100).rev().map(f64::from).collect()), "0, 50, 90, 100");
        assert_eq!(distribution(vec![7.0]), "7, 7, 7, 7");
        assert_eq!(distribution(Vec::new()), "-");
    }
}
