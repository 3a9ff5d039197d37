//! The names of blocks: the first 16 bytes of BLAKE3.

use std::collections::BTreeMap;

use crate::layer::Attributes;
use crate::layer::format::{Kind, write_attributes};

/// Files are compared by blocks of this many bytes: a page of the kernel's, and the least that databases write.
pub(super) const BLOCK: usize = 4096;

/// A block's name.
pub(super) type Hash = [u8; 16];

/// The name of any length of zeros.
pub(super) const ZEROS: Hash = [0; 16];

/// The name of a block.
pub(super) fn of(block: &[u8]) -> Hash {
    if block.iter().all(|byte| *byte == 0) { ZEROS } else { first_half(blake3::hash(block)) }
}

/// Names content that comes in pieces.
#[derive(Default)]
pub(super) struct Naming {
    hasher: blake3::Hasher,
    /// Whether there was anything but zeros.
    some: bool,
}

impl Naming {
    pub fn add(&mut self, bytes: &[u8]) {
        self.some |= bytes.iter().any(|byte| *byte != 0);
        self.hasher.update(bytes);
    }

    pub fn name(&self) -> Hash {
        if self.some { first_half(self.hasher.finalize()) } else { ZEROS }
    }
}

fn first_half(hash: blake3::Hash) -> Hash {
    let mut half = Hash::default();
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

/// The name of all that is known of an entry but a file's content: `body` is a link's target or a device's numbers.
pub(super) fn of_entry(kind: Kind, attributes: &Attributes, body: &[u8]) -> Hash {
    let mut bytes = vec![kind as u8];
    // Attributes that were read from the kernel are within the bounds.
    let _ = write_attributes(&mut bytes, attributes);
    bytes.extend(body);
    first_half(blake3::hash(&bytes))
}

/// The name of what nobody knows: of no block.
pub(super) const UNKNOWN: Hash = [0xff; 16];

/// So many names are kept together.
const GROUP: u64 = 256;

/// The names of a file's blocks. Where none was set there are zeros; holes take no memory, however large a file says it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashes(BTreeMap<u64, Vec<Hash>>);

impl Hashes {
    pub fn at(&self, block: u64) -> Hash {
        let group = self.0.get(&(block / GROUP));
        group.and_then(|group| group.get((block % GROUP) as usize)).copied().unwrap_or(ZEROS)
    }

    pub fn set(&mut self, block: u64, hash: Hash) {
        let (index, within) = (block / GROUP, (block % GROUP) as usize);
        if hash == ZEROS && self.0.get(&index).is_none_or(|group| group.len() <= within) {
            return;
        }
        let group = self.0.entry(index).or_default();
        if group.len() <= within {
            group.resize(within + 1, ZEROS);
        }
        group[within] = hash;
    }

    /// Forgets all but the first `blocks`.
    pub fn truncate(&mut self, blocks: u64) {
        drop(self.0.split_off(&blocks.div_ceil(GROUP)));
        if !blocks.is_multiple_of(GROUP)
            && let Some(last) = self.0.get_mut(&(blocks / GROUP))
        {
            last.truncate((blocks % GROUP) as usize);
        }
    }

    /// The first block from `from` on and before `end` that is not known to be zeros.
    pub fn next_content(&self, from: u64, end: u64) -> Option<u64> {
        self.0.range(from / GROUP..).take_while(|(index, _)| *index * GROUP < end).find_map(|(index, group)| {
            let first = index * GROUP;
            let within = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
            let found = group.get(within..)?.iter().position(|hash| *hash != ZEROS)?;
            Some(first + (within + found) as u64).filter(|block| *block < end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_where_there_is_something() {
        let mut hashes = Hashes::default();
        hashes.set(1 << 28, ZEROS);
        assert!(hashes.0.is_empty(), "zeros take no memory");
        for block in [3, 255, 256, 100_000] {
            hashes.set(block, [block as u8; 16]);
        }
        assert_eq!((hashes.at(3), hashes.at(4), hashes.at(1 << 40)), ([3; 16], ZEROS, ZEROS));
        // 256 as a byte is the name of zeros.
        assert_eq!(hashes.next_content(0, u64::MAX), Some(3));
        assert_eq!(hashes.next_content(4, u64::MAX), Some(255));
        assert_eq!(hashes.next_content(256, u64::MAX), Some(100_000));
        assert_eq!((hashes.next_content(4, 255), hashes.next_content(100_001, u64::MAX)), (None, None));
        hashes.set(u64::MAX / BLOCK as u64, [9; 16]);
        assert_eq!(hashes.0.len(), 3, "a hole takes no memory");
        hashes.truncate(255);
        assert_eq!((hashes.at(3), hashes.at(255), hashes.at(100_000)), ([3; 16], ZEROS, ZEROS));
    }

    #[test]
    fn zeros_of_any_length_have_one_name_and_nothing_else_has_it() {
        assert_eq!((of(&[0; BLOCK]), of(&[0; 7])), (ZEROS, ZEROS));
        assert_ne!(of(&[1; 7]), of(&[1; 8]));
    }
}
