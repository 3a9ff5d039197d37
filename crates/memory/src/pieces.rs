//! Which pages of a process are where in a file: pieces that follow each other in both.

use std::collections::BTreeMap;
use std::ops::Range;

use drover_model::PageCount;

const PAGE: u64 = PageCount::PAGE;

/// Neighbouring pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// How many.
    pub pages: u64,
    /// The number of the first one in the file.
    pub slot: u64,
}

/// Pieces by the address of their first page; none overlaps another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pieces(BTreeMap<u64, Piece>);

impl Pieces {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, Piece)> {
        self.0.iter().map(|(address, piece)| (*address, *piece))
    }

    pub fn first(&self) -> Option<(u64, Piece)> {
        self.0.first_key_value().map(|(address, piece)| (*address, *piece))
    }

    /// The slot of the page at an address, and the address where its piece ends.
    pub fn at(&self, address: u64) -> Option<(u64, u64)> {
        let (start, piece) = self.0.range(..=address).next_back()?;
        let end = start + piece.pages * PAGE;
        (address < end).then(|| (piece.slot + (address - start) / PAGE, end))
    }

    /// The address of the page with a slot. It is most often the one that belongs to it from the beginning.
    pub fn find(&self, slot: u64) -> Option<u64> {
        let usual = slot * PAGE;
        if self.at(usual).is_some_and(|(found, _)| found == slot) {
            return Some(usual);
        }
        let mut pieces = self.0.iter().filter(|(_, piece)| (piece.slot..piece.slot + piece.pages).contains(&slot));
        pieces.next().map(|(start, piece)| start + (slot - piece.slot) * PAGE)
    }

    /// The first pages at or behind an address: where they begin, and how many.
    pub fn from(&self, address: u64) -> Option<(u64, u64)> {
        if let Some((_, end)) = self.at(address) {
            return Some((address, (end - address) / PAGE));
        }
        self.0.range(address..).next().map(|(start, piece)| (*start, piece.pages))
    }

    /// Where the first piece begins behind an address.
    pub fn next_after(&self, address: u64) -> Option<u64> {
        self.0.range(address + 1..).next().map(|(start, _)| *start)
    }

    /// Adds a piece where there is none. It is joined to its neighbour in front if it follows that one in both places.
    pub fn insert(&mut self, address: u64, piece: Piece) {
        if let Some((start, before)) = self.0.range_mut(..address).next_back()
            && start + before.pages * PAGE == address
            && before.slot + before.pages == piece.slot
        {
            before.pages += piece.pages;
            return;
        }
        self.0.insert(address, piece);
    }

    /// Forgets the pages in a range.
    pub fn remove(&mut self, range: Range<u64>) {
        drop(self.take(range));
    }

    /// Takes the pages in a range out.
    pub fn take(&mut self, range: Range<u64>) -> Self {
        self.split(range.start);
        self.split(range.end);
        let inside: Vec<u64> = self.0.range(range).map(|(start, _)| *start).collect();
        Self(inside.into_iter().filter_map(|start| self.0.remove_entry(&start)).collect())
    }

    /// Forgets all pages but those in the given ranges.
    pub fn keep(&mut self, ranges: &[Range<u64>]) {
        let mut kept = Self::default();
        for range in ranges {
            kept.0.extend(self.take(range.clone()).0);
        }
        *self = kept;
    }

    /// The pages in a range are at another address now, instead of what was there.
    pub fn shift(&mut self, range: Range<u64>, to: u64) {
        let (start, length) = (range.start, range.end - range.start);
        let moved = self.take(range);
        self.remove(to..to + length);
        self.0.extend(moved.0.into_iter().map(|(address, piece)| (to + (address - start), piece)));
    }

    /// Makes a piece begin at an address that is in the middle of one.
    fn split(&mut self, at: u64) {
        let Some((start, piece)) = self.0.range_mut(..at).next_back() else { return };
        let before = (at - start) / PAGE;
        if before < piece.pages {
            let rest = Piece { pages: piece.pages - before, slot: piece.slot + before };
            piece.pages = before;
            self.0.insert(at, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(list: &[(u64, u64, u64)]) -> Pieces {
        Pieces(list.iter().map(|(page, pages, slot)| (page * PAGE, Piece { pages: *pages, slot: *slot })).collect())
    }

    #[test]
    fn pieces_are_split_where_something_is_taken() {
        let mut pieces = of(&[(10, 10, 0), (30, 5, 50)]);
        let taken = pieces.take(15 * PAGE..32 * PAGE);
        assert_eq!(taken, of(&[(15, 5, 5), (30, 2, 50)]));
        assert_eq!(pieces, of(&[(10, 5, 0), (32, 3, 52)]));
        assert_eq!(pieces.at(14 * PAGE), Some((4, 15 * PAGE)));
        assert_eq!(pieces.at(15 * PAGE), None);
        assert_eq!(pieces.next_after(15 * PAGE), Some(32 * PAGE));
    }

    #[test]
    fn what_moves_keeps_its_content() {
        let mut pieces = of(&[(10, 10, 0)]);
        pieces.shift(12 * PAGE..14 * PAGE, 100 * PAGE);
        assert_eq!(pieces, of(&[(10, 2, 0), (14, 6, 4), (100, 2, 2)]));
    }

    proptest! {
        #[test]
        fn taking_is_as_for_single_pages(ranges in proptest::collection::vec((0..50_u64, 1..20_u64), 0..8)) {
            let mut pieces = of(&[(5, 20, 100), (30, 10, 7), (41, 3, 300)]);
            let before: Vec<_> = (0..80).map(|page| pieces.at(page * PAGE).map(|(slot, _)| slot)).collect();
            let mut gone = [false; 80];
            for (page, pages) in ranges {
                pieces.remove(page * PAGE..(page + pages) * PAGE);
                gone[page as usize..(page + pages) as usize].fill(true);
            }
            for page in 0..80 {
                let wanted = before[page].filter(|_| !gone[page]);
                prop_assert_eq!(pieces.at(page as u64 * PAGE).map(|(slot, _)| slot), wanted);
            }
        }
    }
}
