//! What a container wrote shortly before it was frozen: it will soon use that again.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::pages::PageSet;
use crate::record::Run;

/// The most runs that are noted of a round: whoever writes more than that writes everywhere.
const MOST: usize = 1 << 18;

/// What was written in the last two rounds, by process. Nothing of the first one, which brings everything.
#[derive(Default)]
pub(crate) struct Recent {
    rounds: usize,
    noted: usize,
    last: BTreeMap<u64, Vec<Range<u64>>>,
    before: BTreeMap<u64, Vec<Range<u64>>>,
}

impl Recent {
    /// These pages have come.
    pub fn note(&mut self, id: u64, runs: &[Run]) {
        if self.rounds > 0 && self.noted < MOST {
            self.noted += runs.len();
            self.last.entry(id).or_default().extend(runs.iter().map(|run| run.address..run.end()));
        }
    }

    /// A round has ended.
    pub fn mark(&mut self) {
        self.rounds += 1;
        self.noted = 0;
        self.before = std::mem::take(&mut self.last);
    }

    /// Those of a process, the very last at the end.
    pub fn take(&mut self, id: u64) -> Vec<Range<u64>> {
        let [before, last] = [&mut self.before, &mut self.last].map(|runs| runs.remove(&id).unwrap_or_default());
        let last = PageSet::of(last);
        let before = PageSet::of(before).without(&last);
        [before.runs(), last.runs()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_rounds_are_recent_and_never_the_first() {
        let mut recent = Recent::default();
        let run = |address| [Run { address, pages: 2 }];
        for round in 0..4 {
            recent.note(7, &run(round * 0x10000));
            recent.mark();
        }
        recent.note(7, &run(0x70000));
        recent.note(8, &run(0x90000));
        assert_eq!(recent.take(7), [0x30000..0x32000, 0x70000..0x72000]);
        assert_eq!(recent.take(8), std::slice::from_ref(&(0x90000..0x92000)));
        let mut recent = Recent::default();
        recent.note(7, &run(0));
        recent.mark();
        assert!(recent.take(7).is_empty());
    }

    #[test]
    fn a_peer_that_writes_for_ever_takes_no_more_memory() {
        let mut recent = Recent::default();
        recent.mark();
        for _ in 0..3 * MOST {
            recent.note(7, &[Run { address: 0, pages: 1 }]);
        }
        assert_eq!(recent.last[&7].len(), MOST);
        assert_eq!(recent.take(7), std::slice::from_ref(&(0..4096)));
    }
}
