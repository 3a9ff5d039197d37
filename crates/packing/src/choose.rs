//! Which packing brings pages across fastest: pure.
//!
//! Reading, packing and sending overlap, so a block takes as long as the slowest of them: its packed length over the rate
//! of the link, or its length over the rate at which it is packed. Both are measured, on the blocks themselves.

use std::time::Duration;

use drover_model::Compression;

use crate::pack::Algorithm;

/// A link that takes more bytes in a second than this, 2 Gbit/s, is fast: encrypting and sending raw pages costs both
/// machines less than packing and unpacking them would. It is so low because processors that have too much to do make a
/// fast link look slower, and packing would give them more.
const FAST: f64 = 250e6;
/// Every so many blocks the packings that are not in use are tried on one each: 16 MiB.
const TRY_EVERY: u64 = 64;
/// When packing keeps up with less than the link takes, nobody knows what the link would take. After so many such blocks
/// in a row (256 MiB) ...
const IDLE: u64 = 1024;
/// ... so many cross as they are, so that it shows.
const SHOW: u64 = 64;
/// A link that takes less than this, in bytes per second, is not shown any: they would cost more than can be gained.
const SLOW: f64 = 50e6;
/// How much less time another packing must take before it is worth a change.
const GAIN: f64 = 0.9;
/// How much the newest block counts in what is known of a packing.
const WEIGHT: f64 = 0.5;

/// What is known of the link.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LinkRate {
    /// What it takes, in bytes per second; zero: nothing is known yet.
    pub rate: u64,
    /// Whether it was what others waited for, just now.
    pub waits: bool,
}

/// What is known of a packing.
#[derive(Debug, Clone, Copy)]
struct Speed {
    /// Bytes that go in, per second and thread.
    rate: f64,
    /// Bytes that come out for each that goes in.
    ratio: f64,
}

/// Chooses for block after block.
#[derive(Debug)]
pub struct Chooser {
    wish: Compression,
    /// How many threads pack.
    threads: f64,
    current: Algorithm,
    lz4: Option<Speed>,
    zstd: Option<Speed>,
    blocks: u64,
    /// Blocks since the link was last waited for.
    idle: u64,
    /// Blocks that still cross as they are to show what the link takes.
    show: u64,
}

impl Chooser {
    /// Chooses as wished, for so many threads.
    #[must_use]
    pub fn new(wish: Compression, threads: usize) -> Self {
        let current = Algorithm::None;
        Self { wish, threads: threads as f64, current, lz4: None, zstd: None, blocks: 0, idle: 0, show: 0 }
    }

    /// Whether anything may be packed at all.
    #[must_use]
    pub fn packs(&self) -> bool {
        self.wish != Compression::None
    }

    /// How the next block is to be packed.
    pub fn choose(&mut self, link: LinkRate) -> Algorithm {
        match self.wish {
            Compression::None => return Algorithm::None,
            Compression::Lz4 => return Algorithm::Lz4,
            Compression::Zstd => return Algorithm::Zstd,
            Compression::Auto => {}
        }
        let rate = link.rate as f64;
        if link.rate == 0 || rate > FAST {
            (self.current, self.idle, self.show) = (Algorithm::None, 0, 0);
            return Algorithm::None;
        }
        self.blocks += 1;
        if self.show > 0 {
            self.show -= 1;
            return Algorithm::None;
        }
        self.idle = if link.waits || self.current == Algorithm::None { 0 } else { self.idle + 1 };
        if self.idle >= IDLE && rate > SLOW {
            (self.idle, self.show) = (0, SHOW);
        }
        // One block of each that is not in use, side by side: their measures come while others are sent.
        let tried = match self.blocks % TRY_EVERY {
            1 => Some(Algorithm::Lz4),
            2 => Some(Algorithm::Zstd),
            _ => None,
        };
        self.current = self.fastest(rate);
        tried.unwrap_or(self.current)
    }

    /// What packing a block has given: `busy` is the time of one thread.
    pub fn learn(&mut self, algorithm: Algorithm, length: usize, packed: usize, busy: Duration) {
        let (length, packed) = (length as f64, packed as f64);
        let now = Speed { rate: length / busy.as_secs_f64().max(1e-9), ratio: packed / length.max(1.0) };
        let known = match algorithm {
            Algorithm::None => return,
            Algorithm::Lz4 => &mut self.lz4,
            Algorithm::Zstd => &mut self.zstd,
        };
        let mix = |old: f64, new: f64| old + (new - old) * WEIGHT;
        *known =
            Some(known.map_or(now, |old| Speed { rate: mix(old.rate, now.rate), ratio: mix(old.ratio, now.ratio) }));
    }

    fn fastest(&self, link: f64) -> Algorithm {
        let mut best = self.current;
        for algorithm in Algorithm::ALL {
            if self.seconds(algorithm, link) < self.seconds(best, link) * GAIN {
                best = algorithm;
            }
        }
        best
    }

    /// What a byte takes. What was never tried takes for ever.
    fn seconds(&self, algorithm: Algorithm, link: f64) -> f64 {
        let known = match algorithm {
            Algorithm::None => return 1.0 / link,
            Algorithm::Lz4 => self.lz4,
            Algorithm::Zstd => self.zstd,
        };
        known.map_or(f64::INFINITY, |speed| (speed.ratio / link).max(1.0 / (speed.rate * self.threads)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 256 << 10;

    /// A link and data as they might be: rates in MB/s.
    struct World {
        link: u64,
        lz4: (u64, f64),
        zstd: (u64, f64),
    }

    /// Runs so many blocks through; how many of them were packed in each way.
    fn run(chooser: &mut Chooser, world: &World, blocks: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..blocks {
            let link = LinkRate { rate: world.link * 1_000_000, waits: true };
            let algorithm = chooser.choose(link);
            counts[algorithm as usize] += 1;
            let (rate, ratio) = match algorithm {
                Algorithm::None => continue,
                Algorithm::Lz4 => world.lz4,
                Algorithm::Zstd => world.zstd,
            };
            let busy = Duration::from_secs_f64(BLOCK as f64 / (rate as f64 * 1e6));
            chooser.learn(algorithm, BLOCK, (BLOCK as f64 * ratio) as usize, busy);
        }
        counts
    }

    fn auto() -> Chooser {
        Chooser::new(Compression::Auto, 1)
    }

    const TEXT: World = World { link: 0, lz4: (700, 0.45), zstd: (400, 0.3) };

    #[test]
    fn a_slow_link_packs_well_and_a_fast_one_not_at_all() {
        let slow = World { link: 12, ..TEXT };
        let [none, lz4, zstd] = run(&mut auto(), &slow, 1000);
        assert!(none < 10 && lz4 < 20 && zstd > 950, "{none} {lz4} {zstd}");
        assert_eq!(run(&mut auto(), &World { link: 300, ..TEXT }, 1000), [1000, 0, 0]);
    }

    #[test]
    fn packing_that_would_hold_up_the_link_is_not_chosen() {
        // 200 MB/s: zstd would bring 300, lz4 444.
        let [none, lz4, zstd] = run(&mut auto(), &World { link: 200, zstd: (300, 0.3), ..TEXT }, 1000);
        assert!(none < 10 && lz4 > 950 && zstd < 20, "{none} {lz4} {zstd}");
        let slow_machine = World { link: 120, lz4: (60, 0.45), zstd: (20, 0.3) };
        let [none, lz4, zstd] = run(&mut auto(), &slow_machine, 1000);
        assert!(none > 950 && lz4 < 20 && zstd < 20, "{none} {lz4} {zstd}");
    }

    #[test]
    fn what_does_not_shrink_crosses_as_it_is_until_it_does() {
        let noise = World { link: 12, lz4: (700, 1.0), zstd: (400, 1.0) };
        let mut chooser = auto();
        let [none, ..] = run(&mut chooser, &noise, 1000);
        assert!(none > 950, "{none}");
        let [_, _, zstd] = run(&mut chooser, &World { link: 12, ..TEXT }, 1000);
        assert!(zstd > 600, "{zstd}");
    }

    #[test]
    fn a_link_that_becomes_fast_is_no_longer_packed_for() {
        let mut chooser = auto();
        run(&mut chooser, &World { link: 12, ..TEXT }, 500);
        assert_eq!(run(&mut chooser, &World { link: 900, ..TEXT }, 100), [100, 0, 0]);
    }

    #[test]
    fn nothing_is_packed_before_the_link_is_known() {
        assert_eq!(run(&mut auto(), &TEXT, 100), [100, 0, 0]);
    }

    #[test]
    fn a_link_that_nobody_waits_for_is_shown_raw_pages_now_and_then() {
        let mut chooser = auto();
        run(&mut chooser, &World { link: 50, ..TEXT }, 100);
        let mut raw = 0;
        for _ in 0..3000 {
            let algorithm = chooser.choose(LinkRate { rate: 60_000_000, waits: false });
            raw += u64::from(algorithm == Algorithm::None);
        }
        assert_eq!(raw, 2 * SHOW);
        for _ in 0..3000 {
            assert_ne!(chooser.choose(LinkRate { rate: 12_000_000, waits: false }), Algorithm::None, "it is too slow");
        }
    }

    #[test]
    fn a_wish_is_followed_whatever_it_costs() {
        let world = World { link: 2000, ..TEXT };
        assert_eq!(run(&mut Chooser::new(Compression::None, 1), &world, 10), [10, 0, 0]);
        assert_eq!(run(&mut Chooser::new(Compression::Lz4, 1), &world, 10), [0, 10, 0]);
        assert_eq!(run(&mut Chooser::new(Compression::Zstd, 1), &world, 10), [0, 0, 10]);
        assert!(auto().packs() && !Chooser::new(Compression::None, 1).packs());
    }
}
