//! What to do after a round of copying: another round, freeze, let memory follow, slow the container, or give up. Pure.
//!
//! The pause is predicted as the pages and the bytes of files that have been written again, over the rate at which they
//! crossed, and a fixed part for dump, restore and decision, which is learnt from earlier moves. A round is worth its time as long as that is
//! over the budget and rounds still shrink; within the budget, as long as it makes the pause shorter by 20 ms or more.

use std::time::Duration;

use drover_model::{Fallback, Mode, PageCount, Round, Settings, StopRule};

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Another round.
    Round,
    /// Leave the container this share of its processor time, in percent, then another round.
    Slow(u32),
    /// Freeze the container and send the rest, for the reason given in one sentence.
    Freeze(String),
    /// Freeze the container and let the rest follow it.
    PostCopy(String),
    /// Leave it where it is, as is wished: its files have crossed.
    Stay,
    /// Leave it where it is, for the reason given in one sentence.
    GiveUp(String),
}

/// What a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Course<'a> {
    /// What the user wishes.
    pub settings: &'a Settings,
    /// What a pause takes when nothing is left to be sent.
    pub fixed: Duration,
    /// The rounds until now.
    pub rounds: &'a [Round],
    /// After how many rounds the container was slowed: once for each step.
    pub slowed: &'a [usize],
    /// Why memory does not cross in rounds, if it does not: then they are of files alone.
    pub without_memory: Option<&'a str>,
}

/// What a pause takes when nothing is left to be sent and nothing is known yet. Measured on two cores: 60 to 120 ms.
const FIXED: Duration = Duration::from_millis(100);
/// After so many rounds it is enough, unless the user says otherwise.
const MOST_ROUNDS: u32 = 30;
/// A round that leaves more than this share of what the one before left does not converge, in percent.
const SHRINKING: u64 = 80;
/// Rounds of fewer pages than this measure the latency of the link rather than its bandwidth.
const MEASURES: u64 = 256;
/// A round that makes the pause shorter by less than this is not worth its time.
const WORTH: Duration = Duration::from_millis(20);
/// How many of the last rounds tell how fast pages cross.
const RECENT: usize = 3;
/// What is left to a container that is slowed, step by step, in percent.
const SHARES: [u32; 3] = [50, 25, 10];

impl Course<'_> {
    /// Decides; with no rounds, before the first.
    #[must_use]
    pub fn decide(&self) -> Decision {
        if self.settings.sync {
            // Another round would only be the first of the move that comes later.
            return if self.rounds.is_empty() { Decision::Round } else { Decision::Stay };
        }
        match self.settings.mode {
            Mode::StopAndCopy => {
                return Decision::Freeze(
                    "all memory crossed while the container was frozen (stop-and-copy)".to_owned(),
                );
            }
            Mode::PostCopy => {
                let freeze = || Decision::PostCopy("all memory followed the container (post-copy)".to_owned());
                return self.files_alone(freeze);
            }
            Mode::Auto | Mode::PreCopy => {}
        }
        if let Some(why) = self.without_memory {
            let why = format!("all memory crossed while the container was frozen, for {why}");
            return self.files_alone(|| Decision::Freeze(why));
        }
        if let StopRule::Rounds(wanted) = self.settings.stop_rule {
            let enough = self.rounds.len() >= wanted as usize;
            let why = || format!("after {}, as wished", counted(self.rounds.len()));
            return if enough { Decision::Freeze(why()) } else { Decision::Round };
        }
        let most = self.settings.max_rounds.unwrap_or(MOST_ROUNDS);
        let Some(last) = self.rounds.last() else {
            if most == 0 {
                return Decision::Freeze("no rounds were wanted".to_owned());
            }
            return Decision::Round;
        };
        let (budget, predicted) = (self.settings.budget(), self.predict(last.load_after()));
        let pause =
            format!("a pause of {} ms was predicted after {}", predicted.as_millis(), counted(self.rounds.len()));
        let (enough, why) = match self.settings.stop_rule {
            StopRule::Budget => (predicted <= budget, format!("within the budget of {} ms", budget.as_millis())),
            StopRule::LastSend(most) => (last.ms < most as f64, format!("and the last one took less than {most} ms")),
            // Decided above.
            StopRule::Rounds(_) => (false, String::new()),
        };
        // Within the budget it is a matter of worth: rounds cost the container little.
        let rest = crossing(self.rounds, last.load_after());
        let worth = self.settings.stop_rule == StopRule::Budget
            && rest > WORTH
            && self.rounds.len() < most as usize
            && !self.stalls();
        if enough && !worth {
            return Decision::Freeze(format!("{pause}, {why}"));
        }
        if self.rounds.len() >= most as usize {
            return self.fall_back(format!("{pause}, and that is the most rounds"));
        }
        if self.stalls() {
            return self.fall_back(format!("{pause}, and rounds no longer shrink"));
        }
        // Of one that may be slowed the last rounds say little.
        let may_slow = self.settings.fallback() == Fallback::Slow;
        if self.settings.stop_rule == StopRule::Budget && !may_slow && self.fixed > budget && rest <= WORTH {
            let fixed = self.fixed.as_millis();
            return self.fall_back(format!("{pause}, {fixed} ms of it for what no round makes shorter"));
        }
        Decision::Round
    }

    /// Rounds of files for as long as they make the pause shorter, whatever it is.
    fn files_alone(&self, end: impl FnOnce() -> Decision) -> Decision {
        let most = self.settings.max_rounds.unwrap_or(MOST_ROUNDS) as usize;
        let settled = self.rounds.last().is_some_and(|last| crossing(self.rounds, last.load_after()) <= WORTH);
        if settled || self.rounds.len() >= most || self.stalls() { end() } else { Decision::Round }
    }

    /// Whether the last round left about as much as the one before it. One that was slowed in between counts anew.
    fn stalls(&self) -> bool {
        let since = self.slowed.last().copied().unwrap_or(0);
        match self.rounds[since.min(self.rounds.len())..] {
            [.., before, last] => last.load_after().0 * 100 > before.load_after().0 * SHRINKING,
            _ => false,
        }
    }

    /// What the user wishes when rounds do not bring the pause within the budget.
    fn fall_back(&self, pause: String) -> Decision {
        match self.settings.fallback() {
            Fallback::Freeze => Decision::Freeze(format!("{pause}; it was frozen all the same")),
            Fallback::PostCopy => Decision::PostCopy(format!("{pause}; the rest followed the container")),
            Fallback::GiveUp => {
                let budget = self.settings.budget().as_millis();
                Decision::GiveUp(format!("{pause}, over the budget of {budget} ms"))
            }
            Fallback::Slow => match SHARES.get(self.slowed.len()) {
                Some(share) if self.rounds.len() < self.settings.max_rounds.unwrap_or(MOST_ROUNDS) as usize => {
                    Decision::Slow(*share)
                }
                _ => Decision::Freeze(format!("{pause}, although the container was slowed")),
            },
        }
    }

    /// The pause if the container were frozen now.
    fn predict(&self, dirty: PageCount) -> Duration {
        self.fixed + crossing(self.rounds, dirty)
    }
}

/// How long so many pages take, by the rounds until now.
fn crossing(rounds: &[Round], pages: PageCount) -> Duration {
    let measuring = rounds.iter().rev().filter(|round| round.load().0 >= MEASURES && round.ms > 0.0);
    let (crossed, ms) = measuring.take(RECENT).fold((0, 0.0), |sum, round| (sum.0 + round.load().0, sum.1 + round.ms));
    if crossed == 0 {
        // So little crossed that so little more takes no time either.
        return Duration::ZERO;
    }
    Duration::from_secs_f64((pages.0 as f64 * ms / crossed as f64 / 1000.0).min(1e6))
}

/// What a container's pause takes when nothing is left to be sent: for dump, restore and decision. The median of its last
/// pauses, so that one that was long for reasons of its own says nothing yet; the first ones count beside [`FIXED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedPart([Duration; 3]);

impl Default for FixedPart {
    fn default() -> Self {
        Self([FIXED; 3])
    }
}

impl FixedPart {
    /// Learns from a pause in which so much crossed, in pages. Without rounds before it nobody knows how long those took.
    pub fn learn(&mut self, rounds: &[Round], last: PageCount, pause: Duration) {
        if let Some(part) = Self::seen_in(rounds, last, pause) {
            self.0.rotate_left(1);
            self.0[2] = part;
        }
    }

    /// What of such a pause pages do not explain.
    #[must_use]
    pub fn seen_in(rounds: &[Round], last: PageCount, pause: Duration) -> Option<Duration> {
        (!rounds.is_empty()).then(|| pause.saturating_sub(crossing(rounds, last)))
    }

    /// What the next pause is expected to take.
    #[must_use]
    pub fn expected(self) -> Duration {
        let mut seen = self.0;
        seen.sort_unstable();
        seen[1]
    }
}

fn counted(rounds: usize) -> String {
    format!("{rounds} round{}", if rounds == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use drover_model::Bytes;

    use super::*;

    /// A round that sent so many pages in so many milliseconds, and left so many.
    fn round(pages: u64, ms: f64, dirty_after: u64) -> Round {
        let bytes = Bytes(pages * PageCount::PAGE);
        Round { pages: PageCount(pages), bytes, ms, dirty_after: PageCount(dirty_after), ..Round::default() }
    }

    fn decide(settings: &Settings, rounds: &[Round]) -> Decision {
        Course { settings, fixed: FIXED, rounds, slowed: &[], without_memory: None }.decide()
    }

    fn auto() -> Settings {
        Settings::default()
    }

    #[test]
    fn little_that_is_left_is_sent_while_frozen() {
        let why = "a pause of 110 ms was predicted after 1 round, within the budget of 300 ms";
        assert_eq!(decide(&auto(), &[round(100_000, 1000.0, 1_000)]), Decision::Freeze(why.into()));
    }

    #[test]
    fn a_round_within_the_budget_must_be_worth_its_time() {
        // 78 ms of pages would cross while frozen: another round takes that as well, and leaves less.
        let mut rounds = vec![round(100_000, 1000.0, 7_800)];
        assert_eq!(decide(&auto(), &rounds), Decision::Round);
        rounds.push(round(7_800, 78.0, 400));
        assert!(matches!(decide(&auto(), &rounds), Decision::Freeze(_)));
        // One that leaves as much as there was is the last.
        rounds[1] = round(7_800, 78.0, 7_700);
        let Decision::Freeze(why) = decide(&auto(), &rounds) else { panic!("another round") };
        assert!(why.ends_with("within the budget of 300 ms"), "{why}");
    }

    #[test]
    fn rounds_go_on_while_they_shrink() {
        let mut rounds = vec![round(100_000, 4_000.0, 50_000)];
        assert_eq!(decide(&auto(), &rounds), Decision::Round);
        rounds.push(round(50_000, 2_000.0, 25_000));
        assert_eq!(decide(&auto(), &rounds), Decision::Round);
        rounds.push(round(25_000, 1_000.0, 24_000));
        let Decision::Freeze(why) = decide(&auto(), &rounds) else { panic!("another round") };
        assert!(why.ends_with("and rounds no longer shrink; it was frozen all the same"), "{why}");
    }

    #[test]
    fn rounds_that_do_not_shrink_end_as_the_user_wishes() {
        let rounds = [round(100_000, 4_000.0, 50_000), round(50_000, 2_000.0, 49_000)];
        let with = |fallback| Settings { fallback: Some(fallback), ..auto() };
        assert!(matches!(decide(&with(Fallback::Freeze), &rounds), Decision::Freeze(_)));
        assert!(matches!(decide(&with(Fallback::PostCopy), &rounds), Decision::PostCopy(_)));
        assert_eq!(decide(&with(Fallback::Slow), &rounds), Decision::Slow(50));
        // Whoever wants pre-copy and nothing else gets that or nothing.
        let why =
            "a pause of 2060 ms was predicted after 2 rounds, and rounds no longer shrink, over the budget of 300 ms";
        let pre_copy = Settings { mode: Mode::PreCopy, ..auto() };
        assert_eq!(decide(&pre_copy, &rounds), Decision::GiveUp(why.into()));
    }

    #[test]
    fn a_container_is_slowed_step_by_step_and_then_frozen() {
        let settings = Settings { fallback: Some(Fallback::Slow), ..auto() };
        let mut rounds = vec![round(100_000, 4_000.0, 50_000), round(50_000, 2_000.0, 49_000)];
        let mut slowed = Vec::new();
        for share in SHARES {
            let course =
                Course { settings: &settings, fixed: FIXED, rounds: &rounds, slowed: &slowed, without_memory: None };
            assert_eq!(course.decide(), Decision::Slow(share));
            slowed.push(rounds.len());
            // One round shows nothing yet.
            rounds.push(round(49_000, 2_000.0, 48_000));
            let course =
                Course { settings: &settings, fixed: FIXED, rounds: &rounds, slowed: &slowed, without_memory: None };
            assert_eq!(course.decide(), Decision::Round);
            rounds.push(round(48_000, 2_000.0, 48_000));
        }
        let course =
            Course { settings: &settings, fixed: FIXED, rounds: &rounds, slowed: &slowed, without_memory: None };
        let Decision::Freeze(why) = course.decide() else { panic!("{:?}", course.decide()) };
        assert!(why.ends_with("although the container was slowed"), "{why}");
    }

    #[test]
    fn the_budget_and_what_was_learnt_decide() {
        let rounds = [round(100_000, 1000.0, 3_000)];
        let strict = Settings { downtime_ms: Some(50), ..auto() };
        assert_eq!(decide(&strict, &rounds), Decision::Round);
        let rounds = [round(100_000, 1000.0, 1_000)];
        let course = Course {
            settings: &strict,
            fixed: Duration::from_millis(30),
            rounds: &rounds,
            slowed: &[],
            without_memory: None,
        };
        assert!(matches!(course.decide(), Decision::Freeze(_)));
    }

    #[test]
    fn the_fixed_part_is_what_pages_do_not_explain() {
        let rounds = [round(100_000, 1000.0, 1_000)];
        let mut fixed = FixedPart::default();
        for pause in [150, 160] {
            fixed.learn(&rounds, PageCount(1_000), Duration::from_millis(pause));
        }
        assert_eq!(fixed.expected(), Duration::from_millis(140));
        fixed.learn(&rounds, PageCount(1_000_000), Duration::from_millis(1));
        assert_eq!(fixed.expected(), Duration::from_millis(140));
    }

    /// A new user's: one move by stop-and-copy had every later one in rounds refused.
    #[test]
    fn a_single_long_pause_and_one_without_rounds_teach_nothing() {
        let mut fixed = FixedPart::default();
        for _ in 0..3 {
            fixed.learn(&[], PageCount(50_000), Duration::from_secs(20));
        }
        fixed.learn(&[round(100_000, 1000.0, 0)], PageCount(0), Duration::from_secs(7));
        assert_eq!(fixed.expected(), FIXED);
    }

    #[test]
    fn rounds_do_not_go_on_for_a_pause_that_none_makes_shorter() {
        let settings = Settings { mode: Mode::PreCopy, ..auto() };
        let rounds = [round(100_000, 1000.0, 900), round(900, 9.0, 700)];
        let slowed = [];
        let course = Course {
            settings: &settings,
            fixed: Duration::from_millis(500),
            rounds: &rounds,
            slowed: &slowed,
            without_memory: None,
        };
        let why = "a pause of 507 ms was predicted after 2 rounds, 500 ms of it for what no round makes shorter, over the \
                   budget of 300 ms";
        assert_eq!(course.decide(), Decision::GiveUp(why.into()));
    }

    #[test]
    fn the_classic_rule_looks_at_the_last_round_alone() {
        let settings = Settings { stop_rule: StopRule::LastSend(1000), ..auto() };
        assert_eq!(decide(&settings, &[round(100_000, 4_000.0, 10)]), Decision::Round);
        let rounds = [round(100_000, 4_000.0, 50_000), round(20_000, 900.0, 30_000)];
        let Decision::Freeze(why) = decide(&settings, &rounds) else { panic!("another round") };
        assert!(why.ends_with("and the last one took less than 1000 ms"), "{why}");
    }

    #[test]
    fn rounds_are_as_many_as_the_user_wishes() {
        let settings = |most| Settings { max_rounds: Some(most), ..auto() };
        assert!(matches!(decide(&settings(0), &[]), Decision::Freeze(_)));
        assert_eq!(decide(&settings(1), &[]), Decision::Round);
        let Decision::Freeze(why) = decide(&settings(1), &[round(100_000, 4_000.0, 50_000)]) else { panic!() };
        assert!(why.contains("that is the most rounds"), "{why}");
    }

    #[test]
    fn a_number_of_rounds_is_kept_whatever_it_brings() {
        let settings = Settings { stop_rule: StopRule::Rounds(2), ..auto() };
        let rounds = [round(100, 1.0, 0), round(100, 1.0, 100_000)];
        assert_eq!(decide(&settings, &[]), Decision::Round);
        assert_eq!(decide(&settings, &rounds[..1]), Decision::Round);
        assert_eq!(decide(&settings, &rounds), Decision::Freeze("after 2 rounds, as wished".into()));
    }

    #[test]
    fn the_first_thing_is_a_round_unless_nobody_wants_any() {
        assert_eq!(decide(&auto(), &[]), Decision::Round);
        let with = |mode| Settings { mode, ..auto() };
        assert!(matches!(decide(&with(Mode::StopAndCopy), &[]), Decision::Freeze(_)));
        // Files cross before it is frozen all the same.
        assert_eq!(decide(&with(Mode::PostCopy), &[]), Decision::Round);
        assert!(matches!(decide(&with(Mode::PostCopy), &[round(0, 5.0, 0)]), Decision::PostCopy(_)));
    }

    /// A round of files alone: megabytes sent, and megabytes that have changed again.
    fn files(sent: u64, ms: f64, after: u64) -> Round {
        let (sent, after) = (Bytes(sent << 20), Bytes(after << 20));
        Round { bytes: sent, ms, files: sent, files_after: after, ..Round::default() }
    }

    #[test]
    fn files_and_memory_are_weighed_together() {
        // 100 MB of memory a second: what memory leaves takes 40 ms, and what files leave 500 ms.
        let memory = round(100_000, 4_000.0, 1_000);
        let both = Round { files_after: Bytes(50 << 20), ..memory };
        assert!(matches!(decide(&auto(), &[memory, round(1_000, 40.0, 0)]), Decision::Freeze(_)));
        assert_eq!(decide(&auto(), &[both]), Decision::Round);
        let Decision::Freeze(why) = decide(&auto(), &[both, Round { files_after: Bytes(0), ..round(1_000, 40.0, 10) }])
        else {
            panic!("another round")
        };
        assert!(why.starts_with("a pause of 100 ms was predicted"), "{why}");
    }

    #[test]
    fn files_cross_in_rounds_where_memory_does_not() {
        let settings = auto();
        let decide = |rounds: &[Round]| {
            let without_memory = Some("a reason");
            Course { settings: &settings, fixed: FIXED, rounds, slowed: &[], without_memory }.decide()
        };
        assert_eq!(decide(&[]), Decision::Round);
        assert_eq!(decide(&[files(1000, 10_000.0, 100)]), Decision::Round);
        let Decision::Freeze(why) = decide(&[files(1000, 10_000.0, 100), files(100, 1_000.0, 1)]) else { panic!() };
        assert_eq!(why, "all memory crossed while the container was frozen, for a reason");
        assert!(matches!(decide(&[files(100, 1_000.0, 90), files(90, 900.0, 90)]), Decision::Freeze(_)));
    }

    #[test]
    fn a_small_container_is_frozen_at_once() {
        assert!(matches!(decide(&auto(), &[round(50, 2.0, 20)]), Decision::Freeze(_)));
    }
}
