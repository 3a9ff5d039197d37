//! How a process's mappings have changed, in the order in which it happened.
//!
//! The kernel tells of each change by an event, and the thread that made it waits until the event has been read. Between
//! the change and its event the thread may be interrupted: an address that it has left, another thread may take meanwhile,
//! and be heard first. Nothing can be put anywhere until every event has been read, and then the mappings themselves say
//! which way round it was.

use std::ops::Range;

/// What a thread did to mappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// They are somewhere else (`mremap(2)`).
    Moved {
        /// Where they were.
        from: Range<u64>,
        /// Where they begin now.
        to: u64,
    },
    /// They are no more (`munmap(2)`).
    Gone(Range<u64>),
    /// They are zero when they are next looked at (`madvise(2)`).
    Emptied(Range<u64>),
}

impl Change {
    /// Where no mapping was right after it.
    fn leaves(&self) -> Option<&Range<u64>> {
        match self {
            Self::Moved { from, .. } | Self::Gone(from) => Some(from),
            Self::Emptied(_) => None,
        }
    }

    /// Where no mapping was right before it.
    fn takes(&self) -> Option<Range<u64>> {
        match self {
            Self::Moved { from, to } => Some(*to..to + (from.end - from.start)),
            Self::Gone(_) | Self::Emptied(_) => None,
        }
    }

    /// What is not where it was.
    pub fn affected(&self) -> &Range<u64> {
        match self {
            Self::Moved { from: range, .. } | Self::Gone(range) | Self::Emptied(range) => range,
        }
    }

    /// Whether it had happened when a child was forked. `is_mapped` says what the child has; where that tells nothing,
    /// it is as the two were `told`.
    pub fn precedes_fork(&self, is_mapped: impl Fn(u64) -> Option<bool>, told: bool) -> bool {
        match self {
            Self::Moved { to, .. } => is_mapped(*to).unwrap_or(told),
            Self::Gone(range) => is_mapped(range.start).map_or(told, |mapped| !mapped),
            Self::Emptied(_) => told,
        }
    }
}

/// Where one leaves what the other takes.
fn contested(leaving: &Change, taking: &Change) -> Option<u64> {
    let (left, taken) = (leaving.leaves()?, taking.takes()?);
    let start = left.start.max(taken.start);
    (start < left.end.min(taken.end)).then_some(start)
}

/// Whether the second one of two changes, as they were told, happened first; `None` when `is_mapped` does not know.
fn are_exchanged(first: &Change, second: &Change, is_mapped: &impl Fn(u64) -> Option<bool>) -> Option<bool> {
    // Where a mapping is now, whoever took the place came after whoever left it.
    match (contested(first, second), contested(second, first)) {
        (Some(at), _) => is_mapped(at).map(|mapped| !mapped),
        (None, Some(at)) => is_mapped(at),
        (None, None) => Some(false),
    }
}

/// Puts changes into the order in which they happened, where that matters. That is the one in which they were told, unless
/// it cannot be: `is_mapped` knows of an address whether a mapping is there now that they have all happened. (Where one
/// address is taken and left by three threads that all wait for their events to be read there may be several possible ones.)
///
/// `None` when `is_mapped` does not know.
pub(super) fn in_order(told: Vec<Change>, is_mapped: impl Fn(u64) -> Option<bool>) -> Option<Vec<Change>> {
    let told = once(told);
    if is_possible(&told, &is_mapped)? {
        return Some(told);
    }
    let exchanged = exchange(told.clone(), &is_mapped)?;
    Some(if is_possible(&exchanged, &is_mapped)? { exchanged } else { told })
}

/// Of what has moved the kernel also says that it is gone from where it was, which says nothing more.
fn once(mut told: Vec<Change>) -> Vec<Change> {
    let mut moved = Vec::new();
    let is_new = |change: &Change| {
        match change {
            Change::Moved { from, .. } => moved.push(from.clone()),
            Change::Gone(range) => {
                if let Some(known) = moved.iter().position(|known| known == range) {
                    moved.remove(known);
                    return false;
                }
            }
            Change::Emptied(_) => {}
        }
        true
    };
    told.retain(is_new);
    told
}

/// Whether changes can have happened in this order: nobody takes a place that another one has taken and not left, and who
/// has taken one last is there.
fn is_possible(changes: &[Change], is_mapped: &impl Fn(u64) -> Option<bool>) -> Option<bool> {
    let places = changes.iter().flat_map(|taking| changes.iter().filter_map(|leaving| contested(leaving, taking)));
    for place in places {
        let mut taken = false;
        for change in changes {
            if change.takes().is_some_and(|range| range.contains(&place)) {
                if taken {
                    return Some(false);
                }
                taken = true;
            } else if change.leaves().is_some_and(|range| range.contains(&place)) {
                taken = false;
            }
        }
        if taken != is_mapped(place)? {
            return Some(false);
        }
    }
    Some(true)
}

/// The same changes, but whoever took a place comes after whoever left it where a mapping is now, and before elsewhere. What
/// was done to it after that follows whoever took it; all others stay in the order in which they were told.
fn exchange(mut changes: Vec<Change>, is_mapped: &impl Fn(u64) -> Option<bool>) -> Option<Vec<Change>> {
    let count = changes.len();
    let pairs = || (0..count).flat_map(|first| (first + 1..count).map(move |second| (first, second)));
    let mut order = Order::of(count);
    for (first, second) in pairs() {
        if are_exchanged(&changes[first], &changes[second], is_mapped)? {
            order.put(second, first);
        }
    }
    for (first, second) in pairs() {
        if touch(&changes[first], &changes[second]) {
            order.put(first, second);
        }
    }
    let ranks: Vec<usize> = (0..count).map(|index| order.before(index)).collect();
    let mut ranks = ranks.into_iter();
    changes.sort_by_cached_key(|_| ranks.next());
    Some(changes)
}

/// Which of some things come before which.
struct Order(Vec<Vec<bool>>);

impl Order {
    fn of(count: usize) -> Self {
        Self(vec![vec![false; count]; count])
    }

    /// Puts one before another, and all that is before it before all that is behind that one; unless it is behind it.
    fn put(&mut self, before: usize, behind: usize) {
        let Self(is_before) = self;
        if is_before[behind][before] {
            return;
        }
        let behind: Vec<bool> =
            is_before[behind].iter().enumerate().map(|(other, is_behind)| *is_behind || other == behind).collect();
        for (first, is_before) in is_before.iter_mut().enumerate() {
            if first == before || is_before[before] {
                is_before.iter_mut().zip(&behind).for_each(|(is_before, is_behind)| *is_before |= is_behind);
            }
        }
    }

    /// How many come before one.
    fn before(&self, index: usize) -> usize {
        self.0.iter().filter(|is_before| is_before[index]).count()
    }
}

/// Whether it matters which of the two was first.
fn touch(one: &Change, other: &Change) -> bool {
    let ranges = |change: &Change| [Some(change.affected().clone()), change.takes()];
    let overlap = |one: &Range<u64>, other: &Range<u64>| one.start < other.end && other.start < one.end;
    ranges(one).iter().flatten().any(|range| ranges(other).iter().flatten().any(|with| overlap(range, with)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const A: Range<u64> = 0..10;
    const X: Range<u64> = 100..110;
    const B: u64 = 200;

    fn moved(from: Range<u64>, to: u64) -> Change {
        Change::Moved { from, to }
    }

    #[test]
    fn who_takes_an_address_comes_behind_who_left_it() {
        let (leave, take) = (Change::Gone(X), moved(A, X.start));
        for told in [[leave.clone(), take.clone()], [take.clone(), leave.clone()]] {
            assert_eq!(in_order(told.to_vec(), |_| Some(true)).unwrap(), [leave.clone(), take.clone()]);
            // Or it was taken first, and left then.
            assert_eq!(in_order(told.to_vec(), |_| Some(false)).unwrap(), [take.clone(), leave.clone()]);
            assert_eq!(in_order(told.to_vec(), |_| None), None);
        }
        // One moves on, and the next one comes behind it.
        let (on, behind) = (moved(X, B), moved(A, X.start));
        let ordered = in_order(vec![behind.clone(), on.clone()], |at| Some(X.contains(&at))).unwrap();
        assert_eq!(ordered, [on, behind.clone()]);
        // What has moved is told to be gone from where it was, too.
        let (from, to) = (Change::Gone(A), Change::Gone(X));
        let ordered = in_order(vec![behind.clone(), from, to.clone()], |at| Some(X.contains(&at))).unwrap();
        assert_eq!(ordered, [to, behind]);
    }

    #[test]
    fn what_was_told_is_believed_where_it_can_be() {
        // A place is left, taken, and left again.
        let told = vec![moved(A, X.start), moved(B..B + 10, A.start), Change::Gone(A), Change::Gone(A)];
        let ordered = in_order(told.clone(), |at| Some(X.contains(&at))).unwrap();
        assert_eq!(ordered, [told[0].clone(), told[1].clone(), told[3].clone()]);
    }

    #[test]
    fn what_was_done_to_what_took_a_place_follows_it() {
        // Of who left the place it is told last.
        let (take, leave) = (moved(B..B + 10, A.start), moved(A, X.start));
        for done in [Change::Emptied(2..4), Change::Gone(5..10)] {
            let told = vec![take.clone(), done.clone(), leave.clone()];
            let is_mapped = |at| Some(at < 5 || X.contains(&at));
            assert_eq!(in_order(told, is_mapped).unwrap(), [leave.clone(), take.clone(), done]);
        }
    }

    #[test]
    fn a_child_has_what_had_happened() {
        let take = moved(A, X.start);
        let has = |range: Range<u64>| move |at: u64| Some(range.contains(&at));
        assert!(take.precedes_fork(has(X), false) && !take.precedes_fork(has(A), true));
        assert!(Change::Gone(X).precedes_fork(has(A), false) && !Change::Gone(X).precedes_fork(has(X), true));
        assert!(take.precedes_fork(|_| None, true) && !Change::Emptied(A).precedes_fork(has(A), false));
    }

    /// What is where, after one more change; places are of one address each.
    fn carry_out(memory: &mut BTreeMap<u64, u64>, change: &Change) {
        let content = memory.remove(&change.affected().start);
        if let (Change::Moved { to, .. }, Some(content)) = (change, content) {
            memory.insert(*to, content);
        }
    }

    proptest! {
        #[test]
        fn however_it_is_told_it_happened_once(
            wishes in proptest::collection::vec((0..12_u64, 0..12_u64, any::<bool>()), 1..6),
            shuffle in proptest::collection::vec(any::<u32>(), 6),
        ) {
            let before: BTreeMap<u64, u64> = (0..6).map(|place| (place, place + 1000)).collect();
            let (mut after, mut happened, mut taken) = (before.clone(), Vec::new(), Vec::new());
            for (from, to, goes) in wishes {
                let change = if goes { Change::Gone(from..from + 1) } else { moved(from..from + 1, to) };
                // Nobody does anything with what another thread has not been told of yet, and no address is taken twice.
                let possible = after.contains_key(&from) && !taken.contains(&from);
                if possible && (goes || !after.contains_key(&to) && !taken.contains(&to)) {
                    carry_out(&mut after, &change);
                    taken.extend(change.takes().map(|range| range.start));
                    // The kernel says of what has moved that it is gone, too.
                    happened.push([Some(change.clone()), (!goes).then(|| Change::Gone(from..from + 1))]);
                }
            }
            let mut told: Vec<(u32, _)> = shuffle.into_iter().zip(happened).collect();
            told.sort_by_key(|(chance, _)| *chance);
            let told = told.into_iter().flat_map(|(_, changes)| changes.into_iter().flatten()).collect();
            let mut found = before;
            for change in in_order(told, |at| Some(after.contains_key(&at))).unwrap() {
                carry_out(&mut found, &change);
            }
            prop_assert_eq!(found, after);
        }
    }
}
