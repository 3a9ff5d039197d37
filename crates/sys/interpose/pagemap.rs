//! The page map of a process, read entry by entry: what CRIU does where the kernel has no `PAGEMAP_SCAN`.
//!
//! It is asked once for each stretch of pages that are covered or are not; what is covered has no entries then. Whether
//! the descriptor is a page map at all is known to whoever answers.

use core::ffi::c_int;

use super::{Question, SHORTENED, ask, call, own_pid};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const PREAD64: i64 = 17;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const PREAD64: i64 = 67;
}
use number::PREAD64;

const ASK_ENTRIES: u64 = 6;
/// Bytes of a page, and of its entry (`Documentation/admin-guide/mm/pagemap.rst`).
const PAGE: u64 = 4096;
const ENTRY: u64 = 8;

/// `pread64(2)`: about what may be entries is asked.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(descriptor: c_int, buffer: *mut u8, length: usize, offset: i64) -> isize {
    let arguments = [descriptor as u64, buffer as u64, length as u64, offset as u64, 0, 0];
    // SAFETY: the arguments are the caller's.
    let read = unsafe { call(PREAD64, arguments) } as isize;
    let entries = read > 0 && read as u64 % ENTRY == 0 && offset as u64 % ENTRY == 0;
    if entries {
        // SAFETY: the kernel has written as much.
        unsafe { take_covered(descriptor, buffer, read as u64 / ENTRY, offset as u64 / ENTRY) };
    }
    read
}

/// Takes what is covered out of `count` entries, of the pages from number `first` on.
///
/// # Safety
/// The buffer holds so many entries.
unsafe fn take_covered(descriptor: c_int, buffer: *mut u8, count: u64, first: u64) {
    let (mut at, end) = (first, first.saturating_add(count));
    let pid = own_pid();
    while at < end {
        let mut question: Question = [0; 16];
        question[..5].copy_from_slice(&[
            ASK_ENTRIES,
            pid,
            descriptor as u64,
            at.saturating_mul(PAGE),
            end.saturating_mul(PAGE),
        ]);
        let Some([kind, _, until, _]) = ask(&question) else { return };
        let until = until / PAGE;
        if until <= at || until > end {
            return;
        }
        if kind != SHORTENED {
            // SAFETY: it is inside of what was read.
            unsafe { buffer.add(((at - first) * ENTRY) as usize).write_bytes(0, ((until - at) * ENTRY) as usize) };
        }
        at = until;
    }
}
