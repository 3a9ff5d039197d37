//! Answering some of another program's calls in the kernel's stead, by a small library that is loaded into it
//! (`LD_PRELOAD`, `ld.so(8)`).
//!
//! The library (`interpose/library.rs`) sends a question of 16 words over a socket and waits for an answer of 4 words:
//! whether the call is answered, what it returns, and what it writes. Without an answer it lets the kernel do the call.
//!
//! A seccomp filter with user notification would need no library, but a process with a filter may not suspend the
//! seccomp filters of those it traces (`ptrace(2)`, `PTRACE_O_SUSPEND_SECCOMP`), which CRIU must.

use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/interpose.so"));
static RESTORING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/restoring.so"));
/// The numbers at which the program finds the library and the socket.
const LIBRARY_AT: RawFd = 98;
const SOCKET_AT: RawFd = 99;

const WORD: usize = size_of::<u64>();
const QUESTION: usize = 16 * WORD;
const ASK_PRLIMIT: u64 = 1;
const ASK_SCAN: u64 = 2;
const ASK_DATA: u64 = 3;
const ASK_TRACKED: u64 = 4;
const ASK_MAPPINGS: u64 = 5;
const ASK_ENTRIES: u64 = 6;
/// `PAGE_IS_PRESENT | PAGE_IS_SWAPPED`.
const PRESENT_OR_SWAPPED: u64 = 1 << 3 | 1 << 4;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `prlimit64(2)`: the soft and hard limit of another process.
    Limit {
        /// The process.
        pid: u32,
        /// The resource, `RLIMIT_...`.
        resource: u32,
    },
    /// `PAGEMAP_SCAN` for pages with content from `start` to `end`.
    Scan {
        /// The descriptor of the page map in the program.
        descriptor: RawFd,
        /// The first address.
        start: u64,
        /// The address behind the last.
        end: u64,
    },
    /// `pread64(2)` of the entries of the pages from `start` to `end`, if it is a page map: kernels before 6.7 have no scan.
    Entries {
        /// The program, or its child.
        pid: u32,
        /// Its descriptor of the file.
        descriptor: RawFd,
        /// The first address.
        start: u64,
        /// The address behind the last.
        end: u64,
    },
    /// `lseek(2)` for where data begins.
    Data {
        /// The program, or its child.
        pid: u32,
        /// Its descriptor of the file.
        descriptor: RawFd,
    },
    /// Which connections the network namespace of a process tracks.
    Tracked {
        /// The program, or its child, in the namespace.
        pid: u32,
    },
    /// `openat(2)` of the file `smaps`.
    Mappings {
        /// The program, or its child.
        pid: u32,
        /// Its descriptor of the directory.
        directory: RawFd,
    },
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel does it as if nobody had asked.
    Pass,
    /// The limits.
    Limit {
        /// The soft limit.
        soft: u64,
        /// The hard limit.
        hard: u64,
    },
    /// The scan found nothing, and has come to this address: up to there the entries are empty.
    Nothing {
        /// Where the program goes on.
        until: u64,
    },
    /// There is none: no data from there on, no connection.
    None,
    /// What this descriptor of ours leads to is opened instead.
    Instead {
        /// The descriptor, which stays open until the program ends.
        descriptor: RawFd,
    },
    /// The kernel scans, but only to this address: up to there the entries are the kernel's, and then it is asked again.
    Shorten {
        /// The address behind the last.
        until: u64,
    },
}

/// The calls of a program that was started with the library in it.
#[derive(Debug)]
pub struct Calls {
    socket: OwnedFd,
}

/// Has the program of `command` ask about its calls. It must find the descriptors at the numbers beside them.
///
/// # Errors
/// When they cannot be made.
pub fn interpose(command: &mut Command) -> io::Result<(Calls, Vec<(OwnedFd, RawFd)>)> {
    let library = preload(command, LIBRARY)?;
    let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Calls { socket }, vec![library, (theirs, SOCKET_AT)]))
}

/// Has a CRIU that restores take shared memory that is there already: what the link `shared-N` in the directory of its
/// images leads to, instead of what it makes itself for the shared memory with the number N
/// (`interpose/restoring.rs`). It must find the descriptor at the number beside it.
///
/// # Errors
/// When it cannot be made.
pub fn hand_out_shared(command: &mut Command) -> io::Result<(OwnedFd, RawFd)> {
    preload(command, RESTORING)
}

/// What stands at the end of the names of directories that a CRIU that restores makes for itself: a dash, and its process id in
/// five digits of base 36 (`interpose/restoring.rs`).
#[must_use]
pub fn mark_of(criu: u32) -> String {
    let digit = |place: u32| char::from_digit(criu / 36_u32.pow(place) % 36, 36).expect("it is below the base");
    std::iter::once('-').chain((0..5).rev().map(digit)).collect()
}

/// The process id that such a mark says.
#[must_use]
pub fn marked(mark: &str) -> Option<u32> {
    let pid = u32::from_str_radix(mark.strip_prefix('-')?, 36).ok()?;
    (mark_of(pid) == mark).then_some(pid)
}

fn preload(command: &mut Command, library: &[u8]) -> io::Result<(OwnedFd, RawFd)> {
    let mut file = std::fs::File::from(memfd_create("drover-interpose", MemfdFlags::CLOEXEC)?);
    file.write_all(library)?;
    command.env("LD_PRELOAD", format!("/proc/self/fd/{LIBRARY_AT}"));
    Ok((file.into(), LIBRARY_AT))
}

impl Calls {
    /// Answers every question until nobody is left to ask.
    ///
    /// # Errors
    /// When the socket breaks.
    pub fn answer(&self, mut answer: impl FnMut(&Question) -> Answer) -> io::Result<()> {
        let mut bytes = [0; QUESTION];
        loop {
            match recv(&self.socket, &mut bytes, RecvFlags::empty()) {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Ok(()),
                Ok((_, QUESTION)) => {}
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let answer = Question::parse(&bytes).map_or(Answer::Pass, |question| answer(&question));
            match send(&self.socket, &answer.bytes(), SendFlags::NOSIGNAL) {
                Ok(_) => {}
                Err(rustix::io::Errno::PIPE) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The word at an index.
fn word(bytes: &[u8; QUESTION], index: usize) -> u64 {
    let at = index * WORD;
    u64::from_ne_bytes(bytes[at..at + WORD].try_into().expect("eight bytes"))
}

impl Question {
    fn parse(bytes: &[u8; QUESTION]) -> Option<Self> {
        match word(bytes, 0) {
            ASK_PRLIMIT => Some(Self::Limit {
                pid: u32::try_from(word(bytes, 1)).ok()?,
                resource: u32::try_from(word(bytes, 2)).ok()?,
            }),
            // Other scans look for something else, as for guard pages.
            ASK_SCAN if word(bytes, 2 + 10) == PRESENT_OR_SWAPPED => Some(Self::Scan {
                descriptor: RawFd::try_from(word(bytes, 1)).ok()?,
                start: word(bytes, 2 + 2),
                end: word(bytes, 2 + 3),
            }),
            ASK_DATA => Some(Self::Data {
                pid: u32::try_from(word(bytes, 1)).ok()?,
                descriptor: RawFd::try_from(word(bytes, 2)).ok()?,
            }),
            ASK_ENTRIES => Some(Self::Entries {
                pid: u32::try_from(word(bytes, 1)).ok()?,
                descriptor: RawFd::try_from(word(bytes, 2)).ok()?,
                start: word(bytes, 3),
                end: word(bytes, 4),
            }),
            ASK_TRACKED => Some(Self::Tracked { pid: u32::try_from(word(bytes, 1)).ok()? }),
            ASK_MAPPINGS => Some(Self::Mappings {
                pid: u32::try_from(word(bytes, 1)).ok()?,
                directory: RawFd::try_from(word(bytes, 2)).ok()?,
            }),
            _ => None,
        }
    }
}

impl Answer {
    fn bytes(self) -> Vec<u8> {
        const PASS: u64 = 0;
        const ANSWERED: u64 = 1;
        const SHORTENED: u64 = 2;
        let words = match self {
            Self::Pass => [PASS, 0, 0, 0],
            Self::Limit { soft, hard } => [ANSWERED, 0, soft, hard],
            // It returns no region.
            Self::Nothing { until } => [ANSWERED, 0, until, 0],
            Self::None => [ANSWERED, 0, 0, 0],
            Self::Instead { descriptor } => [ANSWERED, std::process::id().into(), descriptor as u64, 0],
            Self::Shorten { until } => [SHORTENED, 0, until, 0],
        };
        words.into_iter().flat_map(u64::to_ne_bytes).collect()
    }
}

#[cfg(test)]
mod tests;
