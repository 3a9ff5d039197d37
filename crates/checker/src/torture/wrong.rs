//! What was found wrong, in a form that crosses from a forked child, where nothing can be allocated.

use std::fmt;

use clap::ValueEnum;

use crate::torture::kind::Kind;

/// How many words it has.
pub const WORDS: usize = 6;
/// Stands for what is wanted where a page must not be readable at all.
const UNREADABLE: u64 = u64::MAX;

/// A word that is not as it must be, or is there though it must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    pub kind: Kind,
    pub address: u64,
    pub page: u64,
    pub generation: u32,
    pub found: u64,
    /// What must be there; nothing when it must not be readable.
    pub wanted: Option<u64>,
}

impl Wrong {
    /// As words. No word that is wanted is [`UNREADABLE`]: it would be one chance in 2^63.
    pub fn words(&self) -> [u64; WORDS] {
        let generation = self.generation.into();
        [self.kind as u64, self.address, self.page, generation, self.found, self.wanted.unwrap_or(UNREADABLE)]
    }

    /// From words, if they are those of something wrong.
    pub fn from_words(words: [u64; WORDS]) -> Option<Self> {
        let [kind, address, page, generation, found, wanted] = words;
        let kind = *Kind::value_variants().get(usize::try_from(kind).ok()?)?;
        let wanted = Some(wanted).filter(|wanted| *wanted != UNREADABLE);
        Some(Self { kind, address, page, generation: u32::try_from(generation).ok()?, found, wanted })
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, address, page, generation, found, wanted } = self;
        match wanted {
            Some(wanted) => write!(formatter, "{found:#x} instead of {wanted:#x}")?,
            None => formatter.write_str("something readable where nothing must be")?,
        }
        write!(formatter, " at {address:#x} (kind {kind}, page {page}, generation {generation})")
    }
}
