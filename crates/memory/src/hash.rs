//! A short name for a page's content: two pages of the same name are taken for equal.
//!
//! XXH3 of 128 bits is no defence against somebody who looks for two contents of one name. The seed, which is drawn anew
//! for each move, keeps that from being prepared; and whoever succeeded would only have spoilt memory of his own.

use drover_model::PageCount;
use twox_hash::XxHash3_128;

/// The name of a page of zeros.
pub(crate) const ZEROS: u128 = 0;

/// Names contents.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    seed: u64,
}

impl Names {
    /// Names of one kind: those of another seed say nothing about these.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The name of a content; never zero.
    #[must_use]
    pub fn of(self, content: &[u8]) -> u128 {
        XxHash3_128::oneshot_with_seed(self.seed, content).max(1)
    }

    /// The name of a page, by which zeros are known.
    pub(crate) fn of_page(self, page: &[u8]) -> u128 {
        const PAGE_OF_ZEROS: [u8; PageCount::PAGE as usize] = [0; PageCount::PAGE as usize];
        if page == PAGE_OF_ZEROS { ZEROS } else { self.of(page) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_that_differ_in_one_bit_have_other_names() {
        let mut page = [7; 4096];
        let names = Names::new(5);
        let name = names.of(&page);
        assert_eq!(name, names.of(&page));
        assert_ne!(name, Names::new(6).of(&page));
        page[4095] ^= 1;
        assert_ne!(name, names.of(&page));
        assert_eq!((names.of_page(&page), names.of_page(&[0; 4096])), (names.of(&page), ZEROS));
    }
}
