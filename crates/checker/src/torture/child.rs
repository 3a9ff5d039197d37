//! Forked children that look at the memory they have from their parent, while it goes on to write.

use std::io;
use std::time::Duration;

use drover_sys::fork::fork;
use drover_sys::words::{Sharing, Words};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::torture::block::Block;
use crate::torture::wrong::{self, Wrong};

/// The status of a child that found something wrong.
const FOUND: u8 = 1;
/// Pages that the parent writes while the child looks.
const WRITES: usize = 32;

/// Forks a child that looks at all blocks, `linger`s and looks again, and writes a page that is shared. Meanwhile the
/// parent writes pages that are not: those, the child sees as they were. Returns how many pages were written.
pub fn visit(blocks: &mut [Block], chance: &mut SmallRng, linger: Duration) -> Result<u64, String> {
    let failed = |error: io::Error| format!("cannot fork: {error}");
    let mut slate = Words::anonymous(1, Sharing::Shared).map_err(failed)?;
    let shared = blocks.iter().enumerate().filter(|(_, block)| block.kind().is_shared());
    let gift = shared.map(|(at, block)| (at, chance.random_range(0..block.pages()))).next_back();
    let child = fork(|| {
        let looked = look(blocks).and_then(|()| {
            if let Some((at, page)) = gift {
                blocks[at].write(page);
            }
            std::thread::sleep(linger);
            look(blocks)
        });
        let Err(wrong) = looked else { return 0 };
        wrong.words().into_iter().enumerate().for_each(|(index, word)| slate.write(index, word));
        FOUND
    });
    let child = child.map_err(failed)?;
    let mut written = 0;
    for _ in 0..WRITES.min(blocks.len() * WRITES) {
        let at = chance.random_range(0..blocks.len());
        let block = &mut blocks[at];
        if !block.kind().is_shared() && !block.is_hidden() {
            block.write(chance.random_range(0..block.pages()));
            written += 1;
        }
    }
    let status = child.wait().map_err(failed)?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(0) => {}
        Some(FOUND) => {
            let words: [u64; wrong::WORDS] = std::array::from_fn(|index| slate.read(index));
            let wrong = Wrong::from_words(words).map_or_else(|| format!("{words:x?}"), |wrong| wrong.to_string());
            return Err(format!("in a forked child: {wrong}"));
        }
        _ => return Err(format!("a forked child ended with {status}")),
    }
    if let Some((at, page)) = gift {
        blocks[at].was_written(page);
        blocks[at].check(page).map_err(|wrong| format!("after a forked child wrote: {wrong}"))?;
        written += 1;
    }
    Ok(written)
}

fn look(blocks: &[Block]) -> Result<(), Wrong> {
    blocks.iter().try_for_each(Block::check_all_in_child)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::torture::file::PageFile;
    use crate::torture::kind::Kind;

    fn visit_one(block: Block) -> Result<u64, String> {
        visit(&mut [block], &mut SmallRng::seed_from_u64(1), Duration::from_millis(1))
    }

    #[test]
    fn a_forked_child_sees_what_its_parent_had_and_reports_what_it_did_not() {
        let file = PageFile::new().unwrap();
        for kind in Kind::USUAL.into_iter().filter(|kind| kind.is_memory()) {
            let new = || {
                let mut block = Block::new(kind, 3, 0, 4, &file).unwrap();
                [1, 2].into_iter().for_each(|page| block.write(page));
                block
            };
            visit_one(new()).unwrap_or_else(|wrong| panic!("{kind}: {wrong}"));
            let mut spoilt = new();
            spoilt.spoil(2);
            let seen = visit_one(spoilt);
            // The one it does not have, and the other is zero for it.
            let blind = matches!(kind, Kind::DontFork | Kind::WipeOnFork);
            assert_eq!(seen.is_ok(), blind, "{kind}: {seen:?}");
            if let Err(wrong) = seen {
                assert!(wrong.starts_with("in a forked child: ") && wrong.contains("page 2"), "{wrong}");
            }
        }
    }

    #[test]
    fn a_forked_child_reports_what_it_should_not_have() {
        let file = PageFile::new().unwrap();
        for (kind, complaint) in [(Kind::DontFork, "something readable"), (Kind::WipeOnFork, "instead of 0x0")] {
            // Memory that nobody has told the kernel about.
            let mut block = Block::new(Kind::Private, 3, 0, 4, &file).unwrap();
            block.write(1);
            block.pretend(kind);
            let wrong = visit_one(block).unwrap_err();
            assert!(wrong.contains(complaint) && wrong.contains(&format!("kind {kind}")), "{wrong}");
        }
    }
}
