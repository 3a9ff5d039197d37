//! A library that is loaded into another program before its own ones: it asks about some of the program's calls.
//!
//! It is built by `build.rs` and is a part of the binary. `src/interpose.rs` is its other side and says what crosses.
//! It uses nothing but the C library that the program has anyway, and keeps no state. Forked children of the program ask
//! over the same socket, and at once (CRIU dumps each namespace in a child): one takes its turn after the other.
#![no_std]

mod call;
mod conntrack;
mod open;
mod pagemap;
mod turn;

use core::ffi::{c_int, c_long, c_ulong, c_void};

use call::{call, error, fail, own_pid};
use turn::Turn;

/// The number of the socket, as in `src/interpose.rs`.
const SOCKET: c_int = 99;
/// `PAGEMAP_SCAN`, `linux/fs.h`: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: c_ulong = 0xc060_6610;
/// The words of `struct pm_scan_arg`, the one that says where the scan ends, and the one that the kernel writes: where
/// it stopped.
const SCAN_WORDS: usize = 12;
const END: usize = 3;
const WALK_END: usize = 4;

const ASK_PRLIMIT: u64 = 1;
const ASK_SCAN: u64 = 2;
const ASK_DATA: u64 = 3;
/// The `whence` of `lseek(2)`, and the error that says that there is no data from there on.
const SEEK_DATA: c_int = 3;
const ENXIO: c_int = 6;
/// What an answer begins with: the kernel does the call as it was asked for, or with another end of the scan.
const PASSED: u64 = 0;
const SHORTENED: u64 = 2;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const LSEEK: i64 = 8;
    pub const IOCTL: i64 = 16;
    pub const PRLIMIT64: i64 = 302;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const IOCTL: i64 = 29;
    pub const LSEEK: i64 = 62;
    pub const PRLIMIT64: i64 = 261;
}
use number::{IOCTL, LSEEK, PRLIMIT64};

type Question = [u64; 16];
type Answer = [u64; 4];

unsafe extern "C" {
    fn send(socket: c_int, buffer: *const c_void, length: usize, flags: c_int) -> isize;
    fn recv(socket: c_int, buffer: *mut c_void, length: usize, flags: c_int) -> isize;
}

/// The answer, if there is one: without somebody to ask, the kernel does what it would have done.
fn ask(question: &Question) -> Option<Answer> {
    const NO_SIGNAL: c_int = 0x4000;
    const INTERRUPTED: c_int = 4;
    let mut answer: Answer = [0; 4];
    let (asked, wanted) = (size_of::<Question>(), size_of::<Answer>());
    let _turn = Turn::take(SOCKET)?;
    // SAFETY: the buffer is alive and as long as is said.
    if unsafe { send(SOCKET, question.as_ptr().cast(), asked, NO_SIGNAL) } != asked as isize {
        return None;
    }
    let heard = loop {
        // SAFETY: as above.
        let length = unsafe { recv(SOCKET, answer.as_mut_ptr().cast(), wanted, 0) };
        // An answer that was left would be taken for that to the next question.
        if length >= 0 || error() != INTERRUPTED {
            break length == wanted as isize;
        }
    };
    (heard && answer[0] != PASSED).then_some(answer)
}

/// `prlimit64(2)`: reading the limits of another process is asked about.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit64(pid: c_int, resource: c_int, new: *const u64, old: *mut u64) -> c_int {
    if pid != 0 && new.is_null() && !old.is_null() {
        let mut question: Question = [0; 16];
        question[..3].copy_from_slice(&[ASK_PRLIMIT, pid as u64, resource as u64]);
        if let Some(answer) = ask(&question) {
            // SAFETY: the caller gives room for two words.
            unsafe {
                old.write(answer[2]);
                old.add(1).write(answer[3]);
            }
            return answer[1] as c_int;
        }
    }
    // SAFETY: the arguments are the caller's.
    unsafe { call(PRLIMIT64, [pid as u64, resource as u64, new as u64, old as u64, 0, 0]) as c_int }
}

/// `syscall(2)`, by which `prlimit64` may be called, too.
///
/// # Safety
/// As for the C library's function, which takes as many arguments as the call has: the rest is never looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(number: c_long, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> c_long {
    // SAFETY: the arguments are the caller's.
    unsafe {
        match number {
            PRLIMIT64 => prlimit64(a as c_int, b as c_int, c as *const u64, d as *mut u64).into(),
            _ => call(number, [a, b, c, d, e, f]),
        }
    }
}

/// The same under the name that programs use that were not built for large files.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit(pid: c_int, resource: c_int, new: *const u64, old: *mut u64) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { prlimit64(pid, resource, new, old) }
}

/// `ioctl(2)`: `PAGEMAP_SCAN` is asked about.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(descriptor: c_int, request: c_ulong, argument: *mut u64) -> c_int {
    if request == PAGEMAP_SCAN && !argument.is_null() {
        let mut question: Question = [0; 16];
        question[..2].copy_from_slice(&[ASK_SCAN, descriptor as u64]);
        // SAFETY: the request says that the argument is a `pm_scan_arg`.
        question[2..2 + SCAN_WORDS].copy_from_slice(unsafe { core::slice::from_raw_parts(argument, SCAN_WORDS) });
        match ask(&question) {
            // SAFETY: as above. The program finds its own end again, and that the scan did not come so far.
            Some([SHORTENED, _, until, _]) => unsafe {
                let end = argument.add(END).read();
                argument.add(END).write(until);
                let result = call(IOCTL, [descriptor as u64, request, argument as u64, 0, 0, 0]) as c_int;
                argument.add(END).write(end);
                return result;
            },
            Some([_, result, until, _]) => {
                // SAFETY: as above.
                unsafe { argument.add(WALK_END).write(until) };
                return result as c_int;
            }
            None => {}
        }
    }
    // SAFETY: the arguments are the caller's.
    unsafe { call(IOCTL, [descriptor as u64, request, argument as u64, 0, 0, 0]) as c_int }
}

/// `lseek(2)`: where data begins is asked about.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lseek64(descriptor: c_int, offset: i64, whence: c_int) -> i64 {
    if whence == SEEK_DATA {
        let mut question: Question = [0; 16];
        question[..3].copy_from_slice(&[ASK_DATA, own_pid(), descriptor as u64]);
        if ask(&question).is_some() {
            return fail(ENXIO).into();
        }
    }
    // SAFETY: the arguments are the caller's.
    unsafe { call(LSEEK, [descriptor as u64, offset as u64, whence as u64, 0, 0, 0]) }
}

/// The same under the name that it has in programs that were not built for large files.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lseek(descriptor: c_int, offset: i64, whence: c_int) -> i64 {
    // SAFETY: the arguments are the caller's.
    unsafe { lseek64(descriptor, offset, whence) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
