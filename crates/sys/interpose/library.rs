//! A library that is loaded into another program before its own ones: it asks about some of the program's calls.
//!
//! It is built by `build.rs` and is a part of the binary. `src/interpose.rs` is its other side and says what crosses.
//! It uses nothing but the C library that the program has anyway, and keeps no state.
#![no_std]

mod conntrack;

use core::ffi::{c_int, c_long, c_ulong, c_void};

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
/// What an answer begins with: the kernel does the call as it was asked for, or with another end of the scan.
const PASSED: u64 = 0;
const SHORTENED: u64 = 2;

#[cfg(target_arch = "x86_64")]
const IOCTL: c_long = 16;
#[cfg(target_arch = "x86_64")]
const PRLIMIT64: c_long = 302;
#[cfg(target_arch = "aarch64")]
const IOCTL: c_long = 29;
#[cfg(target_arch = "aarch64")]
const PRLIMIT64: c_long = 261;

type Question = [u64; 16];
type Answer = [u64; 4];

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn send(socket: c_int, buffer: *const c_void, length: usize, flags: c_int) -> isize;
    fn recv(socket: c_int, buffer: *mut c_void, length: usize, flags: c_int) -> isize;
}

/// A system call as the C library makes it: -1 and `errno` when it fails.
///
/// # Safety
/// As for the call.
unsafe fn call(number: c_long, arguments: [u64; 6]) -> c_long {
    /// The kernel's results from here up are negated error numbers.
    const ERRORS: c_long = -4095;
    let [a, b, c, d, e, f] = arguments;
    let result: c_long;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's calling convention (`syscall(2)`); the call itself is the caller's.
    unsafe {
        core::arch::asm!(
            "syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            in("x5") f, options(nostack),
        );
    }
    if result < ERRORS || result >= 0 {
        return result;
    }
    // SAFETY: the C library gives the address of this thread's errno.
    unsafe { __errno_location().write(-result as c_int) };
    -1
}

/// The answer, if there is one: without somebody to ask, the kernel does what it would have done.
fn ask(question: &Question) -> Option<Answer> {
    const NO_SIGNAL: c_int = 0x4000;
    let mut answer: Answer = [0; 4];
    let (asked, wanted) = (size_of::<Question>(), size_of::<Answer>());
    // SAFETY: both buffers are alive and as long as is said.
    let heard = unsafe {
        send(SOCKET, question.as_ptr().cast(), asked, NO_SIGNAL) == asked as isize
            && recv(SOCKET, answer.as_mut_ptr().cast(), wanted, 0) == wanted as isize
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

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
