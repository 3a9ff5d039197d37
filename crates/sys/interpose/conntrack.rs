//! Which connections a network namespace tracks: CRIU asks the kernel over netlink, twice.
//!
//! The kernel walks a table that is as large as the machine's memory is, or looks for a module that is not there; either
//! takes ten milliseconds and more, while the container is frozen. When nothing is tracked the answer is known.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::{Question, ask, call, own_pid};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const SENDMSG: i64 = 46;
    pub const RECVMSG: i64 = 47;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const SENDMSG: i64 = 211;
    pub const RECVMSG: i64 = 212;
}
use number::{RECVMSG, SENDMSG};

const ASK_TRACKED: u64 = 4;
/// `nlmsghdr::nlmsg_type` of requests for tracked and for expected connections (`linux/netfilter/nfnetlink_conntrack.h`):
/// the subsystem in the upper byte, "get" in the lower.
const GET_TRACKED: u16 = 0x0101;
const GET_EXPECTED: u16 = 0x0201;
/// `NLM_F_DUMP`, `NLMSG_DONE` (`linux/netlink.h`).
const DUMP: u16 = 0x300;
const DONE: u16 = 3;

/// `struct iovec` and `struct msghdr` (`recvmsg(2)`).
#[repr(C)]
pub struct Piece {
    base: *mut c_void,
    length: usize,
}

/// See `Piece`.
#[repr(C)]
pub struct Message {
    name: *mut c_void,
    name_length: u32,
    pieces: *mut Piece,
    count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// What a dump ends with.
#[repr(C)]
struct Done {
    header: Header,
    error: c_int,
}

/// The socket over which a request was answered here, and the number of that request. CRIU's tasks have one thread each.
static ANSWERED: AtomicI32 = AtomicI32::new(NONE);
static SEQUENCE: AtomicU32 = AtomicU32::new(0);
const NONE: c_int = -1;

/// `sendmsg(2)`: what is tracked is asked about.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmsg(socket: c_int, message: *const Message, flags: c_int) -> isize {
    // SAFETY: the message is the caller's.
    let request = unsafe { request(message) };
    if let Some((header, length)) = request
        && matches!(header.kind, GET_TRACKED | GET_EXPECTED)
        && header.flags & DUMP == DUMP
    {
        let mut question: Question = [0; 16];
        question[0] = ASK_TRACKED;
        question[1] = own_pid();
        if ask(&question).is_some() {
            SEQUENCE.store(header.sequence, Ordering::Relaxed);
            ANSWERED.store(socket, Ordering::Relaxed);
            return length as isize;
        }
    }
    // SAFETY: the arguments are the caller's.
    unsafe { call(SENDMSG, [socket as u64, message as u64, flags as u64, 0, 0, 0]) as isize }
}

/// `recvmsg(2)`: the end of a dump in which nothing was found, where `sendmsg` has not asked the kernel.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(socket: c_int, message: *mut Message, flags: c_int) -> isize {
    if ANSWERED.load(Ordering::Relaxed) == socket && !message.is_null() {
        let header = Header {
            length: size_of::<Done>() as u32,
            kind: DONE,
            flags: 0,
            sequence: SEQUENCE.load(Ordering::Relaxed),
            port: 0,
        };
        // SAFETY: the message is the caller's, and its pieces have room for what they say.
        unsafe {
            let message = &mut *message;
            if message.count > 0 && (*message.pieces).length >= size_of::<Done>() {
                ANSWERED.store(NONE, Ordering::Relaxed);
                (*message.pieces).base.cast::<Done>().write_unaligned(Done { header, error: 0 });
                message.flags = 0;
                return size_of::<Done>() as isize;
            }
        }
    }
    // SAFETY: the arguments are the caller's.
    unsafe { call(RECVMSG, [socket as u64, message as u64, flags as u64, 0, 0, 0]) as isize }
}

/// The header that a message begins with, and the message's length, if it is one piece.
///
/// # Safety
/// The message is whole.
unsafe fn request(message: *const Message) -> Option<(Header, usize)> {
    // SAFETY: as above.
    unsafe {
        let message = message.as_ref()?;
        let piece = message.pieces.as_ref().filter(|piece| message.count == 1 && piece.length >= size_of::<Header>())?;
        Some((piece.base.cast::<Header>().read_unaligned(), piece.length))
    }
}
