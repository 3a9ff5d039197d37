//! How fast a link takes bytes, and how fast it may be given them: pure, all times are arguments.

use std::time::Duration;

use drover_model::{Bandwidth, Moment};

/// The longest piece that a link with a bound is given at once, in bytes.
pub const CAPPED_PIECE: usize = 64 << 10;
/// What may be saved up while nothing is sent, as time at the bound's rate: so much goes at once.
const SAVED: Duration = Duration::from_millis(20);

/// A bound on what is sent: a bucket of tokens, one for each byte, that fills at the bound's rate. It may be overdrawn by
/// what has to go at once, and by one piece; then it is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Cap {
    /// Bytes per second.
    rate: f64,
    /// The tokens; negative: overdrawn.
    tokens: f64,
    at: Moment,
}

impl Cap {
    /// A bound that holds from `now` on.
    #[must_use]
    pub fn new(bandwidth: Bandwidth, now: Moment) -> Self {
        Self { rate: (bandwidth.0 as f64 / 8.0).max(1.0), tokens: 0.0, at: now }
    }

    /// Bytes per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// How long nothing more may be sent that can wait.
    #[must_use]
    pub fn wait(&mut self, now: Moment) -> Duration {
        self.fill(now);
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64((-self.tokens / self.rate).min(1e6)) }
    }

    /// So many bytes have been sent.
    pub fn spend(&mut self, now: Moment, bytes: usize) {
        self.fill(now);
        self.tokens -= bytes as f64;
    }

    fn fill(&mut self, now: Moment) {
        let gained = now.since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.rate * SAVED.as_secs_f64());
        self.at = now;
    }
}

/// A window is at least so long: shorter ones measure buffers.
const WINDOW: Duration = Duration::from_millis(50);
/// How much the newest window counts.
const WEIGHT: f64 = 0.5;

/// What a link takes, measured at its end: not what is put into a queue before it, and not what the buffers behind it
/// swallow.
///
/// From the moment on at which the link takes nothing more, its buffers are full, and what it takes then is what crosses.
/// A link that is never waited for takes at least what it is given, and nobody knows how much more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    /// Bytes per second; zero: unknown.
    rate: f64,
    waits: bool,
    /// When the window began, and what was taken since.
    began: Option<(Moment, u64)>,
    /// When the link took nothing more for the first time in this window, and what was taken since.
    full: Option<(Moment, u64)>,
    /// How long others waited for it in this window.
    waited: Duration,
}

impl Meter {
    /// It has taken so many bytes, and was waited for so long before.
    pub fn took(&mut self, now: Moment, bytes: usize, waited: Duration) {
        let (began, taken) = self.began.get_or_insert((now, 0));
        *taken += bytes as u64;
        let window = now.since(*began);
        if let Some((_, taken)) = &mut self.full {
            *taken += bytes as u64;
            self.waited += waited;
        }
        if window >= WINDOW {
            self.conclude(now);
        }
        if !waited.is_zero() && self.full.is_none() {
            // What it takes from now on finds room that becomes free.
            (self.began, self.full) = (Some((now, 0)), Some((now, 0)));
        }
    }

    /// Nothing is left to be sent: what it takes next may only fill its buffers.
    pub fn idle(&mut self, now: Moment) {
        if self.began.is_some_and(|(began, _)| now.since(began) >= WINDOW) {
            self.conclude(now);
        }
        self.waits = false;
        if self.full.take().is_some() {
            (self.began, self.waited) = (None, Duration::ZERO);
        }
    }

    /// Bytes per second that it takes, zero when that is not known, and whether others waited for it just now.
    #[must_use]
    pub fn rate(&self) -> (u64, bool) {
        (self.rate as u64, self.waits)
    }

    fn conclude(&mut self, now: Moment) {
        let per_second = |(since, taken): (Moment, u64)| taken as f64 / now.since(since).as_secs_f64().max(1e-9);
        let full = self.full.filter(|(since, _)| now.since(*since) >= WINDOW / 2);
        self.waits = full.is_some_and(|(since, _)| self.waited >= now.since(since) / 2);
        if let Some(full) = full.filter(|_| self.waits) {
            let measured = per_second(full);
            self.rate = if self.rate == 0.0 { measured } else { self.rate + (measured - self.rate) * WEIGHT };
        } else if let Some(all) = self.began.filter(|_| self.rate > 0.0) {
            // It may take more than it was given: that can only show that it was underrated.
            self.rate = self.rate.max(per_second(all));
        }
        (self.began, self.full, self.waited) = (None, None, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: f64) -> Moment {
        Moment(Duration::from_secs_f64(ms / 1e3))
    }

    /// Sends pieces as fast as a bound lets it; the bytes that were sent until then.
    fn sent(cap: &mut Cap, until: Moment, pieces: &[usize]) -> u64 {
        let (mut now, mut sent) = (at(0.0), 0);
        for piece in pieces.iter().cycle() {
            now = now.after(cap.wait(now));
            if now > until {
                break;
            }
            cap.spend(now, *piece);
            sent += *piece as u64;
        }
        sent
    }

    proptest! {
        #[test]
        fn a_bound_holds_within_a_piece(
            mbit in 1..2000_u64,
            pieces in proptest::collection::vec(1..=CAPPED_PIECE, 1..20),
            ms in 100..3000_u32,
        ) {
            let mut cap = Cap::new(Bandwidth(mbit * 1_000_000), at(0.0));
            let sent = sent(&mut cap, at(ms.into()), &pieces);
            let allowed = mbit * 125 * u64::from(ms);
            prop_assert!(sent <= allowed + CAPPED_PIECE as u64 + 1, "{} of {}", sent, allowed);
            prop_assert!(sent + CAPPED_PIECE as u64 >= allowed, "{} of {}", sent, allowed);
        }
    }

    #[test]
    fn what_was_not_used_is_saved_for_a_moment_only() {
        let mut cap = Cap::new(Bandwidth(8_000_000), at(0.0));
        assert_eq!(cap.rate(), 1_000_000);
        assert_eq!(cap.wait(at(5000.0)), Duration::ZERO);
        cap.spend(at(5000.0), 40_000);
        assert_eq!(cap.wait(at(5000.0)), Duration::from_millis(20), "20 of 40 ms were saved");
        assert_eq!(cap.wait(at(5020.0)), Duration::ZERO);
    }

    /// A link with a buffer: gives pieces of 64 KiB to it as fast as it takes them, with a pause behind each.
    fn measure(meter: &mut Meter, start: f64, bytes_per_ms: f64, buffer: f64, pieces: u32, pause: f64) -> f64 {
        const PIECE: f64 = 65536.0;
        let (mut now, mut filled) = (start, 0.0_f64);
        for _ in 0..pieces {
            // Copying takes time, too.
            now += 0.02;
            filled = (filled - bytes_per_ms * 0.02).max(0.0);
            let waited = ((filled + PIECE - buffer) / bytes_per_ms).max(0.0);
            now += waited;
            filled = (filled - bytes_per_ms * waited).max(0.0) + PIECE;
            meter.took(at(now), PIECE as usize, Duration::from_secs_f64(waited / 1e3));
            if pause > 0.0 {
                meter.idle(at(now));
                now += pause;
                filled = (filled - bytes_per_ms * pause).max(0.0);
            }
        }
        now
    }

    #[test]
    fn the_link_is_measured_and_not_its_buffer() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate(), (0, false));
        measure(&mut meter, 0.0, 12_500.0, 4e6, 200, 0.0);
        let (rate, waits) = meter.rate();
        assert!((11_500_000..13_500_000).contains(&rate) && waits, "{rate}");
    }

    #[test]
    fn a_link_that_is_never_full_takes_at_least_what_it_is_given() {
        let mut meter = Meter::default();
        // However little it is given, as before the first round.
        let now = measure(&mut meter, 0.0, 1e7, 4e6, 20, 40.0);
        let now = measure(&mut meter, now, 1e7, 4e6, 4000, 0.0);
        assert_eq!(meter.rate(), (0, false), "nobody knows how fast it is");
        // It was slow once, and is not full any more.
        let now = measure(&mut meter, now, 12_500.0, 1e6, 200, 0.0);
        assert!(meter.rate().0 < 20_000_000, "{:?}", meter.rate());
        measure(&mut meter, now, 1e7, 4e6, 4000, 0.0);
        assert!(meter.rate().0 > 800_000_000, "{:?}", meter.rate());
        // What is given slowly says nothing against that.
        let mut meter = Meter::default();
        let now = measure(&mut meter, 0.0, 12_500.0, 1e6, 200, 0.0);
        let (known, _) = meter.rate();
        measure(&mut meter, now, 12_500.0, 1e6, 200, 20.0);
        let (rate, waits) = meter.rate();
        assert!(rate == known && !waits, "{rate} {known}");
    }

    #[test]
    fn a_link_that_takes_much_at_a_time_is_measured_wherever_the_windows_begin() {
        // Kernels wake a writer when a third of the buffer is free: here 1.25 MB, of which nothing is taken for 100 ms.
        for before in 0..20 {
            let mut meter = Meter::default();
            for piece in 0..before {
                meter.took(at(f64::from(piece)), 62_500, Duration::ZERO);
            }
            for burst in 1..30 {
                for piece in 0..20 {
                    let waited = if piece == 0 { Duration::from_millis(98) } else { Duration::ZERO };
                    meter.took(at(f64::from(burst) * 100.0 + f64::from(piece) * 0.1), 62_500, waited);
                }
            }
            let (rate, _) = meter.rate();
            assert!((11_000_000..14_000_000).contains(&rate), "{rate} after {before}");
        }
    }

    #[test]
    fn a_link_that_becomes_slower_is_believed_soon() {
        let mut meter = Meter::default();
        let now = measure(&mut meter, 0.0, 125_000.0, 1e6, 2000, 0.0);
        assert!((120_000_000..135_000_000).contains(&meter.rate().0), "{:?}", meter.rate());
        measure(&mut meter, now, 12_500.0, 1e6, 150, 0.0);
        assert!((11_000_000..15_000_000).contains(&meter.rate().0), "{:?}", meter.rate());
    }
}
