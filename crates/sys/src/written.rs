//! Which pages of files are written, as the kernel tells whoever traces it: by programs, through mappings, and past the
//! cache.
//!
//! Two tracepoints are read (perf_event_open(2)): `writeback:writeback_dirty_folio`, when a folio of the page cache that was
//! clean becomes dirty, and `iomap:iomap_dio_rw_begin`, when something is read or written past the cache. A folio is as many
//! pages as a power of two, and its first one is a multiple of that: how many it is is not said, so as many as it can be
//! count as written.
//!
//! A folio that is dirty stays silent: whoever wants to hear of the next write has it cleaned first
//! ([`crate::file::clean_pages`]).

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The size of a page.
const PAGE: u64 = 4096;
/// The largest folio in pages: what one entry of a page table's second level covers.
const LARGEST_FOLIO: u64 = 512;
/// What the kernel keeps for us on each processor until it is read, in bytes: a power of two of pages.
const RING: usize = 1 << 20;
/// How long records may wait to be read, in milliseconds.
const LOOK: i32 = 100;

/// Pages of one file, as a bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages(Vec<u64>);

impl Pages {
    /// The most that is kept track of: 2 TiB of file.
    const MOST: u64 = 1 << 29;

    fn insert(&mut self, first: u64, count: u64) -> bool {
        let Some(end) = first.checked_add(count).filter(|end| *end <= Self::MOST) else { return false };
        let words = end.div_ceil(64) as usize;
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        for page in first..end {
            self.0[(page / 64) as usize] |= 1 << (page % 64);
        }
        true
    }

    /// Whether page `page` is among them.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        self.0.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// The first of them from `page` on.
    #[must_use]
    pub fn next(&self, page: u64) -> Option<u64> {
        let first = (page / 64) as usize;
        let word = self.0.get(first)? & (u64::MAX << (page % 64));
        let rest = self.0[first + 1..].iter().copied();
        let (index, word) = std::iter::once(word).chain(rest).enumerate().find(|(_, word)| *word != 0)?;
        Some((first + index) as u64 * 64 + u64::from(word.trailing_zeros()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// What is known of the files that are watched, by inode number: of files with the same number on several file systems
/// together.
#[derive(Debug, Default)]
struct Watched(HashMap<u64, Option<Pages>>);

impl Watched {
    fn wrote(&mut self, inode: u64, first: u64, count: u64) {
        if let Some(known) = self.0.get_mut(&inode)
            && known.as_mut().is_some_and(|pages| !pages.insert(first, count))
        {
            *known = None;
        }
    }

    /// Records were lost: of no file is it known what was written.
    fn lose(&mut self) {
        self.0.values_mut().for_each(|known| *known = None);
    }
}

/// One tracepoint: its number, and where its fields are in a record.
#[derive(Debug, Clone)]
struct Tracepoint {
    id: u64,
    inode: usize,
    /// The first page, or the first byte.
    from: usize,
    /// How many bytes.
    count: Option<usize>,
}

/// The records of one processor.
#[derive(Debug)]
struct Ring {
    events: Vec<OwnedFd>,
    base: AtomicPtr<u8>,
}

/// Follows which pages of some files are written, on the whole machine. Dropped, it ends.
#[derive(Debug)]
pub struct WrittenPages {
    shared: Arc<Shared>,
    reading: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    watched: Mutex<Watched>,
    rings: Vec<Ring>,
    tracepoints: [Tracepoint; 2],
    /// The processors that are followed; a new one could write unseen.
    processors: String,
    ended: AtomicBool,
}

impl WrittenPages {
    /// Begins to follow.
    ///
    /// # Errors
    /// When the kernel cannot be traced, or we may not.
    pub fn begin() -> io::Result<Self> {
        let tracepoints = tracepoints()?;
        let processors = online()?;
        let rings: io::Result<Vec<Ring>> =
            listed(&processors).map(|processor| Ring::open(processor, &tracepoints)).collect();
        let shared = Arc::new(Shared {
            watched: Mutex::default(),
            rings: rings?,
            tracepoints,
            processors,
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let reading = std::thread::Builder::new().name("written".into()).spawn(move || own.read())?;
        Ok(Self { shared, reading: Some(reading) })
    }

    /// Watches the files with this inode number from now on, or goes on doing so.
    pub fn watch(&self, inode: u64) {
        self.shared.watched().0.entry(inode).or_insert_with(|| Some(Pages::default()));
    }

    /// The pages that were written since `watch`, or since they were taken last; `None` when nobody knows.
    #[must_use]
    pub fn take(&self, inode: u64) -> Option<Pages> {
        self.look(inode, |known| known.replace(Pages::default()))
    }

    /// How many pages that would be.
    #[must_use]
    pub fn count(&self, inode: u64) -> Option<u64> {
        self.look(inode, |known| known.as_ref().map(Pages::len))
    }

    fn look<T>(&self, inode: u64, look: impl FnOnce(&mut Option<Pages>) -> Option<T>) -> Option<T> {
        let mut watched = self.shared.watched();
        self.shared.drain(&mut watched);
        if online().ok()? != self.shared.processors {
            watched.lose();
        }
        look(watched.0.get_mut(&inode)?)
    }
}

impl Drop for WrittenPages {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
    }
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads records before there are too many.
    fn read(&self) {
        let mut waits: Vec<libc::pollfd> = self
            .rings
            .iter()
            .filter_map(|ring| ring.events.first())
            .map(|event| libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        while !self.ended.load(Ordering::Relaxed) {
            // SAFETY: the array is as long as it says. Whatever comes of it, we look.
            unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, LOOK) };
            self.drain(&mut self.watched());
        }
    }

    fn drain(&self, watched: &mut Watched) {
        for ring in &self.rings {
            ring.drain(|record| self.happened(watched, record));
        }
    }

    fn happened(&self, watched: &mut Watched, record: Record<'_>) {
        let raw = match record {
            Record::Lost => return watched.lose(),
            Record::Sample(raw) => raw,
        };
        let id = number::<2>(raw, 0);
        let Some(point) = self.tracepoints.iter().find(|point| Some(point.id) == id) else { return };
        let (Some(inode), Some(from)) = (number::<8>(raw, point.inode), number::<8>(raw, point.from)) else {
            return watched.lose();
        };
        match point.count {
            None => watched.wrote(inode, from, largest_folio(from)),
            Some(count) => {
                let count = number::<8>(raw, count).unwrap_or(u64::MAX - from);
                let (first, end) = (from / PAGE, from.saturating_add(count).div_ceil(PAGE));
                watched.wrote(inode, first, end - first);
            }
        }
    }
}

/// How many pages the folio may have that begins with this page.
fn largest_folio(first: u64) -> u64 {
    if first == 0 { LARGEST_FOLIO } else { (1 << first.trailing_zeros().min(63)).min(LARGEST_FOLIO) }
}

fn number<const BYTES: usize>(raw: &[u8], at: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes[..BYTES].copy_from_slice(raw.get(at..at + BYTES)?);
    Some(u64::from_le_bytes(bytes))
}

enum Record<'a> {
    /// What a tracepoint said.
    Sample(&'a [u8]),
    /// Some that nobody will hear.
    Lost,
}

impl Ring {
    fn open(processor: u32, tracepoints: &[Tracepoint]) -> io::Result<Self> {
        let mut events: Vec<OwnedFd> = Vec::new();
        for point in tracepoints {
            events.push(open_event(point.id, processor)?);
        }
        let (first, others) = events.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let length = RING + PAGE as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, which nothing else uses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, first.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let (base, first) = (AtomicPtr::new(base.cast()), first.as_raw_fd());
        for other in others {
            /// `_IO('$', 5)`: this event's records go where the other's do.
            const SET_OUTPUT: libc::c_ulong = 0x2405;
            // SAFETY: both are events of ours.
            if unsafe { libc::ioctl(other.as_raw_fd(), SET_OUTPUT as _, first) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let ring = Self { events, base };
        for event in &ring.events {
            /// `_IO('$', 0)`
            const ENABLE: libc::c_ulong = 0x2400;
            // SAFETY: an event of ours.
            if unsafe { libc::ioctl(event.as_raw_fd(), ENABLE as _, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(ring)
    }

    /// A field of the first page, which the kernel and we both write to.
    fn field(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the page is mapped for as long as the ring is, and the field is aligned to its size.
        unsafe { &*self.base.load(Ordering::Relaxed).add(offset).cast::<AtomicU64>() }
    }

    /// Reads what has come; the caller sees to it that one does so at a time.
    fn drain(&self, mut each: impl FnMut(Record<'_>)) {
        // `data_head` and `data_tail` of `struct perf_event_mmap_page`.
        let (head, tail) = (self.field(1024), self.field(1032));
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        let mut record = Vec::new();
        while at < end {
            let mut header = [0; 8];
            self.copy(at, &mut header);
            let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let length = usize::from(u16::from_le_bytes([header[6], header[7]]));
            if length < header.len() {
                each(Record::Lost);
                at = end;
                break;
            }
            record.resize(length - header.len(), 0);
            self.copy(at + header.len() as u64, &mut record);
            match kind {
                // Behind its own length.
                9 => each(Record::Sample(record.get(4..).unwrap_or_default())),
                2 => each(Record::Lost),
                _ => {}
            }
            at += length as u64;
        }
        fence(Ordering::SeqCst);
        tail.store(at, Ordering::Release);
    }

    fn copy(&self, at: u64, into: &mut [u8]) {
        let data = self.base.load(Ordering::Relaxed);
        for (index, byte) in into.iter_mut().enumerate() {
            let offset = (at as usize + index) & (RING - 1);
            // SAFETY: within the mapping; the kernel writes only behind `data_head`.
            *byte = unsafe { data.add(PAGE as usize + offset).read_volatile() };
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and used by nobody any more.
        unsafe { libc::munmap(self.base.load(Ordering::Relaxed).cast(), RING + PAGE as usize) };
    }
}

/// The first version of `struct perf_event_attr`.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    breakpoint: u32,
    config_1: u64,
}

fn open_event(id: u64, processor: u32) -> io::Result<OwnedFd> {
    const TRACEPOINT: u32 = 2;
    const SAMPLE_RAW: u64 = 1 << 10;
    const DISABLED: u64 = 1;
    const WATERMARK: u64 = 1 << 14;
    const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: id,
        sample_period: 1,
        sample_type: SAMPLE_RAW,
        read_format: 0,
        flags: DISABLED | WATERMARK,
        wakeup_watermark: (RING / 4) as u32,
        breakpoint: 0,
        config_1: 0,
    };
    // SAFETY: the structure has the size that it says. All processes, one processor, no group.
    let event = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, processor as i32, -1, CLOSE_ON_EXEC)
    };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(event as i32) })
}

/// The tracepoints, as this kernel has them. Its description of them is mounted for us alone, and for a moment.
fn tracepoints() -> io::Result<[Tracepoint; 2]> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let read = |path: String| -> io::Result<String> {
        let path = CString::new(path)?;
        let file = rustix::fs::openat(&mount, path.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::read_to_string(std::fs::File::from(file))
    };
    let point = |name: &str, from: &str, count: Option<&str>| -> io::Result<Tracepoint> {
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "the tracepoint is described in an unknown way");
        let id = read(format!("events/{name}/id"))?.trim().parse().map_err(|_| unknown())?;
        let format = read(format!("events/{name}/format"))?;
        let field = |name: &str| field(&format, name).ok_or_else(unknown);
        Ok(Tracepoint { id, inode: field("ino")?, from: field(from)?, count: count.map(field).transpose()? })
    };
    Ok([
        point("writeback/writeback_dirty_folio", "index", None)?,
        point("iomap/iomap_dio_rw_begin", "pos", Some("count"))?,
    ])
}

/// Where a field of 8 bytes is, by a tracepoint's `format` file.
fn field(format: &str, name: &str) -> Option<usize> {
    let line = format.lines().find(|line| {
        line.trim_start()
            .strip_prefix("field:")
            .and_then(|rest| rest.split(';').next())
            .is_some_and(|declared| declared.rsplit(' ').next() == Some(name))
    })?;
    let value = |key: &str| line.split(';').find_map(|part| part.trim().strip_prefix(key))?.parse().ok();
    (value("size:") == Some(8_usize)).then(|| value("offset:")).flatten()
}

fn online() -> io::Result<String> {
    std::fs::read_to_string("/sys/devices/system/cpu/online")
}

/// The processors of a list like `0-3,8`.
fn listed(list: &str) -> impl Iterator<Item = u32> {
    list.trim().split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok(), last.parse::<u32>().ok());
        first.zip(last).into_iter().flat_map(|(first, last)| first..=last)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_folio_is_as_large_as_its_place_allows() {
        assert_eq!([0, 1, 2, 3, 768, 1024, 4096].map(largest_folio), [512, 1, 2, 1, 256, 512, 512]);
    }

    #[test]
    fn processors_and_fields_are_found_in_what_the_kernel_writes() {
        assert_eq!(listed("0-2,8\n").collect::<Vec<_>>(), [0, 1, 2, 8]);
        assert_eq!(listed("x").count(), 0);
        let format = "\tfield:char name[32];\toffset:8;\tsize:32;\tsigned:0;\n\tfield:ino_t ino;\toffset:40;\tsize:8;\tsigned:0;\n";
        assert_eq!(field(format, "ino"), Some(40));
        assert_eq!((field(format, "index"), field(format, "name[32]")), (None, None));
    }

    #[test]
    fn pages_that_are_too_many_are_not_kept() {
        let mut pages = Pages::default();
        assert!(pages.insert(70, 2) && pages.contains(70) && pages.contains(71) && !pages.contains(72));
        assert_eq!(pages.len(), 2);
        assert!(pages.insert(300, 1));
        assert_eq!(
            [0, 70, 71, 72, 300, 301].map(|from| pages.next(from)),
            [Some(70), Some(70), Some(71), Some(300), Some(300), None]
        );
        assert!(!pages.insert(Pages::MOST, 1) && !pages.insert(u64::MAX, 2));
    }

    /// Needs the right to trace; elsewhere there is nothing to test.
    #[test]
    fn what_is_written_is_told_and_what_is_not_is_not() {
        let Ok(written) = WrittenPages::begin() else { return };
        // Beside this program, which is on no file system in memory.
        let program = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        file.write_all_at(&vec![1; 8 << 20], 0).unwrap();
        crate::file::clean_pages(&file, true).unwrap();
        let inode = file.metadata().unwrap().ino();
        assert_eq!(written.take(inode), None, "nobody watched");
        written.watch(inode);
        assert!(written.take(inode).unwrap().is_empty());
        file.write_all_at(&[2; 10], 1001 * PAGE).unwrap();
        assert!(written.count(inode).unwrap() >= 1);
        let pages = written.take(inode).unwrap();
        assert!(pages.contains(1001) && pages.len() <= LARGEST_FOLIO, "{}", pages.len());
        // Dirty as it is it stays silent, and cleaned it does not.
        crate::file::clean_pages(&file, true).unwrap();
        file.write_all_at(&[3; 10], 1001 * PAGE + 100).unwrap();
        assert!(written.take(inode).unwrap().contains(1001));
    }
}
