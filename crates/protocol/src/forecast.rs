//! What a move would take: the decisions that it would make ([`Course`]), played through with what is known of the container and
//! of the link. Pure.
//!
//! A round takes as long as its pages and files take at the expected rate. What is written meanwhile is read off a curve of pages
//! over time: programs write to the same pages again, so that the curve bends, and a rate alone would promise rounds that do
//! not come.

use std::time::Duration;

use drover_model::{Bytes, PageCount, Round, Settings, Written};

use crate::convergence::{Course, Decision};

/// No move makes more decisions: the most rounds, and the steps by which a container is slowed.
const MOST_DECISIONS: usize = 1_000;
/// What a round takes when there is nothing to be sent: processes are begun to be followed, and looked at. Measured on two cores.
const EMPTY_ROUND_MS: f64 = 10.0;

/// How many pages a container writes to in a time, each counted once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Writes(Vec<Written>);

impl Writes {
    /// From what was seen, in any order. In a longer time no less is written than in a shorter one.
    #[must_use]
    pub fn of(seen: impl IntoIterator<Item = Written>) -> Self {
        let mut points: Vec<Written> = seen.into_iter().filter(|point| point.ms > 0.0).collect();
        points.sort_by(|a, b| a.ms.total_cmp(&b.ms));
        let mut most = 0;
        for point in &mut points {
            most = most.max(point.pages.0);
            point.pages = PageCount(most);
        }
        Self(points)
    }

    /// The pages written after `ms` milliseconds: between what was seen as a straight line, beyond it as steep as at its end.
    #[must_use]
    pub fn after(&self, ms: f64) -> PageCount {
        let mut before = Written { ms: 0.0, pages: PageCount(0) };
        let mut slope = 0.0;
        for point in &self.0 {
            if point.ms > before.ms {
                slope = (point.pages.0 - before.pages.0) as f64 / (point.ms - before.ms);
            }
            if ms <= point.ms {
                break;
            }
            before = *point;
        }
        PageCount(before.pages.0.saturating_add((slope * (ms - before.ms)).max(0.0) as u64))
    }
}

/// What is known before a move.
#[derive(Debug, Clone, Copy)]
pub struct Prospect<'a> {
    /// What the user wishes.
    pub settings: &'a Settings,
    /// What its processes hold.
    pub memory: PageCount,
    /// The bytes of files that the target lacks.
    pub files: Bytes,
    /// What it writes.
    pub writes: &'a Writes,
    /// Pages that cross in a millisecond.
    pub rate: f64,
    /// What a pause takes when nothing is left to be sent.
    pub fixed: Duration,
    /// What a move takes beside its rounds and its pause.
    pub beside: Duration,
    /// Why memory does not cross in rounds, if it does not.
    pub without_memory: Option<&'a str>,
}

/// What is expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The rounds while it runs.
    pub rounds: Vec<Round>,
    /// The last decision.
    pub end: Decision,
    /// The pause.
    pub downtime: Duration,
    /// The whole.
    pub total: Duration,
    /// All that has to be brought across.
    pub bytes: Bytes,
}

impl Prospect<'_> {
    /// Plays the move through.
    #[must_use]
    pub fn foresee(&self) -> Forecast {
        let mut rounds: Vec<Round> = Vec::new();
        let mut slowed = Vec::new();
        let mut share = 1.0;
        for _ in 0..MOST_DECISIONS {
            let Self { settings, fixed, without_memory, .. } = *self;
            match (Course { settings, fixed, rounds: &rounds, slowed: &slowed, without_memory }).decide() {
                Decision::Round => rounds.push(self.round(rounds.last(), share)),
                Decision::Slow(percent) => {
                    slowed.push(rounds.len());
                    share = f64::from(percent) / 100.0;
                }
                end => return self.conclude(rounds, end),
            }
        }
        let end = Decision::GiveUp("no end of its rounds can be foreseen".to_owned());
        self.conclude(rounds, end)
    }

    /// What is to be sent after these rounds.
    fn left(&self, last: Option<&Round>) -> (PageCount, Bytes) {
        last.map_or((self.memory, self.files), |last| (last.dirty_after, last.files_after))
    }

    fn round(&self, last: Option<&Round>, share: f64) -> Round {
        let (memory, files) = self.left(last);
        let pages = if self.without_memory.is_some() { PageCount(0) } else { memory };
        let round = Round {
            pages,
            files,
            bytes: Bytes(pages.0.saturating_mul(PageCount::PAGE).saturating_add(files.0)),
            ..Round::default()
        };
        let ms = self.crossing_ms(round.load()) + EMPTY_ROUND_MS;
        let dirty_after = match self.without_memory {
            Some(_) => PageCount(0),
            None => self.writes.after(ms * share).min(self.memory),
        };
        Round { ms, dirty_after, ..round }
    }

    fn crossing_ms(&self, pages: PageCount) -> f64 {
        pages.0 as f64 / self.rate.max(f64::MIN_POSITIVE)
    }

    fn conclude(&self, rounds: Vec<Round>, end: Decision) -> Forecast {
        let (memory, files) = self.left(rounds.last());
        let all = |pages: PageCount, files| Round { pages, files, ..Round::default() }.load();
        // Memory that does not cross in rounds is still all there.
        let memory = if self.without_memory.is_some() { self.memory } else { memory };
        let (frozen, later) = match &end {
            Decision::Stay | Decision::GiveUp(_) => (PageCount(0), PageCount(0)),
            Decision::PostCopy(_) => (all(PageCount(0), files), memory),
            _ => (all(memory, files), PageCount(0)),
        };
        let moves = !matches!(end, Decision::Stay | Decision::GiveUp(_));
        let milliseconds = |ms: f64| Duration::from_secs_f64((ms / 1e3).clamp(0.0, 1e9));
        let downtime = if moves { self.fixed + milliseconds(self.crossing_ms(frozen)) } else { Duration::ZERO };
        let running = rounds.iter().map(|round| round.ms).sum::<f64>() + self.crossing_ms(later);
        let total = self.beside + downtime + milliseconds(running);
        let sent = rounds.iter().map(|round| round.load().0).sum::<u64>() + frozen.0 + later.0;
        Forecast { rounds, end, downtime, total, bytes: Bytes(sent.saturating_mul(PageCount::PAGE)) }
    }
}

#[cfg(test)]
mod tests {
    use drover_model::Mode;

    use super::*;

    fn written(points: &[(f64, u64)]) -> Writes {
        Writes::of(points.iter().map(|(ms, pages)| Written { ms: *ms, pages: PageCount(*pages) }))
    }

    fn foresee(settings: &Settings, writes: &Writes, without_memory: Option<&str>) -> Forecast {
        let ms = Duration::from_millis;
        let (memory, files) = (PageCount(100_000), Bytes(0));
        Prospect { settings, memory, files, writes, rate: 100.0, fixed: ms(80), beside: ms(150), without_memory }
            .foresee()
    }

    #[test]
    fn what_is_written_is_read_between_and_beyond_what_was_seen() {
        let writes = written(&[(100.0, 1_000), (300.0, 1_400), (50.0, 800)]);
        let expected = [(0.0, 0), (25.0, 400), (50.0, 800), (75.0, 900), (200.0, 1_200), (400.0, 1_600)];
        for (ms, pages) in expected {
            assert_eq!(writes.after(ms), PageCount(pages), "{ms} ms");
        }
        // Less was seen in the longer time: chance.
        assert_eq!(written(&[(50.0, 800), (100.0, 700)]).after(1e9), PageCount(800));
        assert_eq!(written(&[]).after(1e9), PageCount(0));
    }

    #[test]
    fn an_idle_container_takes_one_round_and_the_fixed_part() {
        let forecast = foresee(&Settings::default(), &written(&[(300.0, 0)]), None);
        assert_eq!(forecast.rounds.len(), 1);
        assert_eq!(forecast.downtime, Duration::from_millis(80));
        assert_eq!(forecast.total, Duration::from_millis(80 + 150 + 1_010));
        assert_eq!(forecast.bytes, Bytes(100_000 * PageCount::PAGE));
    }

    #[test]
    fn a_busy_one_takes_as_many_rounds_as_shrink() {
        // 30 pages in a millisecond, of 100 that cross: 30,000, 9,000, 2,700 pages are left, and so on.
        let forecast = foresee(&Settings::default(), &written(&[(300.0, 9_000)]), None);
        assert!(matches!(forecast.end, Decision::Freeze(_)));
        assert!((3..=4).contains(&forecast.rounds.len()), "{:?}", forecast.rounds);
        let left = forecast.rounds.last().unwrap().dirty_after.0 as f64 / 100.0;
        assert_eq!(forecast.downtime.as_millis(), 80 + left as u128);
    }

    #[test]
    fn all_of_it_crosses_while_frozen_where_nothing_can_be_followed_or_that_is_wished() {
        let settings = Settings { mode: Mode::StopAndCopy, ..Settings::default() };
        assert_eq!(foresee(&settings, &written(&[]), None).downtime, Duration::from_millis(1_080));
        let forecast = foresee(&Settings::default(), &written(&[]), Some("a reason"));
        assert_eq!(forecast.downtime, Duration::from_millis(1_080));
        let settings = Settings { mode: Mode::PostCopy, ..Settings::default() };
        let forecast = foresee(&settings, &written(&[]), None);
        assert_eq!(forecast.downtime, Duration::from_millis(80));
        assert!(forecast.total > Duration::from_millis(1_200), "{forecast:?}");
    }

    #[test]
    fn one_that_writes_faster_than_the_link_is_given_up_where_that_is_wished() {
        let settings = Settings { mode: Mode::PreCopy, ..Settings::default() };
        let forecast = foresee(&settings, &written(&[(10.0, 10_000), (20.0, 20_000)]), None);
        assert!(matches!(forecast.end, Decision::GiveUp(_)), "{:?}", forecast.end);
        assert_eq!(forecast.downtime, Duration::ZERO);
        let settings = Settings::default();
        let forecast = foresee(&settings, &written(&[(10.0, 10_000), (20.0, 20_000)]), None);
        assert!(forecast.downtime > Duration::from_millis(900), "{forecast:?}");
    }
}
