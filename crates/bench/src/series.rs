//! The series of a client's answers, and what it says about a window of time. Pure.

use crate::row::Latency;

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// When it came: nanoseconds since 1970.
    pub at_ns: u64,
    /// How long it took in microseconds.
    pub took_us: u64,
}

/// A time without answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The answer before it.
    pub from_ns: u64,
    /// The answer after it.
    pub to_ns: u64,
}

impl Gap {
    /// Its length in milliseconds.
    pub fn ms(self) -> f64 {
        (self.to_ns - self.from_ns) as f64 / 1e6
    }
}

/// Parses the checker's series file; a line that is not whole is left out.
pub fn parse(text: &str) -> Vec<Answer> {
    let line = |line: &str| {
        let (at, took) = line.split_once(' ')?;
        Some(Answer { at_ns: at.parse().ok()?, took_us: took.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// The longest gap that ends after `from_ns` and begins before `to_ns`.
pub fn longest_gap(series: &[Answer], from_ns: u64, to_ns: u64) -> Option<Gap> {
    let gaps = series.windows(2).map(|pair| Gap { from_ns: pair[0].at_ns, to_ns: pair[1].at_ns });
    let within = gaps.filter(|gap| gap.to_ns > from_ns && gap.from_ns < to_ns && gap.to_ns >= gap.from_ns);
    within.max_by_key(|gap| gap.to_ns - gap.from_ns)
}

/// Fewer answers than this have no quantiles.
const FEWEST: usize = 10;

/// The latency of the answers that came in a window; none when there are hardly any.
pub fn latency(series: &[Answer], from_ns: u64, to_ns: u64) -> Option<Latency> {
    let within = series.iter().filter(|answer| (from_ns..=to_ns).contains(&answer.at_ns));
    let mut took: Vec<u64> = within.map(|answer| answer.took_us).collect();
    if took.len() < FEWEST {
        return None;
    }
    took.sort_unstable();
    let quantile = |part: f64| took[((took.len() as f64 * part).ceil() as usize).clamp(1, took.len()) - 1];
    let &max_us = took.last()?;
    Some(Latency { answers: took.len() as u64, p50_us: quantile(0.5), p99_us: quantile(0.99), max_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(answers: &[(u64, u64)]) -> Vec<Answer> {
        answers.iter().map(|&(ms, took_us)| Answer { at_ns: ms * 1_000_000, took_us }).collect()
    }

    #[test]
    fn a_series_is_read_up_to_its_last_whole_line() {
        assert_eq!(parse("1000000 5\n2000000 7\n30"), series(&[(1, 5), (2, 7)]));
    }

    #[test]
    fn the_longest_gap_of_a_window_counts_when_it_overlaps() {
        let series = series(&[(0, 1), (50, 1), (60, 1), (90, 1), (91, 1)]);
        assert_eq!(longest_gap(&series, 0, 100_000_000).unwrap().ms(), 50.0);
        assert_eq!(longest_gap(&series, 55_000_000, 70_000_000).unwrap().ms(), 30.0);
        assert_eq!(longest_gap(&series, 95_000_000, 99_000_000), None);
    }

    #[test]
    fn quantiles_are_of_answers_within_the_window() {
        let all: Vec<(u64, u64)> = (1..=100).map(|number| (number, number)).chain([(500, 9_999)]).collect();
        let found = latency(&series(&all), 0, 100_000_000).unwrap();
        assert_eq!(found, Latency { answers: 100, p50_us: 50, p99_us: 99, max_us: 100 });
        assert_eq!(latency(&series(&all), 600_000_000, 700_000_000), None);
    }
}
