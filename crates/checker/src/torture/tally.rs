//! What was done, so that a test can tell whether everything was.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;
use serde::Serialize;

use crate::torture::kind::Kind;

/// What can be done in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Write a page.
    Write,
    /// Write what a page had at first.
    Clear,
    /// Give pages back (`madvise`).
    Forget,
    /// Make a block longer or shorter (`mremap`, and the allocator).
    Resize,
    /// Move a block to another address (`mremap`).
    Move,
    /// Cut a block in two, which are unmapped on their own.
    Split,
    /// Unmap a block.
    Drop,
    /// Let nobody touch a block until the next time (`mprotect`), after it was written.
    Hide,
    /// Give a block to another thread, and take one.
    Exchange,
    /// Let the stack grow.
    Dive,
    /// Let a forked child look.
    Fork,
    /// Run another program.
    Exec,
    /// Look at a whole block.
    Look,
    /// What the kernel would not do to a mapping that is in two for a moment: so it can be while writes to it begin to be
    /// followed.
    Refused,
}

impl Act {
    /// One by chance; most of them write.
    pub fn by(chance: &mut SmallRng) -> Self {
        match chance.random_range(0..1000) {
            0..860 => Self::Write,
            860..890 => Self::Clear,
            890..910 => Self::Forget,
            910..930 => Self::Resize,
            930..940 => Self::Move,
            940..945 => Self::Split,
            945..955 => Self::Drop,
            955..975 => Self::Exchange,
            975..979 => Self::Dive,
            979..981 => Self::Fork,
            981..982 => Self::Exec,
            _ => Self::Look,
        }
    }
}

/// Numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages that were looked at.
    pub looked: BTreeMap<Kind, u64>,
    /// What was done, and how often.
    pub acts: BTreeMap<Act, u64>,
    /// Pages that were written after the first ones.
    pub written: u64,
}

impl Tally {
    pub fn looked(&mut self, kind: Kind, pages: usize) {
        *self.looked.entry(kind).or_default() += pages as u64;
    }

    pub fn did(&mut self, act: Act) {
        *self.acts.entry(act).or_default() += 1;
    }

    /// Both together.
    pub fn plus(mut self, other: Self) -> Self {
        other.looked.into_iter().for_each(|(kind, pages)| *self.looked.entry(kind).or_default() += pages);
        other.acts.into_iter().for_each(|(act, times)| *self.acts.entry(act).or_default() += times);
        self.written += other.written;
        self
    }
}
