//! Every kind of block keeps what it should, and finds what it did not keep.

use super::*;

impl Block {
    /// Flips a bit of a page.
    pub fn spoil(&mut self, page: usize) {
        let index = (self.lead + page) * PAGE_WORDS + 9;
        self.memory.write(index, self.memory.read(index).0 ^ 1 << 33);
    }

    /// Says that it is of another kind.
    pub fn pretend(&mut self, kind: Kind) {
        self.kind = kind;
    }
}

/// One block of every kind that this machine has.
fn blocks(pages: usize) -> Vec<Block> {
    let file = PageFile::new().unwrap();
    let kinds = Kind::USUAL.into_iter().filter(|kind| kind.is_memory()).chain([Kind::Direct, Kind::Locked]);
    let mut blocks: Vec<_> = kinds.map(|kind| Block::new(kind, 7, 5, pages, &file).unwrap()).collect();
    blocks.extend(Block::new(Kind::Huge, 7, 5, 512, &file));
    blocks
}

#[test]
fn a_single_wrong_bit_is_found_in_memory_of_every_kind() {
    for mut block in blocks(4) {
        let kind = block.kind();
        block.check_all().unwrap();
        [1, 2, 2].into_iter().for_each(|page| block.write(page));
        block.check_all().unwrap();
        for page in [0, 2] {
            block.spoil(page);
            let wrong = block.check_all().unwrap_err();
            assert_eq!((wrong.kind, wrong.page), (kind, 5 + page as u64), "{wrong}");
            assert_eq!(Wrong::from_words(wrong.words()), Some(wrong));
            block.clear(page);
            block.check_all().unwrap();
        }
    }
}

#[test]
fn memory_of_every_kind_keeps_its_pages_through_what_can_be_done_to_it() {
    for mut block in blocks(8) {
        let kind = block.kind();
        (0..8).for_each(|page| block.write(page));
        if kind.forgets() {
            block.forget(2..4).unwrap();
            assert_eq!(&block.generations[..5], [1, 1, 0, 0, 1]);
        }
        block.check_all().unwrap_or_else(|wrong| panic!("{wrong}"));
        if kind.grows() {
            block.resize(64).unwrap();
            block.check_all().unwrap();
        }
        if kind.moves() {
            block.relocate().unwrap();
            let rest = block.split_off(5).unwrap();
            block.resize(3).unwrap();
            block.check_all().unwrap_or_else(|wrong| panic!("{wrong}"));
            drop(block);
            rest.check_all().unwrap_or_else(|wrong| panic!("{wrong}"));
            assert_eq!(rest.generations[..3], [1, 1, 1]);
        } else if kind == Kind::Hidden {
            block.hide(true).unwrap();
            block.check_all_in_child().unwrap();
            block.hide(false).unwrap();
            block.check_all().unwrap();
        }
    }
}

#[test]
fn a_guard_that_is_gone_is_found() {
    let file = PageFile::new().unwrap();
    let mut block = Block::new(Kind::Guarded, 7, 0, 4, &file).unwrap();
    block.check_all().unwrap();
    let Memory::Mapped(words) = &mut block.memory else { panic!("it is mapped") };
    words.show(5..6).unwrap();
    assert_eq!(block.check_all().unwrap_err().wanted, None);
}
