//! How many requests an identity may send: a bucket of tokens for each, filled at a rate.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use drover_model::Identity;

/// How many identities are remembered. Whoever has a certificate has one name, so there are hardly more than users.
const REMEMBERED: usize = 4096;

/// The buckets of all identities.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Tokens that come each second.
    per_second: f64,
    /// Tokens that a full bucket holds.
    burst: f64,
    buckets: Mutex<HashMap<Identity, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
    /// Whether the last request was refused.
    is_empty: bool,
}

/// Whether there was a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// There was.
    Yes,
    /// There was none, for the first time since there was one.
    NoMore,
    /// There is still none.
    No,
}

impl Rates {
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), buckets: Mutex::default() }
    }

    /// Takes a token, if there is one.
    pub fn take(&self, identity: &Identity, now: Instant) -> Taken {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = |bucket: &Bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.tokens + since * self.per_second).min(self.burst)
        };
        if buckets.len() >= REMEMBERED && !buckets.contains_key(identity) {
            // A full bucket is what a new one would be.
            buckets.retain(|_, bucket| filled(bucket) < self.burst);
            if buckets.len() >= REMEMBERED {
                return Taken::No;
            }
        }
        let bucket = buckets.get(identity);
        let (tokens, was_empty) = (bucket.map_or(self.burst, filled), bucket.is_some_and(|bucket| bucket.is_empty));
        let is_empty = tokens < 1.0;
        let tokens = if is_empty { tokens } else { tokens - 1.0 };
        buckets.insert(identity.clone(), Bucket { tokens, at: now, is_empty });
        match (is_empty, was_empty) {
            (false, _) => Taken::Yes,
            (true, false) => Taken::NoMore,
            (true, true) => Taken::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_identity_has_a_burst_and_then_its_rate() {
        let rates = Rates::new(2, 3);
        let (alice, bob) = (Identity::User("alice".parse().unwrap()), Identity::User("bob".parse().unwrap()));
        let begin = Instant::now();
        let taken = |identity, at| (0..10).filter(|_| rates.take(identity, at) == Taken::Yes).count();
        assert_eq!(taken(&alice, begin), 3);
        assert_eq!(taken(&alice, begin + Duration::from_millis(500)), 1);
        assert_eq!(taken(&bob, begin), 3, "one does not take from another");
        let later = begin + Duration::from_secs(60);
        assert_eq!(taken(&alice, later), 3);
        assert_eq!(rates.take(&alice, later), Taken::No);
        assert_eq!(taken(&alice, later + Duration::from_millis(500)), 1);
    }

    #[test]
    fn many_names_take_no_more_memory() {
        let rates = Rates::new(1, 1);
        let now = Instant::now();
        for number in 0..REMEMBERED + 100 {
            let identity = Identity::User(format!("user{number}").parse().unwrap());
            assert_eq!(rates.take(&identity, now) == Taken::Yes, number < REMEMBERED);
        }
        let late = Identity::User("late".parse().unwrap());
        assert_eq!(rates.take(&late, now + Duration::from_secs(1)), Taken::Yes);
    }
}
