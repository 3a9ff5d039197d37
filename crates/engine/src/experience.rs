//! What moves and plans have taught this node, for what it expects of the next ones.

use std::collections::HashMap;
use std::time::Duration;

use drover_model::{
    Bandwidth, Bytes, ContainerId, ExpectedRate, NodeName, PageCount, RateSource, Round, Settings, Written,
};
use drover_protocol::{FixedPart, Forecast, Prospect, Writes};

/// Of how many containers something is remembered.
const REMEMBERED: usize = 200;
/// How fast pages cross where nothing is known, in bytes per second: a link of a gigabit.
const ASSUMED_RATE: f64 = 110e6;
/// What reading, comparing and packing pages lets through on a link that is faster, in bytes per second. Measured on two cores.
pub(crate) const PIPELINE: f64 = 600e6;
/// What a move takes beside its rounds and its pause where nothing is known yet. Measured on two cores.
const BESIDE: Duration = Duration::from_millis(150);
/// Rounds of fewer pages than this, 16 MiB, tell of what each round takes rather than of the link.
const MEASURES: u64 = 4_096;

/// What is known of one container.
#[derive(Debug, Clone, Default)]
struct Known {
    /// What its pauses took beside what was sent, for decisions: cautious to begin with.
    fixed: FixedPart,
    /// The same as it was seen, for predictions.
    pauses: Latest,
    /// What its moves took beside rounds and pause.
    beside: Latest,
    seen: Option<Seen>,
}

/// The last times that something took.
#[derive(Debug, Clone, Default)]
struct Latest(Vec<Duration>);

impl Latest {
    /// How many say what the next one will be.
    const KEPT: usize = 3;

    fn add(&mut self, time: Duration) {
        if self.0.len() >= Self::KEPT {
            self.0.remove(0);
        }
        self.0.push(time);
    }

    /// The median; of two the longer one.
    fn expected(&self) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// What was seen of a container when it was last looked at: by a plan, or in the rounds of a move.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// What it had to send in a first round.
    pub memory: PageCount,
    /// The same of its files, in bytes.
    pub files: Bytes,
    /// What it wrote.
    pub written: Vec<Written>,
    /// Why its memory does not cross in rounds, if it does not.
    pub without_memory: Option<String>,
}

/// A move that has come to its end, to learn from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lesson<'a> {
    pub container: &'a ContainerId,
    pub peer: &'a NodeName,
    /// The rounds while it ran.
    pub rounds: &'a [Round],
    /// What crossed while it was frozen, in pages.
    pub last: PageCount,
    pub pause: Duration,
    pub total: Duration,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Experience {
    containers: HashMap<ContainerId, Known>,
    /// Bytes per second to each peer.
    rates: HashMap<NodeName, ExpectedRate>,
    /// What pauses took here, of whatever container, and moves beside them: for one that has not been moved yet.
    pauses: Latest,
    beside: Latest,
}

impl Experience {
    /// What a pause of a container takes when nothing is left to be sent, by its own pauses alone.
    pub fn fixed_part(&self, container: &ContainerId) -> FixedPart {
        self.containers.get(container).map(|known| known.fixed).unwrap_or_default()
    }

    /// Learns from a move.
    pub fn learn(&mut self, lesson: Lesson<'_>) {
        let Lesson { container, peer, rounds, last, pause, total } = lesson;
        if let Some(rate) = rate_of(rounds) {
            self.rates.insert(peer.clone(), ExpectedRate { bytes_per_second: rate, source: RateSource::Moves });
        }
        let running: f64 = rounds.iter().map(|round| round.ms / 1e3).sum();
        let beside = total.saturating_sub(pause).saturating_sub(Duration::from_secs_f64(running.max(0.0)));
        // What nobody follows crosses in every pause of it again: only what a forecast knows of is taken off.
        let left = rounds.last().map(Round::load_after).unwrap_or_default();
        let part = FixedPart::seen_in(rounds, left, pause);
        part.into_iter().for_each(|part| self.pauses.add(part));
        self.beside.add(beside);
        let known = self.known(container);
        known.fixed.learn(rounds, last, pause);
        part.into_iter().for_each(|part| known.pauses.add(part));
        known.beside.add(beside);
        if let Some(first) = rounds.first().filter(|first| first.pages.0 > 0) {
            let point = |round: &Round| Written { ms: round.ms, pages: round.dirty_after };
            let (memory, files) = (first.pages, first.files);
            known.seen =
                Some(Seen { memory, files, written: rounds.iter().map(point).collect(), without_memory: None });
        }
    }

    /// Remembers what a plan has seen.
    pub fn note(&mut self, container: &ContainerId, seen: Seen) {
        self.known(container).seen = Some(seen);
    }

    /// Remembers a rate that was measured; what moves have taught is worth more.
    pub fn note_rate(&mut self, peer: &NodeName, bytes_per_second: f64) {
        let rate = ExpectedRate { bytes_per_second: bytes_per_second.min(PIPELINE), source: RateSource::Measured };
        let known = self.rates.get(peer).is_some_and(|known| known.source == RateSource::Moves);
        if !known {
            self.rates.insert(peer.clone(), rate);
        }
    }

    /// How fast a container would cross to a peer.
    pub fn rate(&self, peer: &NodeName, bound: Option<Bandwidth>) -> ExpectedRate {
        let assumed = ExpectedRate { bytes_per_second: ASSUMED_RATE, source: RateSource::Assumed };
        let rate = self.rates.get(peer).copied().unwrap_or(assumed);
        let bound = bound.map_or(f64::INFINITY, |bound| bound.0 as f64 / 8.0);
        ExpectedRate { bytes_per_second: rate.bytes_per_second.min(bound), ..rate }
    }

    /// What is expected of a move, if the container has been looked at.
    pub fn foresee(&self, container: &ContainerId, peer: &NodeName, settings: &Settings) -> Option<(Forecast, &Seen)> {
        let known = self.containers.get(container)?;
        let seen = known.seen.as_ref()?;
        let rate = self.rate(peer, settings.bandwidth).bytes_per_second / 1e3 / PageCount::PAGE as f64;
        let prospect = Prospect {
            settings,
            memory: seen.memory,
            files: seen.files,
            writes: &Writes::of(seen.written.iter().copied()),
            rate,
            fixed: known.pauses.expected().or(self.pauses.expected()).unwrap_or(FixedPart::default().expected()),
            beside: known.beside.expected().or(self.beside.expected()).unwrap_or(BESIDE),
            without_memory: seen.without_memory.as_deref(),
        };
        Some((prospect.foresee(), seen))
    }

    fn known(&mut self, container: &ContainerId) -> &mut Known {
        // Most of them are gone for good; those that are not are learnt anew.
        if self.containers.len() >= REMEMBERED && !self.containers.contains_key(container) {
            self.containers.clear();
        }
        self.containers.entry(container.clone()).or_default()
    }
}

/// Bytes per second in rounds, if any was large enough to tell.
fn rate_of(rounds: &[Round]) -> Option<f64> {
    let measuring = rounds.iter().filter(|round| round.load().0 >= MEASURES && round.ms > 0.0);
    let (pages, ms) = measuring.fold((0, 0.0), |sum, round| (sum.0 + round.load().0, sum.1 + round.ms));
    (pages > 0).then(|| pages as f64 * PageCount::PAGE as f64 / ms * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(pages: u64, ms: f64, left: u64) -> Round {
        Round { pages: PageCount(pages), ms, dirty_after: PageCount(left), ..Round::default() }
    }

    fn lesson<'a>(container: &'a ContainerId, peer: &'a NodeName, rounds: &'a [Round]) -> Lesson<'a> {
        let ms = Duration::from_millis;
        Lesson { container, peer, rounds, last: PageCount(0), pause: ms(70), total: ms(400) }
    }

    #[test]
    fn nothing_is_expected_of_a_container_that_nobody_has_looked_at() {
        let (id, peer) = ("0a".repeat(16).parse().unwrap(), "n2".parse().unwrap());
        let mut experience = Experience::default();
        assert!(experience.foresee(&id, &peer, &Settings::default()).is_none());
        let seen = Seen { memory: PageCount(1_000), files: Bytes(0), written: Vec::new(), without_memory: None };
        experience.note(&id, seen.clone());
        let settings = Settings::default();
        let (forecast, remembered) = experience.foresee(&id, &peer, &settings).unwrap();
        assert_eq!((forecast.rounds.len(), remembered), (1, &seen));
    }

    /// Expected pauses were 10 ms too short: pages of files, which nobody follows, cross in each of them.
    #[test]
    fn what_crosses_in_each_pause_without_being_followed_is_expected_again() {
        let (id, peer): (ContainerId, NodeName) = ("0a".repeat(16).parse().unwrap(), "n2".parse().unwrap());
        let mut experience = Experience::default();
        let rounds = [round(25_000, 250.0, 0)];
        experience.learn(Lesson { last: PageCount(1_000), ..lesson(&id, &peer, &rounds) });
        let settings = Settings::default();
        let (forecast, _) = experience.foresee(&id, &peer, &settings).unwrap();
        assert_eq!(forecast.downtime.as_millis(), 70);
    }

    #[test]
    fn a_move_teaches_the_rate_the_pause_and_what_else_it_takes() {
        let (id, peer): (ContainerId, NodeName) = ("0a".repeat(16).parse().unwrap(), "n2".parse().unwrap());
        let mut experience = Experience::default();
        experience.note_rate(&peer, 1e12);
        assert_eq!(experience.rate(&peer, None).bytes_per_second, PIPELINE);
        experience.learn(lesson(&id, &peer, &[round(25_000, 250.0, 10)]));
        // What is measured does not take the place of what was learnt.
        experience.note_rate(&peer, 1e6);
        let rate = experience.rate(&peer, None);
        assert_eq!((rate.bytes_per_second, rate.source), (100.0 * 4096.0 * 1e3, RateSource::Moves));
        assert_eq!(experience.rate(&peer, Some(Bandwidth(8_000_000))).bytes_per_second, 1e6);
        let settings = Settings::default();
        let (forecast, _) = experience.foresee(&id, &peer, &settings).unwrap();
        assert_eq!(forecast.downtime.as_millis(), 70);
        assert_eq!(forecast.total.as_millis(), 410);
    }
}
