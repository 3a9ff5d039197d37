//! `userfaultfd(2)`, by raw ioctls: what the kernel offers since 6.7 is in no crate.
//!
//! Source of the formats: `linux/userfaultfd.h`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Features of the kernel, `UFFD_FEATURE_...`.
pub mod feature {
    /// A fork is an event.
    pub const EVENT_FORK: u64 = 1 << 1;
    /// A moved mapping is an event.
    pub const EVENT_REMAP: u64 = 1 << 2;
    /// Pages that the program gives back are an event.
    pub const EVENT_REMOVE: u64 = 1 << 3;
    /// A mapping that ends is an event.
    pub const EVENT_UNMAP: u64 = 1 << 6;
    /// Pages that do not exist yet can be write-protected.
    pub const WP_UNPOPULATED: u64 = 1 << 13;
    /// A write to a protected page lifts the protection without anybody being asked.
    pub const WP_ASYNC: u64 = 1 << 15;
}

const UFFD_API: u64 = 0xaa;
const API: libc::Ioctl = request(0x3f, 24);
const REGISTER: libc::Ioctl = request(0x00, 32);
const UNREGISTER: libc::Ioctl = ((2_u32 << 30) | (16 << 16) | (0xaa << 8) | 0x01) as libc::Ioctl;
const COPY: libc::Ioctl = request(0x03, 40);
const ZEROPAGE: libc::Ioctl = request(0x04, 32);
const WRITEPROTECT: libc::Ioctl = request(0x06, 24);
const CONTINUE: libc::Ioctl = request(0x07, 32);
const WAKE: libc::Ioctl = ((2_u32 << 30) | (16 << 16) | (0xaa << 8) | 0x02) as libc::Ioctl;

const REGISTER_MISSING: u64 = 1;
const REGISTER_WP: u64 = 1 << 1;

/// `_IOWR(0xAA, number, size)`.
const fn request(number: u32, size: u32) -> libc::Ioctl {
    ((3_u32 << 30) | (size << 16) | (0xaa << 8) | number) as libc::Ioctl
}

/// The number of `userfaultfd(2)`.
pub const NUMBER: i64 = libc::SYS_userfaultfd;
/// The flags by which it is made: closed on exec, never waiting, and also for faults in the kernel.
pub const FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;

/// The flag with which a process may make one that has no CAP_SYS_PTRACE: faults in the kernel are not dealt with. There
/// are none to be dealt with where writes are only noted (`WP_ASYNC`).
pub const USER_MODE_ONLY: u64 = 1;

/// A descriptor by which another process's faults are dealt with.
#[derive(Debug)]
pub struct Userfaultfd {
    descriptor: OwnedFd,
}

/// What happened in the process.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for the page at this address.
    Fault(u64),
    /// The process forked; the child's faults come over this.
    Fork(Userfaultfd),
    /// A mapping of `length` bytes moved.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// The pages from `start` to `end` were given back: they are zero when they are next looked at.
    Remove {
        /// The first address.
        start: u64,
        /// The address behind the last.
        end: u64,
    },
    /// The mapping from `start` to `end` is gone.
    Unmap {
        /// The first address.
        start: u64,
        /// The address behind the last.
        end: u64,
    },
}

impl Userfaultfd {
    /// Makes one for the calling process.
    ///
    /// # Errors
    /// When the kernel has none, or keeps it from the caller.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes a plain number.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made this descriptor, and nobody else knows it.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) } })
    }

    /// Takes up one that was made by, or came from, another process.
    #[must_use]
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self { descriptor }
    }

    /// Agrees on the interface, with these features. Once for each.
    ///
    /// # Errors
    /// When the kernel lacks one of the features.
    pub fn agree(&self, features: u64) -> io::Result<()> {
        let mut words = [UFFD_API, features, 0];
        self.ioctl(API, &mut words)
    }

    /// Deals from now on with writes to write-protected pages from `start` on.
    ///
    /// # Errors
    /// When the range is not one that can be protected, or belongs to another descriptor.
    pub fn register_write_protection(&self, start: u64, length: u64) -> io::Result<()> {
        let mut words = [start, length, REGISTER_WP, 0];
        self.ioctl(REGISTER, &mut words)
    }

    /// Takes write protection off again, from `start` on, where it is dealt with.
    ///
    /// # Errors
    /// `ENOENT` when a part of the range is not registered for it.
    pub fn lift_write_protection(&self, start: u64, length: u64) -> io::Result<()> {
        let mut words = [start, length, 0];
        self.ioctl(WRITEPROTECT, &mut words)
    }

    /// Deals from now on with pages that are missing from `start` on.
    ///
    /// # Errors
    /// When the range is not one whose faults can be dealt with, or belongs to another descriptor.
    pub fn register_missing(&self, start: u64, length: u64) -> io::Result<()> {
        let mut words = [start, length, REGISTER_MISSING, 0];
        self.ioctl(REGISTER, &mut words)
    }

    /// Leaves the pages from `start` on to the kernel again; whoever waits goes on.
    ///
    /// # Errors
    /// When nothing is mapped there.
    pub fn unregister(&self, start: u64, length: u64) -> io::Result<()> {
        let mut words = [start, length];
        self.ioctl(UNREGISTER, &mut words)
    }

    /// Puts `bytes` (whole pages) at `address`, all inside one mapping. Whoever waits for them goes on. Gives how many
    /// bytes were put there: fewer when the kernel was interrupted, or has come to a page that is there already.
    ///
    /// # Errors
    /// `EEXIST` when the first page is there, `ENOENT` when the mapping is gone or another, `ESRCH` when the process is,
    /// `EAGAIN` when the mappings are changing.
    pub fn copy(&self, address: u64, bytes: &[u8]) -> io::Result<u64> {
        let mut words = [address, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0];
        let done = self.ioctl(COPY, &mut words);
        partial(done, words[4])
    }

    /// Puts pages of zeros at `address`; otherwise as `copy`.
    ///
    /// # Errors
    /// As `copy`.
    pub fn zero(&self, address: u64, length: u64) -> io::Result<u64> {
        let mut words = [address, length, 0, 0];
        let done = self.ioctl(ZEROPAGE, &mut words);
        partial(done, words[3])
    }

    /// Has whoever waits for pages from `start` on look again.
    ///
    /// # Errors
    /// When the range is not one of pages.
    pub fn wake(&self, start: u64, length: u64) -> io::Result<()> {
        let mut words = [start, length];
        self.ioctl(WAKE, &mut words)
    }

    /// Whether private anonymous memory that was registered here is mapped at the page at `address`; `None` when mappings
    /// are changing, so that there are events to be read, or soon will be. Since Linux 5.13.
    ///
    /// # Errors
    /// `ESRCH` when the process is gone.
    pub fn covers(&self, address: u64) -> io::Result<Option<bool>> {
        // Nothing comes of it: of such memory no page is in a file, where this would find it.
        let mut words = [address, 4096, 0, 0];
        match self.ioctl(CONTINUE, &mut words).map_err(|error| (error.raw_os_error(), error)) {
            Err((Some(libc::EAGAIN), _)) => Ok(None),
            Err((Some(libc::ENOENT), _)) => Ok(Some(false)),
            Err((Some(libc::EINVAL), _)) | Ok(()) => Ok(Some(true)),
            Err((_, error)) => Err(error),
        }
    }

    /// The next event; `None` when there is none now.
    ///
    /// # Errors
    /// When the descriptor is broken, or an event is of a kind that was not asked for.
    pub fn event(&self) -> io::Result<Option<Event>> {
        const PAGEFAULT: u64 = 0x12;
        const FORK: u64 = 0x13;
        const REMAP: u64 = 0x14;
        const REMOVE: u64 = 0x15;
        const UNMAP: u64 = 0x16;
        // `struct uffd_msg`: a kind, seven bytes of nothing, and up to three words.
        let mut message = [0_u8; 32];
        match rustix::io::read(&self.descriptor, &mut message) {
            Ok(32) => {}
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let word = |index: usize| {
            let at = 8 + 8 * index;
            u64::from_ne_bytes(message[at..at + 8].try_into().expect("eight bytes"))
        };
        Ok(Some(match u64::from(message[0]) {
            PAGEFAULT => Event::Fault(word(1)),
            FORK => {
                let number = word(0) as u32 as libc::c_int;
                // SAFETY: reading the event has put this descriptor into our table, and nobody else knows it.
                Event::Fork(Self { descriptor: unsafe { OwnedFd::from_raw_fd(number) } })
            }
            REMAP => Event::Remap { from: word(0), to: word(1), length: word(2) },
            REMOVE => Event::Remove { start: word(0), end: word(1) },
            UNMAP => Event::Unmap { start: word(0), end: word(1) },
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }))
    }

    fn ioctl<const N: usize>(&self, request: libc::Ioctl, words: &mut [u64; N]) -> io::Result<()> {
        // SAFETY: the request's number says how many bytes the kernel reads and writes, and `words` has as many. What
        // COPY reads beside them is a slice that lives through the call.
        let result = unsafe { libc::ioctl(self.descriptor.as_raw_fd(), request, words.as_mut_ptr()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What the kernel has done although it stopped before the end; with nothing done, why.
fn partial(done: io::Result<()>, result: u64) -> io::Result<u64> {
    match (done, result.cast_signed()) {
        (_, bytes @ 1..) => Ok(bytes.cast_unsigned()),
        (Ok(()), _) => Ok(0),
        (Err(error), _) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Anonymous;
    use crate::pagemap::{Category, Scan};

    const PAGE: u64 = 4096;

    #[test]
    fn a_missing_page_is_put_where_somebody_waits_for_it() {
        let descriptor = Userfaultfd::new().unwrap();
        descriptor.agree(0).unwrap();
        let memory = Anonymous::new(8 * PAGE as usize).unwrap();
        let start = memory.address();
        descriptor.register_missing(start, 8 * PAGE).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| memory.read(5 * PAGE as usize));
            let address = loop {
                if let Some(Event::Fault(address)) = descriptor.event().unwrap() {
                    break address;
                }
            };
            assert_eq!(address & !(PAGE - 1), start + 5 * PAGE);
            let page = [7_u8; PAGE as usize];
            assert_eq!(descriptor.copy(start + 5 * PAGE, &page).unwrap(), PAGE);
            assert_eq!(reader.join().unwrap(), 7);
        });
        assert_eq!(
            descriptor.copy(start + 5 * PAGE, &[1; PAGE as usize]).unwrap_err().raw_os_error(),
            Some(libc::EEXIST)
        );
        assert_eq!(descriptor.zero(start, PAGE).unwrap(), PAGE);
        // With and without a page.
        for page in [0, 1] {
            assert_eq!(descriptor.covers(start + page * PAGE).unwrap(), Some(true));
        }
        descriptor.unregister(start, 8 * PAGE).unwrap();
        assert_eq!(descriptor.covers(start).unwrap(), Some(false));
        assert_eq!(memory.read(3 * PAGE as usize), 0);
    }

    #[test]
    fn written_pages_are_found_and_protected_again() {
        let descriptor = Userfaultfd::new().unwrap();
        descriptor.agree(feature::WP_ASYNC | feature::WP_UNPOPULATED).unwrap();
        let memory = Anonymous::new(64 * PAGE as usize).unwrap();
        let (start, end) = (memory.address(), memory.address() + 64 * PAGE);
        descriptor.register_write_protection(start, 64 * PAGE).unwrap();
        let map = Scan::open(std::process::id()).unwrap();
        for page in [3, 4, 9] {
            memory.write(page * PAGE as usize, 1);
        }
        let written = || {
            let runs = map.written(start, end).unwrap();
            runs.iter().map(|run| ((run.start - start) / PAGE, (run.end - start) / PAGE)).collect::<Vec<_>>()
        };
        assert_eq!(written(), [(3, 5), (9, 10)]);
        assert_eq!(written(), [], "nothing since");
        memory.write(4 * PAGE as usize, 2);
        assert_eq!(memory.read(40 * PAGE as usize), 0, "a page of zeros is not written");
        assert_eq!(written(), [(4, 5)]);
        let present = map.find(start, end, Category::Present).unwrap();
        assert_eq!(present.iter().map(|run| (run.end - run.start) / PAGE).sum::<u64>(), 3);
    }
}
