//! Pages that follow a container which runs already: the target wishes for them, the source answers from the processes that
//! stand still there.
//!
//! The filler is in the shim, the link to the source in the agent, which may end and come back: between the two is a
//! socket that keeps message boundaries. From the filler come wishes, and a wish for nothing (process 0) once no page is
//! on the source alone any more. To the filler go pieces: process (`u64`), address (`u64`), pages (`u32`), all little
//! endian, and the content, which is missing when all is zero. On the link wishes are 20 bytes each: process, address and
//! pages as in a piece; the answers are a page stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use drover_model::PageCount;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recv, send, shutdown, socket_with,
};

use crate::mappings::inside;
use crate::reader::read_single;
use crate::record::{MAX_RUN, Object, PRESENT, Record};
use crate::store::ZERO;
use crate::stream::{StreamError, StreamReader, StreamWriter};

const PAGE: u64 = PageCount::PAGE;
/// The most pages in a wish, and in a piece.
pub(crate) const MOST: u32 = 16;
/// The size of a wish, and of what stands before the content of a piece.
pub(crate) const HEADER: usize = 20;
/// The size of the longest piece in bytes; below the bound of the kernel's socket buffers.
const LONGEST: usize = HEADER + (MOST as usize) * PAGE as usize;

/// The pause between two looks whether a filler listens.
const LOOK: Duration = Duration::from_millis(2);

/// Why pages can no longer follow.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The link.
    #[error("cannot ask for pages")]
    Link(#[from] io::Error),
    /// What came over it.
    #[error("cannot receive pages that follow")]
    Stream(#[from] StreamError),
    /// A wish that nobody may have.
    #[error("the target wishes for pages that make no sense")]
    Wish,
    /// The processes.
    #[error("cannot read the container's memory")]
    Read(#[source] io::Error),
    /// A process that had pages has ended: they are lost.
    #[error("process {0} of it, which had them, has ended")]
    Lost(u64),
}

/// Pages that are wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The process's id in its own namespace; 0: nothing is missing any more.
    pub process: u64,
    /// Where the pages are on the source.
    pub address: u64,
    /// How many.
    pub pages: u32,
}

impl Wish {
    pub const NOTHING: Self = Self { process: 0, address: 0, pages: 0 };

    pub fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.process.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.address.to_le_bytes());
        bytes[16..].copy_from_slice(&self.pages.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let pages = u32::from_le_bytes(bytes[16..].try_into().expect("four bytes"));
        Self { process: word(0), address: word(8), pages }
    }

    /// Whether it could be the wish of an honest peer.
    fn is_sane(self) -> bool {
        let end = self.address.checked_add(u64::from(self.pages) * PAGE);
        self.process != 0
            && (1..=MOST).contains(&self.pages)
            && self.address.is_multiple_of(PAGE)
            && end.is_some_and(|end| end <= i64::MAX as u64)
    }
}

/// Answers wishes from the memory of processes that stand still, until there are no more of them.
///
/// # Errors
/// When the link breaks, a wish makes no sense, or a process is gone.
pub fn answer(pids: &[u32], mut wishes: impl Read, out: impl Write) -> Result<(), FollowError> {
    let mut processes = BTreeMap::new();
    for pid in pids {
        match inside(*pid).and_then(|id| Ok((id, File::open(format!("/proc/{pid}/mem"))?))) {
            Ok((id, memory)) => drop(processes.insert(id, memory)),
            // It has just ended: whoever wishes for its pages will hear of it.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH)) => {}
            Err(error) => return Err(FollowError::Read(error)),
        }
    }
    let mut out = StreamWriter::new(out)?;
    let mut buffer = vec![0; LONGEST - HEADER];
    let mut current = 0;
    loop {
        let mut bytes = [0; HEADER];
        match wishes.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let wish = Wish::decode(&bytes);
        if !wish.is_sane() {
            return Err(FollowError::Wish);
        }
        let memory = processes.get(&wish.process).ok_or(FollowError::Lost(wish.process))?;
        let content = &mut buffer[..wish.pages as usize * PAGE as usize];
        match memory.read_exact_at(content, wish.address) {
            Ok(()) => {}
            // There is nothing to be read any more: what was there is lost, and not zero.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(FollowError::Lost(wish.process)),
            Err(_) => read_single(memory, wish.address, content),
        }
        if current != wish.process {
            out.object(Object::Process(wish.process))?;
            current = wish.process;
        }
        send_content(&mut out, wish.address, content)?;
        out.content().flush()?;
    }
}

/// Sends pages side by side: runs with content, and runs of zeros.
fn send_content(stream: &mut StreamWriter<impl Write>, address: u64, content: &[u8]) -> io::Result<()> {
    let pages: Vec<bool> = content.chunks(PAGE as usize).map(|page| page.iter().all(|byte| *byte == 0)).collect();
    let mut first = 0;
    for run in pages.chunk_by(|a, b| a == b) {
        let (from, to) = (first * PAGE as usize, (first + run.len()) * PAGE as usize);
        let count = u32::try_from(run.len()).unwrap_or(MAX_RUN);
        if !run[0] {
            stream.run(PRESENT, address + from as u64, count)?;
            stream.content().write_all(&content[from..to])?;
        } else {
            stream.run(ZERO, address + from as u64, count)?;
        }
        first += run.len();
    }
    Ok(())
}

/// Listens at `path` for agents that relay.
///
/// # Errors
/// When the path is taken or cannot be made.
pub fn listen_for_relays(path: &Path) -> io::Result<OwnedFd> {
    const BACKLOG: i32 = 8;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Carries wishes of the filler that listens at `path`, or will `until` then, to the link, and what follows from there to
/// the filler, until one of the two ends. Whether the filler has everything.
///
/// # Errors
/// When the link breaks.
pub fn relay(
    path: &Path,
    until: Instant,
    mut wishes: impl Write,
    following: impl Read + Send + 'static,
) -> Result<bool, FollowError> {
    let filler = loop {
        match reach(path)? {
            Some(filler) => break filler,
            None if Instant::now() > until => return Ok(false),
            None => std::thread::sleep(LOOK),
        }
    };
    let carrying = filler.try_clone()?;
    // It ends with the link, which may be later than our end.
    std::thread::Builder::new().name("following".into()).spawn(move || {
        // A link that ends is heard of elsewhere.
        let hand_on = |piece: &[u8]| send(&carrying, piece, SendFlags::NOSIGNAL).map(drop).map_err(io::Error::from);
        if let Err(FollowError::Stream(StreamError::Nonsense(why))) = cut(following, hand_on) {
            tracing::warn!(why, "the source sends pages that make no sense");
        }
        // Whoever waits for wishes waits in vain from now on.
        let _ = shutdown(&carrying, Shutdown::Both);
    })?;
    let mut bytes = [0; HEADER];
    while receive(&filler, &mut bytes)? == HEADER {
        if Wish::decode(&bytes) == Wish::NOTHING {
            return Ok(true);
        }
        wishes.write_all(&bytes)?;
        wishes.flush()?;
    }
    Ok(false)
}

/// A connection to the filler at `path`, if it listens: at first it has no socket, and then one that nobody listens at.
fn reach(path: &Path) -> io::Result<Option<OwnedFd>> {
    let filler = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match connect(&filler, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(Some(filler)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Cuts a page stream into pieces as the filler takes them, and hands each on.
///
/// # Errors
/// When the stream breaks or has what cannot follow, or a piece is not taken.
pub fn cut(following: impl Read, mut hand_on: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), FollowError> {
    let mut stream = StreamReader::new(following)?;
    let mut piece = vec![0; LONGEST];
    let mut process = 0;
    loop {
        let (flags, mut address, mut left) = match stream.record()? {
            Record::Object(Object::Process(id)) => {
                process = id;
                continue;
            }
            Record::Run { flags, address, pages } => (flags, address, pages),
            Record::Object(_) | Record::Block { .. } | Record::Mark | Record::Description(_) => {
                return Err(StreamError::Nonsense("what cannot follow").into());
            }
            Record::End => return Ok(()),
        };
        while left > 0 {
            let pages = left.min(MOST);
            piece[..HEADER].copy_from_slice(&Wish { process, address, pages }.encode());
            let length = match flags {
                PRESENT => pages as usize * PAGE as usize,
                ZERO => 0,
                _ => return Err(StreamError::Nonsense("unknown flags of a run").into()),
            };
            stream.content().read_exact(&mut piece[HEADER..HEADER + length])?;
            hand_on(&piece[..HEADER + length])?;
            address += u64::from(pages) * PAGE;
            left -= pages;
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            // Said once when the other side was closed with something unread; what it sent before is there still.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            other => return Ok(other?.0),
        }
    }
}

/// Tells every relay that connects from now on that nothing is missing any more. Returns only when the socket breaks.
///
/// # Errors
/// When it does.
pub fn dismiss_relays(agents: &OwnedFd) -> io::Result<()> {
    loop {
        Relay::accept(agents)?.wish(Wish::NOTHING);
    }
}

/// The filler's end of a relay.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: OwnedFd,
}

impl Relay {
    /// The size of the longest piece in bytes.
    pub const LONGEST: usize = LONGEST;

    /// Takes the next relay of those that have connected.
    pub fn accept(listener: &OwnedFd) -> io::Result<Self> {
        let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        Ok(Self { socket })
    }

    /// Sends a wish; whether it was taken. It is not when too many wait, or the relay is gone.
    pub fn wish(&self, wish: Wish) -> bool {
        send(&self.socket, &wish.encode(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }

    /// What has come, if anything has: which pages, and their content in `buffer` from `HEADER` on, of this length; none
    /// when all is zero.
    ///
    /// # Errors
    /// When the relay is gone, or brings what makes no sense.
    pub fn brought(&self, buffer: &mut [u8]) -> io::Result<Option<(Wish, usize)>> {
        let length = match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            other => other?.0,
        };
        let Some((header, content)) = buffer[..length].split_first_chunk() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let wish = Wish::decode(header);
        if !wish.is_sane() || (!content.is_empty() && content.len() != wish.pages as usize * PAGE as usize) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Some((wish, content.len())))
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use drover_sys::map::Anonymous;

    use super::*;

    #[test]
    fn a_filler_that_has_a_socket_but_does_not_listen_yet_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relays");
        assert!(reach(&path).unwrap().is_none());
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert!(reach(&path).unwrap().is_none());
        assert!(!relay(&path, Instant::now(), io::sink(), io::empty()).unwrap());
        listen(&socket, 1).unwrap();
        assert!(reach(&path).unwrap().is_some());
    }

    #[test]
    fn that_nothing_is_missing_is_heard_although_the_filler_leaves_something_unread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relays");
        let listener = listen_for_relays(&path).unwrap();
        let mut following = Vec::new();
        let mut stream = StreamWriter::new(&mut following).unwrap();
        stream.object(Object::Process(9)).unwrap();
        stream.run(ZERO, 0, 1).unwrap();
        // The link is there to the end.
        let (link, _source) = std::os::unix::net::UnixStream::pair().unwrap();
        let following = io::Cursor::new(following).chain(link);
        std::thread::scope(|scope| {
            let relaying = scope.spawn(|| relay(&path, Instant::now(), io::sink(), following));
            let filler = Relay::accept(&listener).unwrap();
            let mut waiting = [rustix::event::PollFd::new(&filler, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut waiting, None).unwrap();
            assert!(filler.wish(Wish::NOTHING));
            drop(filler);
            assert!(relaying.join().unwrap().unwrap());
        });
    }

    #[test]
    fn a_process_that_has_died_is_not_answered_for_with_zeros() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        let wish = Wish { process: inside(pid).unwrap(), address: 16 * PAGE, pages: 1 }.encode();
        let mut out = Vec::new();
        let (wishes, mut writer) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| answer(&[pid], wishes, &mut out));
            // Nothing is mapped there; what matters is what comes after its end.
            writer.write_all(&wish).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            // It may have found out already.
            let _ = writer.write_all(&wish);
            assert!(matches!(answering.join().unwrap(), Err(FollowError::Lost(_))));
        });
    }

    #[test]
    fn wishes_are_answered_from_memory_and_nonsense_is_refused() {
        let memory = Anonymous::new(4 * PAGE as usize).unwrap();
        memory.write(5, 7);
        memory.write(2 * PAGE as usize, 9);
        let pid = std::process::id();
        let wish = |address: u64, pages: u32| Wish { process: pid.into(), address, pages }.encode();
        let start = memory.address();
        let mut out = Vec::new();
        answer(&[pid], &[wish(start, 3), wish(start + 3 * PAGE, 1)].concat()[..], &mut out).unwrap();
        let mut stream = StreamReader::new(&out[..]).unwrap();
        assert_eq!(stream.record().unwrap(), Record::Object(Object::Process(pid.into())));
        let mut page = [0; PAGE as usize];
        for (number, flags) in [PRESENT, ZERO, PRESENT, ZERO].into_iter().enumerate() {
            let address = start + number as u64 * PAGE;
            assert_eq!(stream.record().unwrap(), Record::Run { flags, address, pages: 1 });
            if flags == PRESENT {
                stream.content().read_exact(&mut page).unwrap();
                assert_eq!((page[0], page[5]), if number == 0 { (0, 7) } else { (9, 0) });
            }
        }
        let strange = Wish { process: 1, address: start, pages: 1 }.encode();
        for wrong in [wish(start, 0), wish(start, MOST + 1), wish(start + 1, 1), wish(u64::MAX - 4095, 1)] {
            assert!(matches!(answer(&[pid], &wrong[..], io::sink()), Err(FollowError::Wish)));
        }
        assert!(matches!(answer(&[pid], &strange[..], io::sink()), Err(FollowError::Lost(1))));
    }
}
