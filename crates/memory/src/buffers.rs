//! Buffers of one length that are used again: fresh memory costs more than what is done with it.

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Where buffers come from, and go back to.
#[derive(Debug, Clone)]
pub struct Buffers {
    length: usize,
    most: usize,
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl Buffers {
    /// Buffers of this length, of which at most so many are kept while nobody uses them.
    #[must_use]
    pub fn new(length: usize, most: usize) -> Self {
        Self { length, most, free: Arc::default() }
    }

    /// A buffer with anything in it. How many are out at one time is bounded by who takes them.
    #[must_use]
    pub fn take(&self) -> Buffer {
        let used = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { bytes: used.unwrap_or_else(|| vec![0; self.length].into()), home: self.clone() }
    }
}

/// A buffer; dropped, it goes back.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    home: Buffers,
}

impl Buffer {
    /// A part of it, to be shared. It goes back when the last share has been dropped.
    #[must_use]
    pub fn share(self, part: Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(part)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.home.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.home.most {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_its_last_share_has_gone() {
        let buffers = Buffers::new(8, 1);
        let mut first = buffers.take();
        first.fill(7);
        let share = first.share(2..6);
        let other = share.slice(1..2);
        assert_eq!((&share[..], &other[..]), (&[7; 4][..], &[7][..]));
        assert!(buffers.take().iter().all(|byte| *byte == 0), "the first one is still in use");
        drop((share, other));
        // Two came back, and one is kept.
        let kept: Vec<Buffer> = (0..2).map(|_| buffers.take()).collect();
        assert_eq!(kept.iter().filter(|buffer| buffer.contains(&7)).count(), 0);
        let mut last = buffers.take();
        last.fill(9);
        drop((kept, last));
    }
}
