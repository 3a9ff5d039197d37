//! A library that is loaded into a CRIU that restores: it hands out shared memory whose content is there already, and names
//! a directory so that it can be found.
//!
//! For each memfd CRIU makes one, and then opens the image that says which pages it has. When there is a link beside that
//! image to the same memory, filled beforehand, this takes the place of the new memfd under its number.
//!
//! CRIU puts mounts together below a directory of its own in `/tmp` (`mkdtemp(3)`) and removes that in the end. Its name says
//! here which CRIU has made it: one that is killed leaves it behind, and somebody else removes it.
//!
//! It runs in the restored tasks as well, whose descriptors it does not know: it asks nobody.
#![no_std]

mod call;

use core::ffi::{c_char, c_int, c_uint};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use call::{call, error, fail, own_pid};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const CLOSE: i64 = 3;
    pub const FSTAT: i64 = 5;
    pub const OPENAT: i64 = 257;
    pub const DUP3: i64 = 292;
    pub const MKDIRAT: i64 = 258;
    pub const UNLINKAT: i64 = 263;
    pub const GETRANDOM: i64 = 318;
    pub const MEMFD_CREATE: i64 = 319;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const DUP3: i64 = 24;
    pub const MKDIRAT: i64 = 34;
    pub const UNLINKAT: i64 = 35;
    pub const OPENAT: i64 = 56;
    pub const CLOSE: i64 = 57;
    pub const FSTAT: i64 = 80;
    pub const GETRANDOM: i64 = 278;
    pub const MEMFD_CREATE: i64 = 279;
}
use number::{CLOSE, DUP3, FSTAT, GETRANDOM, MEMFD_CREATE, MKDIRAT, OPENAT, UNLINKAT};

/// Images of the pages of shared memory: this, its number, and the ending.
const IMAGE: &[u8] = b"pagemap-shmem-";
const ENDING: &[u8] = b".img";
/// Links to it: this, and its number (`src/interpose.rs`).
const LINK: &[u8] = b"shared-";
/// The longest number in decimal digits.
const DIGITS: usize = 20;

/// As `memfd_create` gives it when it fails.
const NONE: c_int = -1;
/// The memfd that was made last and has not been filled yet, and its inode: by now the number may be another file's. CRIU's
/// tasks have one thread each.
static MADE: AtomicI32 = AtomicI32::new(NONE);
static INODE: AtomicU64 = AtomicU64::new(0);

/// `memfd_create(2)`.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
    // SAFETY: the arguments are the caller's.
    let made = unsafe { call(MEMFD_CREATE, [name as u64, flags.into(), 0, 0, 0, 0]) } as c_int;
    MADE.store(made, Ordering::Relaxed);
    if made >= 0 {
        INODE.store(inode(made).unwrap_or(0), Ordering::Relaxed);
    }
    made
}

/// The inode of a file, if there is one.
fn inode(descriptor: c_int) -> Option<u64> {
    /// The words of `struct stat`, and the one that is asked for; on both architectures.
    const WORDS: usize = 18;
    const INODE_WORD: usize = 1;
    let mut status = [0_u64; WORDS];
    // SAFETY: there is room for what the call writes.
    let done = unsafe { call(FSTAT, [descriptor as u64, status.as_mut_ptr() as u64, 0, 0, 0, 0]) };
    (done == 0).then_some(status[INODE_WORD])
}

/// `openat(2)`. The mode stands where an argument stands, whether it was given or not.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the path is a string.
    if let Some(link) = unsafe { link(path) } {
        let made = MADE.swap(NONE, Ordering::Relaxed);
        if made >= 0 && inode(made) == Some(INODE.load(Ordering::Relaxed)) {
            // SAFETY: the link is a string; the number was given to the caller, who has it still.
            unsafe { replace(directory, link.as_ptr().cast(), made) };
        }
    }
    // SAFETY: the arguments are the caller's.
    unsafe { call(OPENAT, [directory as u64, path as u64, flags as u64, mode.into(), 0, 0]) as c_int }
}

/// The same under the name that it has in programs that were not built for large files.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the arguments are the caller's.
    unsafe { openat64(directory, path, flags, mode) }
}

/// The letters that `mkdtemp` replaces.
const PLACE: usize = 6;
/// How many names it tries.
const ATTEMPTS: usize = 100;

/// `mkdtemp(3)`: in the place of the six letters stand a dash, which the C library never puts there, and five digits
/// (`src/interpose.rs`). Anybody may have made that one beforehand: then other names are tried, which nobody can know, and with
/// which nobody finds what was left.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdtemp(template: *mut c_char) -> *mut c_char {
    const INVALID: c_int = 22;
    const EXISTS: c_int = 17;
    // SAFETY: the template is a string that the caller may change; nothing behind its end is touched.
    unsafe {
        let mut length = 0;
        while template.add(length).read() != 0 {
            length += 1;
        }
        let place = length.checked_sub(PLACE).map(|start| template.add(start));
        let Some(place) = place.filter(|place| (0..PLACE).all(|index| place.add(index).read() as u8 == b'X')) else {
            fail(INVALID);
            return core::ptr::null_mut();
        };
        for attempt in 0..ATTEMPTS {
            name(place, attempt);
            if make_directory(template) {
                return template;
            }
            if error() != EXISTS {
                break;
            }
        }
    }
    core::ptr::null_mut()
}

/// Writes the six letters: at first those that say whose the directory is, then chance.
///
/// # Safety
/// There is room for them.
unsafe fn name(place: *mut c_char, attempt: usize) {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = own_pid();
    let mut first = b'-';
    if attempt > 0 {
        // SAFETY: there is room for what the call writes.
        unsafe { call(GETRANDOM, [(&raw mut number) as u64, size_of::<u64>() as u64, 0, 0, 0, 0]) };
        first = DIGITS[(number % 36) as usize];
        number /= 36;
    }
    // SAFETY: as above.
    unsafe {
        place.write(first as c_char);
        for index in (1..PLACE).rev() {
            place.add(index).write(DIGITS[(number % 36) as usize] as c_char);
            number /= 36;
        }
    }
}

/// Makes a directory for its owner alone; an empty one of this name goes: whoever had this number before has left it.
///
/// # Safety
/// The path is a string.
unsafe fn make_directory(path: *const c_char) -> bool {
    const HERE: u64 = -100_i64 as u64;
    const OWNER_ALONE: u64 = 0o700;
    const DIRECTORY: u64 = 0x200;
    // SAFETY: as above.
    unsafe {
        call(UNLINKAT, [HERE, path as u64, DIRECTORY, 0, 0, 0]);
        call(MKDIRAT, [HERE, path as u64, OWNER_ALONE, 0, 0, 0]) == 0
    }
}

/// Puts what the link leads to, if there is one, in the place of a descriptor.
///
/// # Safety
/// The link is a string, and the descriptor the caller's to replace.
unsafe fn replace(directory: c_int, link: *const c_char, made: c_int) {
    const READ_WRITE: u64 = 2;
    // SAFETY: as above.
    unsafe {
        let filled = call(OPENAT, [directory as u64, link as u64, READ_WRITE, 0, 0, 0]);
        if filled >= 0 {
            call(DUP3, [filled as u64, made as u64, 0, 0, 0, 0]);
            call(CLOSE, [filled as u64, 0, 0, 0, 0, 0]);
        }
    }
}

/// The name of the link beside an image, as a string, if it is the image of shared memory.
///
/// # Safety
/// The path is a string.
unsafe fn link(path: *const c_char) -> Option<[u8; LINK.len() + DIGITS + 1]> {
    // SAFETY: nothing behind the end of the string is looked at, for what is compared has no zero in it.
    let at = |index: usize| unsafe { path.add(index).read() } as u8;
    if path.is_null() || !IMAGE.iter().enumerate().all(|(index, byte)| at(index) == *byte) {
        return None;
    }
    let mut link = [0; LINK.len() + DIGITS + 1];
    link[..LINK.len()].copy_from_slice(LINK);
    let mut digits = 0;
    while digits < DIGITS && at(IMAGE.len() + digits).is_ascii_digit() {
        link[LINK.len() + digits] = at(IMAGE.len() + digits);
        digits += 1;
    }
    let ends = ENDING.iter().enumerate().all(|(index, byte)| at(IMAGE.len() + digits + index) == *byte);
    (digits > 0 && ends).then_some(link)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
