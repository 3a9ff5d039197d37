//! What to do after a round of copying: another round, or freeze. Pure.
//!
//! The pause is predicted as what has been written again, over the bandwidth that was measured, and a fixed part for
//! dump, restore and decision. A round is worth its time as long as that is over the budget and rounds still shrink.

use std::time::Duration;

use drover_model::{Mode, PageCount, Round};

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Another round.
    Round,
    /// Freeze the container, for the reason given in one sentence.
    Freeze(String),
}

/// The pause that is aimed at.
const BUDGET: Duration = Duration::from_millis(300);
/// What a pause takes when nothing is left to be sent. Measured on two cores: 60 to 120 ms.
const FIXED: Duration = Duration::from_millis(100);
/// After so many rounds it is enough.
const MOST_ROUNDS: usize = 30;
/// A round that leaves more than this share of what the one before left does not converge, in percent.
const SHRINKING: u64 = 80;
/// Rounds of fewer bytes than this measure the latency of the link rather than its bandwidth.
const MEASURES: u64 = 1 << 20;

/// Decides after the given rounds; with none, before the first.
#[must_use]
pub fn decide(mode: Mode, rounds: &[Round]) -> Decision {
    let freeze = |why: String| Decision::Freeze(why);
    if mode == Mode::StopAndCopy {
        return freeze("all memory crossed while the container was frozen (stop-and-copy)".to_owned());
    }
    let Some(last) = rounds.last() else { return Decision::Round };
    let count = rounds.len();
    let predicted = predict(rounds, last.dirty_after);
    let rounds_word = if count == 1 { "round" } else { "rounds" };
    let pause = format!("a pause of {} ms was predicted after {count} {rounds_word}", predicted.as_millis());
    if predicted <= BUDGET {
        return freeze(format!("{pause}, within the budget of {} ms", BUDGET.as_millis()));
    }
    if count >= MOST_ROUNDS {
        return freeze(format!("{pause}, and that is the most rounds"));
    }
    let before = rounds.len().checked_sub(2).map(|index| rounds[index].dirty_after.0);
    if before.is_some_and(|before| last.dirty_after.0 * 100 > before * SHRINKING) {
        return freeze(format!("{pause}, and rounds no longer shrink"));
    }
    Decision::Round
}

/// The pause if the container were frozen now.
fn predict(rounds: &[Round], dirty: PageCount) -> Duration {
    let measuring = rounds.iter().filter(|round| round.bytes.0 >= MEASURES && round.ms > 0.0);
    let best = measuring.map(|round| round.bytes.0 as f64 / round.ms).fold(0.0, f64::max);
    if best <= 0.0 {
        // So little crossed that so little more takes no time either.
        return FIXED;
    }
    let rest = (dirty.0 * PageCount::PAGE) as f64 / best;
    FIXED + Duration::from_secs_f64((rest / 1000.0).min(1e6))
}

#[cfg(test)]
mod tests {
    use drover_model::Bytes;

    use super::*;

    /// A round that sent so many pages in so many milliseconds, and left so many.
    fn round(pages: u64, ms: f64, dirty_after: u64) -> Round {
        let bytes = Bytes(pages * PageCount::PAGE);
        Round { pages: PageCount(pages), bytes, ms, dirty_after: PageCount(dirty_after) }
    }

    fn reason(rounds: &[Round]) -> String {
        match decide(Mode::PreCopy, rounds) {
            Decision::Freeze(why) => why,
            Decision::Round => panic!("another round"),
        }
    }

    #[test]
    fn little_that_is_left_is_sent_while_frozen() {
        let why = reason(&[round(100_000, 1000.0, 1_000)]);
        assert_eq!(why, "a pause of 110 ms was predicted after 1 round, within the budget of 300 ms");
    }

    #[test]
    fn rounds_go_on_while_they_shrink() {
        let mut rounds = vec![round(100_000, 4_000.0, 50_000)];
        assert_eq!(decide(Mode::Auto, &rounds), Decision::Round);
        rounds.push(round(50_000, 2_000.0, 25_000));
        assert_eq!(decide(Mode::Auto, &rounds), Decision::Round);
        rounds.push(round(25_000, 1_000.0, 24_000));
        assert!(reason(&rounds).ends_with("and rounds no longer shrink"));
    }

    #[test]
    fn the_first_thing_is_a_round_unless_nobody_wants_any() {
        assert_eq!(decide(Mode::PreCopy, &[]), Decision::Round);
        assert!(matches!(decide(Mode::StopAndCopy, &[]), Decision::Freeze(_)));
    }

    #[test]
    fn a_small_container_is_frozen_at_once() {
        assert!(reason(&[round(50, 2.0, 20)]).contains("within the budget"));
    }
}
