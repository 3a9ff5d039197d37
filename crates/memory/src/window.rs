//! How much may be asked for ahead: so much that the link is busy, and so little that whoever waits for a page does not wait
//! long behind what nobody waits for.
//!
//! The window grows while answers come about as soon as they can, and shrinks when they queue, as in congestion controls
//! that look at delay (Brakmo and Peterson, "TCP Vegas", 1994).

use std::time::Duration;

/// The window in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    bytes: u64,
    /// The shortest time that an answer has taken.
    shortest: Duration,
    /// How much must be answered before it may shrink again.
    settling: u64,
}

/// The least window: on a slow link this is the time that a thread waits at most, 10 ms at 100 Mbit/s.
pub(crate) const LEAST: u64 = 128 << 10;
const MOST: u64 = 16 << 20;
/// By how much it grows with each answer.
const STEP: u64 = 32 << 10;
/// How long answers may queue.
const QUEUE: Duration = Duration::from_millis(4);

impl Default for Window {
    fn default() -> Self {
        Self { bytes: 2 * LEAST, shortest: Duration::MAX, settling: 0 }
    }
}

impl Window {
    /// How much may be on its way.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An answer of so many bytes has come after this time; `used` were on their way when it was asked for. A window that is
    /// not made use of says nothing about a larger one (RFC 7661).
    pub fn answered(&mut self, bytes: u64, after: Duration, used: u64) {
        self.shortest = self.shortest.min(after);
        self.settling = self.settling.saturating_sub(bytes);
        if after <= self.shortest + QUEUE {
            if used >= self.bytes / 2 {
                self.bytes = (self.bytes + STEP).min(MOST);
            }
        } else if self.settling == 0 {
            // What is on its way was asked for under the old window.
            self.settling = self.bytes;
            self.bytes = (self.bytes * 3 / 4).max(LEAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with this latency and rate (bytes in a millisecond), always full: the window that it settles at.
    fn settle(latency: f64, rate: f64) -> u64 {
        let mut window = Window::default();
        for _ in 0..2_000 {
            // What is over the link's own capacity queues.
            let ms = latency.max(window.bytes() as f64 / rate);
            window.answered(64 << 10, Duration::from_secs_f64(ms / 1e3), window.bytes());
        }
        window.bytes()
    }

    #[test]
    fn a_fast_link_is_kept_busy_and_a_slow_one_does_not_queue_long() {
        // 1 Gbit/s: at most some 6 ms of queue.
        let lan = settle(0.2, 125_000.0);
        assert!((300_000..1_000_000).contains(&lan), "{lan}");
        // 1 Gbit/s with 40 ms there and back: at least what the link holds.
        let wan = settle(40.0, 125_000.0);
        assert!(wan > 4_000_000, "{wan}");
        // 100 Mbit/s: some 25 ms at most.
        let slow = settle(0.2, 12_500.0);
        assert!((LEAST..350_000).contains(&slow), "{slow}");
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = Window::default();
        (0..1_000).for_each(|_| window.answered(64 << 10, Duration::from_micros(200), LEAST / 2));
        assert_eq!(window.bytes(), Window::default().bytes());
    }
}
