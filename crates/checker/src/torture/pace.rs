//! How fast memory is written.

use std::time::{Duration, Instant};

/// Whoever is later than this, was frozen or has no processor: what was due meanwhile is left out.
const LATENESS: Duration = Duration::from_millis(100);

/// Pauses between steps.
#[derive(Debug)]
pub enum Pace {
    /// As long between two of them.
    Pause(Duration),
    /// As long for each page that is written.
    Rate { each: Duration, due: Instant },
}

impl Pace {
    /// So many pages in a second.
    pub fn rate(pages_per_second: f64) -> Self {
        Self::Rate { each: Duration::from_secs_f64(pages_per_second.recip()), due: Instant::now() }
    }

    /// When the next step is due, after one that has written so many pages; `now` if there is no pause.
    pub fn next(&mut self, written: u64, now: Instant) -> Instant {
        match self {
            Self::Pause(pause) => now + *pause,
            Self::Rate { each, due } => {
                *due = (*due).max(now.checked_sub(LATENESS).unwrap_or(now));
                *due += each.saturating_mul(u32::try_from(written).unwrap_or(u32::MAX));
                (*due).max(now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_a_long_absence_is_not_made_up_for() {
        let mut pace = Pace::rate(1000.0);
        let mut now = Instant::now();
        let begin = now;
        for _ in 0..50 {
            now = pace.next(10, now);
        }
        assert!((now - begin).abs_diff(Duration::from_millis(500)) < Duration::from_millis(1));
        // Late by less is made up for, late by more is not.
        assert_eq!(pace.next(10, now + Duration::from_millis(50)), now + Duration::from_millis(50));
        now += Duration::from_secs(60);
        let next = pace.next(110, now);
        assert!((next - now).abs_diff(Duration::from_millis(10)) < Duration::from_millis(1), "{:?}", next - now);
    }
}
