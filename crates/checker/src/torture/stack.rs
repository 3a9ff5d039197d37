//! Stacks that grow, and check their frames on the way back.

use std::hint::black_box;

use drover_sys::words::PAGE_WORDS;

use crate::torture::block::word;
use crate::torture::kind::Kind;
use crate::torture::wrong::Wrong;

type Frame = [u64; PAGE_WORDS];

/// Goes down by as many frames of a page each, calls `bottom` there, and looks at each frame on the way back.
#[inline(never)]
pub fn dive(frames: usize, seed: u64, bottom: &mut dyn FnMut()) -> Result<(), Wrong> {
    let mut frame: Frame = [0; PAGE_WORDS];
    frame.iter_mut().enumerate().for_each(|(index, found)| *found = word(seed, frames, 1, index));
    // Nobody knows any longer what is in it.
    let frame = black_box(&mut frame);
    if frames > 1 {
        dive(frames - 1, seed, bottom)?
    } else {
        bottom()
    }
    check(black_box(frame), frames, seed)
}

fn check(frame: &Frame, depth: usize, seed: u64) -> Result<(), Wrong> {
    let words = frame.iter().enumerate().map(|(index, found)| (found, *found, word(seed, depth, 1, index)));
    let wrong = words.into_iter().find(|(_, found, wanted)| found != wanted);
    wrong.map_or(Ok(()), |(place, found, wanted)| {
        let address = std::ptr::from_ref(place) as u64;
        Err(Wrong { kind: Kind::Stack, address, page: depth as u64, generation: 1, found, wanted: Some(wanted) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_looked_at_and_a_wrong_bit_is_found() {
        let mut bottoms = 0;
        dive(100, 3, &mut || bottoms += 1).unwrap();
        assert_eq!(bottoms, 1);
        let mut frame: Frame = std::array::from_fn(|index| word(3, 9, 1, index));
        check(&frame, 9, 3).unwrap();
        frame[77] ^= 1;
        assert_eq!(check(&frame, 9, 3).unwrap_err().kind, Kind::Stack);
    }
}
