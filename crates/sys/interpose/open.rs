//! Opening `/proc/PID/smaps`: for the counts in it the kernel visits every page of a process, and CRIU wants none of them.

use core::ffi::{c_char, c_int};

use super::{Question, ask, call, own_pid};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const OPENAT: i64 = 257;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const OPENAT: i64 = 56;
}
use number::OPENAT;

const ASK_MAPPINGS: u64 = 5;
/// `O_RDONLY | O_CLOEXEC`.
const READ_ONLY_CLOSE_ON_EXEC: c_int = 0x80000;
const NAME: &[u8] = b"smaps\0";
/// The most digits of a number, and room for `/proc/N/fd/N` with two of them and a zero.
const DIGITS: usize = 20;
const ROOM: usize = 64;

/// `openat(2)`: about `smaps` it is asked. The answer names a process and a descriptor in it, to be opened instead.
///
/// # Safety
/// As for the C library's function, which takes a mode where one is needed: otherwise it is never looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: u32) -> c_int {
    let mut other = Path { bytes: [0; ROOM], length: 0 };
    let (mut path, mut flags) = (path, flags);
    // SAFETY: the path is the caller's, and ends with a zero.
    if unsafe { is_smaps(path) } {
        let mut question: Question = [0; 16];
        question[..3].copy_from_slice(&[ASK_MAPPINGS, own_pid(), directory as u64]);
        if let Some([_, owner, descriptor, _]) = ask(&question) {
            other.text(b"/proc/");
            other.number(owner);
            other.text(b"/fd/");
            other.number(descriptor);
            // A link, whatever the caller says of links.
            (path, flags) = (other.bytes.as_ptr().cast(), READ_ONLY_CLOSE_ON_EXEC);
        }
    }
    // SAFETY: the arguments are the caller's, or the path is ours and alive.
    unsafe { call(OPENAT, [directory as u64, path as u64, flags as u64, mode.into(), 0, 0]) as c_int }
}

/// The same under the name that it has in programs that were not built for large files.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: u32) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { openat64(directory, path, flags, mode) }
}

/// # Safety
/// The path ends with a zero.
unsafe fn is_smaps(path: *const c_char) -> bool {
    // SAFETY: nothing behind the first difference is looked at, and the zero is one at the latest.
    !path.is_null() && NAME.iter().enumerate().all(|(at, byte)| unsafe { path.add(at).read() } as u8 == *byte)
}

/// A path that is put together; what is behind it are zeros, and there is room for the longest that it can be. (Nothing
/// here may panic: what that would call is not in the library.)
struct Path {
    bytes: [u8; ROOM],
    length: usize,
}

impl Path {
    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn text(&mut self, text: &[u8]) {
        text.iter().for_each(|byte| self.byte(*byte));
    }

    fn number(&mut self, number: u64) {
        let (mut digits, mut count, mut rest) = ([0; DIGITS], 0, number);
        for digit in &mut digits {
            *digit = b'0' + (rest % 10) as u8;
            count += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        digits.iter().take(count).rev().for_each(|digit| self.byte(*digit));
    }
}
