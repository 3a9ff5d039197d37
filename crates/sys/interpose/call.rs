//! System calls past the C library, for the libraries that stand before it.

use core::ffi::{c_int, c_long};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

/// A system call as the C library makes it: -1 and `errno` when it fails.
///
/// # Safety
/// As for the call.
pub unsafe fn call(number: c_long, arguments: [u64; 6]) -> c_long {
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
    fail(-result as c_int).into()
}

/// Sets `errno`; -1.
pub fn fail(error: c_int) -> c_int {
    // SAFETY: the C library gives the address of this thread's errno.
    unsafe { __errno_location().write(error) };
    -1
}

/// What `errno` says.
#[allow(dead_code, reason = "not every library that has this module asks")]
pub fn error() -> c_int {
    // SAFETY: the C library gives the place of the thread's own.
    unsafe { __errno_location().read() }
}

/// The number of this process.
#[allow(dead_code, reason = "not every library that has this module asks")]
pub fn own_pid() -> u64 {
    #[cfg(target_arch = "x86_64")]
    const GETPID: c_long = 39;
    #[cfg(target_arch = "aarch64")]
    const GETPID: c_long = 172;
    // SAFETY: the call takes nothing and only gives a number.
    unsafe { call(GETPID, [0; 6]) as u64 }
}
