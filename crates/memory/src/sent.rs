//! What the target has of a process: the names of the pages' contents, in bounded memory.

use std::collections::BTreeMap;

use drover_model::PageCount;

use crate::hash::ZEROS;

const PAGE: u64 = PageCount::PAGE;
/// Pages whose names are kept side by side: 2 MiB of memory.
const CHUNK: u64 = 512;
/// The most chunks of all processes: 32 MiB of names, for 8 GiB of memory. What is beyond is sent whenever it was
/// written.
pub(crate) const ROOM: usize = 4096;

/// The pages of one process.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Names by the number of the chunk; zeros where nothing was sent.
    chunks: BTreeMap<u64, Box<[u128]>>,
    /// Whether the target may have pages whose names are not kept.
    forgetful: bool,
}

impl Sent {
    /// For a process whose pages the target may have from another one.
    pub fn after_another() -> Self {
        Self { forgetful: true, ..Self::default() }
    }

    /// Notes that the target gets a page of this name. Whether it lacks it. `room` is how many more chunks there may be.
    pub fn lacks(&mut self, address: u64, name: u128, room: &mut usize) -> bool {
        let page = address / PAGE;
        let (chunk, index) = (page / CHUNK, (page % CHUNK) as usize);
        if !self.chunks.contains_key(&chunk) {
            if *room == 0 {
                self.forgetful = true;
                return true;
            }
            *room -= 1;
            self.chunks.insert(chunk, vec![ZEROS; CHUNK as usize].into());
        }
        let known = self.chunks.get_mut(&chunk).and_then(|chunk| chunk.get_mut(index));
        known.is_none_or(|known| std::mem::replace(known, name) != name)
    }

    /// Notes that a page has become zero. Whether the target may have something else there.
    pub fn lacks_zero(&mut self, address: u64) -> bool {
        let page = address / PAGE;
        let known = self.chunks.get_mut(&(page / CHUNK)).and_then(|chunk| chunk.get_mut((page % CHUNK) as usize));
        match known {
            Some(known) => std::mem::replace(known, ZEROS) != ZEROS || self.forgetful,
            None => self.forgetful,
        }
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_lacked_once() {
        let (mut sent, mut room) = (Sent::default(), 8);
        assert!(!sent.lacks_zero(0x5000), "nothing was sent");
        assert!(sent.lacks(0x5000, 7, &mut room));
        assert!(!sent.lacks(0x5000, 7, &mut room));
        assert!(sent.lacks(0x5000, 8, &mut room));
        assert!(sent.lacks_zero(0x5000));
        assert!(!sent.lacks_zero(0x5000));
        assert!(sent.lacks(0x5000, 8, &mut room));
        assert_eq!((sent.chunks(), room), (1, 7));
    }

    #[test]
    fn zeros_are_said_to_a_target_that_may_have_something_there() {
        let mut room = 1;
        let mut sent = Sent::after_another();
        assert!(sent.lacks_zero(0x5000));
        assert!(sent.lacks(0x5000, 7, &mut room));
        assert!(sent.lacks_zero(0x6000), "a neighbour may be another's");
    }

    #[test]
    fn what_there_is_no_room_for_is_always_lacked() {
        let (mut sent, mut room) = (Sent::default(), 1);
        assert!(sent.lacks(0, 7, &mut room));
        for _ in 0..2 {
            assert!(sent.lacks(CHUNK * PAGE, 7, &mut room));
            assert!(sent.lacks_zero(CHUNK * PAGE));
        }
        assert!(!sent.lacks(0, 7, &mut room));
    }
}
