//! Sets of pages, kept as runs.

use std::ops::Range;

use drover_model::PageCount;

const PAGE: u64 = PageCount::PAGE;

/// Pages by their addresses: runs in ascending order, none empty, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PageSet(Vec<Range<u64>>);

impl PageSet {
    /// From runs in any order, which may overlap.
    pub fn of(mut runs: Vec<Range<u64>>) -> Self {
        runs.retain(|run| run.start < run.end);
        runs.sort_unstable_by_key(|run| run.start);
        let mut set: Vec<Range<u64>> = Vec::with_capacity(runs.len());
        for run in runs {
            match set.last_mut() {
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => set.push(run),
            }
        }
        Self(set)
    }

    pub fn runs(&self) -> &[Range<u64>] {
        &self.0
    }

    /// How many pages.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|run| (run.end - run.start) / PAGE).sum()
    }

    /// The pages in both.
    pub fn and(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(one), Some(two)) = (a.peek(), b.peek()) {
            let (start, end) = (one.start.max(two.start), one.end.min(two.end));
            if start < end {
                both.push(start..end);
            }
            if one.end < two.end {
                a.next()
            } else {
                b.next()
            };
        }
        Self(both)
    }

    /// The pages in either.
    pub fn or(self, other: Self) -> Self {
        let mut runs = self.0;
        runs.extend(other.0);
        Self::of(runs)
    }

    /// The pages that are not in the other.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut holes = other.0.iter().peekable();
        for run in &self.0 {
            let mut start = run.start;
            while let Some(hole) = holes.peek().filter(|hole| hole.start < run.end) {
                if hole.start > start {
                    rest.push(start..hole.start);
                }
                start = start.max(hole.end);
                if hole.end > run.end {
                    break;
                }
                holes.next();
            }
            if start < run.end {
                rest.push(start..run.end);
            }
        }
        Self(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = Vec<Range<u64>>> {
        let run = (0..60_u64, 0..9_u64).prop_map(|(start, length)| start * PAGE..(start + length) * PAGE);
        proptest::collection::vec(run, 0..12)
    }

    fn listed(runs: &[Range<u64>]) -> BTreeSet<u64> {
        runs.iter().flat_map(|run| run.clone().step_by(PAGE as usize)).collect()
    }

    fn check(set: &PageSet, pages: &BTreeSet<u64>) {
        assert_eq!(&listed(set.runs()), pages);
        assert_eq!(set.count(), pages.len() as u64);
        assert!(set.0.iter().all(|run| run.start < run.end));
        assert!(set.0.windows(2).all(|pair| pair[0].end <= pair[1].start), "{set:?}");
    }

    proptest! {
        #[test]
        fn sets_of_runs_are_sets(a in runs(), b in runs()) {
            let (one, two) = (listed(&a), listed(&b));
            let (a, b) = (PageSet::of(a), PageSet::of(b));
            check(&a, &one);
            check(&a.and(&b), &(&one & &two));
            check(&a.without(&b), &(&one - &two));
            check(&a.or(b), &(&one | &two));
        }
    }
}
