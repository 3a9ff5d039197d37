//! Values that need not be remembered: each follows from a seed, the index of its key and its version.

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// How many earlier versions [`Values::version_of`] tries.
const VERSIONS_BACK: u32 = 1000;

/// A family of values of one length.
#[derive(Debug, Clone, Copy)]
pub struct Values {
    /// Whatever makes this family differ from others.
    pub seed: u64,
    /// Bytes in each value.
    pub length: usize,
    /// How many of them are random; the rest repeats one byte and can be compressed.
    pub random: usize,
}

impl Values {
    /// Fills `out` with the value of key `index` in `version`.
    pub fn fill(self, index: u64, version: u32, out: &mut Vec<u8>) {
        // Odd multipliers (the golden ratio, and one of Steele and Vigna's) spread neighbours over all 64 bits.
        let word = self.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            ^ u64::from(version).wrapping_mul(0xd134_2543_de82_ef95);
        out.clear();
        out.resize(self.length, b'.');
        SmallRng::seed_from_u64(word).fill_bytes(&mut out[..self.random.min(self.length)]);
    }

    /// Which version of key `index` the `found` bytes are, looking back from `newest`.
    pub fn version_of(self, index: u64, newest: u32, found: &[u8]) -> Option<u32> {
        let mut expected = Vec::new();
        (newest.saturating_sub(VERSIONS_BACK)..=newest).rev().find(|version| {
            self.fill(index, *version, &mut expected);
            expected == found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_repeat_for_one_version_and_differ_between_keys_and_versions() {
        let values = Values { seed: 7, length: 64, random: 64 };
        let value = |index, version| {
            let mut out = Vec::new();
            values.fill(index, version, &mut out);
            out
        };
        assert_eq!(value(3, 4), value(3, 4));
        assert_ne!(value(3, 4), value(3, 5));
        assert_ne!(value(3, 4), value(4, 4));
        assert_ne!(value(3, 4), value(4, 3));
        assert_eq!(values.version_of(3, 9, &value(3, 4)), Some(4));
        assert_eq!(values.version_of(3, 3, &value(3, 4)), None);
    }
}
