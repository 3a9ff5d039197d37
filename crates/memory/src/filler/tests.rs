//! Fillers against processes, agents and a CRIU that the tests play themselves.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc;

use std::os::fd::AsFd;

use drover_sys::map::Anonymous;
use drover_sys::uffd::feature;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::following::{HEADER, Wish, listen_for_relays};
use crate::record::{Object, PRESENT};
use crate::store::{AWAIT, KEEP, store_whole};
use crate::stream::StreamWriter;

const PAGES: u64 = 700;
/// `MADV_DONTNEED` (`madvise(2)`).
const DONT_NEED: i32 = 4;

/// The byte that a page is full of; every tenth page is zero and not in the store.
fn byte(page: u64) -> u8 {
    if page.is_multiple_of(10) { 0 } else { (page % 251) as u8 + 1 }
}

/// Has faults of these pages reported as CRIU does.
fn register(start: u64) -> Userfaultfd {
    let faults = Userfaultfd::new().unwrap();
    faults.agree(feature::EVENT_REMOVE | feature::EVENT_UNMAP | feature::EVENT_REMAP).unwrap();
    faults.register_missing(start, PAGES * PAGE).unwrap();
    faults
}

/// A filler of what a stream has brought to a directory of process 9, and where it listens: for CRIU, and for agents.
fn filler(
    directory: &Path,
    write: impl FnOnce(&mut StreamWriter<&mut Vec<u8>>),
) -> (Filler<'static>, UnixListener, OwnedFd) {
    let mut stream = Vec::new();
    let mut writer = StreamWriter::new(&mut stream).unwrap();
    writer.object(Object::Process(9)).unwrap();
    write(&mut writer);
    writer.end().unwrap();
    store_whole(directory, stream);
    let listener = UnixListener::bind(directory.join("socket")).unwrap();
    let agents = listen_for_relays(&directory.join("agents")).unwrap();
    (Filler::new(Stored::open(directory).unwrap().unwrap(), &Vec::new).unwrap(), listener, agents)
}

/// What CRIU says of a process.
fn introduce(criu: &mut UnixStream, id: i32, faults: &Userfaultfd) {
    criu.write_all(&id.to_ne_bytes()).unwrap();
    let descriptors = [faults.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&*criu, &[io::IoSlice::new(&[0])], &mut ancillary, SendFlags::empty()).unwrap();
}

/// An agent that answers so many wishes, with pages of a byte each, and then is gone. Gives how many it heard, and
/// whether it heard that nothing is missing.
fn answer_wishes(path: &Path, start: u64, most: usize) -> (usize, bool) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, recv, send, socket};
    let relay = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&relay, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let mut bytes = [0; HEADER];
    for heard in 0..most {
        assert_eq!(recv(&relay, &mut bytes[..], RecvFlags::empty()).unwrap().0, HEADER);
        let wish = Wish::decode(&bytes);
        if wish == Wish::NOTHING {
            return (heard, true);
        }
        let first = (wish.address - start) / PAGE;
        for page in first..first + u64::from(wish.pages) {
            // Zeros are said and not sent.
            let content = vec![byte(page); if byte(page) == 0 { 0 } else { PAGE as usize }];
            let header = Wish { process: wish.process, address: start + page * PAGE, pages: 1 }.encode();
            send(&relay, &[&header[..], &content].concat(), SendFlags::empty()).unwrap();
        }
    }
    (most, false)
}

#[test]
fn pages_that_follow_come_even_when_the_link_is_lost_on_the_way() {
    let memory = Anonymous::new((PAGES * PAGE) as usize).unwrap();
    let start = memory.address();
    let directory = tempfile::tempdir().unwrap();
    let (filler, listener, agents) = filler(directory.path(), |writer| {
        // What is in the store is old where it follows.
        writer.run(PRESENT, start, 300).unwrap();
        for page in 0..300 {
            writer.content().write_all(&[if page < 200 { byte(page) } else { 99 }; PAGE as usize]).unwrap();
        }
        writer.run(KEEP, start, PAGES as u32).unwrap();
        writer.run(AWAIT, start + 200 * PAGE, (PAGES - 200) as u32).unwrap();
    });

    let faults = register(start);
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| filler.serve(&listener, &agents).unwrap());
        let mut criu = UnixStream::connect(directory.path().join("socket")).unwrap();
        introduce(&mut criu, 9, &faults);
        drop(faults);
        criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
        let path = directory.path().join("agents");
        assert_eq!(answer_wishes(&path, start, 7), (7, false));
        let answering = scope.spawn(move || answer_wishes(&path, start, usize::MAX));
        for page in (0..PAGES).rev() {
            assert_eq!(memory.read((page * PAGE) as usize + 7), byte(page), "page {page}");
        }
        assert!(answering.join().unwrap().1, "it hears that nothing is missing");
        assert_eq!(filling.join().unwrap().pages, PAGES);
    });
}

#[test]
fn every_page_comes_to_its_place_and_whoever_waits_goes_on() {
    let memory = Anonymous::new((PAGES * PAGE) as usize).unwrap();
    let start = memory.address();
    let directory = tempfile::tempdir().unwrap();
    let (filler, listener, agents) = filler(directory.path(), |writer| {
        for page in (0..PAGES).filter(|page| byte(*page) != 0) {
            writer.run(PRESENT, start + page * PAGE, 1).unwrap();
            writer.content().write_all(&[byte(page); PAGE as usize]).unwrap();
        }
        writer.run(KEEP, start, PAGES as u32).unwrap();
    });

    let faults = register(start);
    let path = directory.path().join("socket");
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| filler.serve(&listener, &agents).unwrap());
        // What CRIU does.
        let mut criu = UnixStream::connect(&path).unwrap();
        criu.write_all(&(-3_i32).to_ne_bytes()).unwrap();
        introduce(&mut criu, 9, &faults);
        // A task closes its own, or nobody would ever leave what is zero to the kernel.
        drop(faults);
        // Somebody waits before CRIU has finished.
        for page in [333, 20, 699] {
            assert_eq!(memory.read((page * PAGE) as usize + 5), byte(page));
        }
        criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
        for page in 0..PAGES {
            assert_eq!(memory.read((page * PAGE) as usize + 7), byte(page), "page {page}");
        }
        let filled = filling.join().unwrap();
        assert_eq!(filled.pages, (0..PAGES).filter(|page| byte(*page) != 0).count() as u64);
        assert!(filled.faults >= 3);
    });
}

/// Waits until a thread of this process sleeps in the kernel.
fn await_sleep(thread: &mpsc::Receiver<rustix::process::Pid>) {
    let path = format!("/proc/self/task/{}/stat", thread.recv().unwrap().as_raw_nonzero());
    let sleeps = || std::fs::read_to_string(&path).unwrap().rsplit(") ").next().unwrap().starts_with(['S', 'D']);
    let until = Instant::now() + Duration::from_secs(20);
    while !sleeps() {
        assert!(Instant::now() < until, "it goes on");
        std::thread::yield_now();
    }
}

/// A filler that has all pages of process 9 from `start` on.
fn filler_of_all(directory: &Path, start: u64) -> (Filler<'static>, UnixListener, OwnedFd) {
    filler(directory, |writer| {
        writer.run(PRESENT, start, PAGES as u32).unwrap();
        for page in 0..PAGES {
            writer.content().write_all(&[byte(page); PAGE as usize]).unwrap();
        }
        writer.run(KEEP, start, PAGES as u32).unwrap();
    })
}

#[test]
fn a_thread_that_waits_while_another_gives_memory_back_is_not_forgotten() {
    let memory = Anonymous::new((PAGES * PAGE) as usize).unwrap();
    let start = memory.address();
    let directory = tempfile::tempdir().unwrap();
    let (filler, listener, agents) = filler_of_all(directory.path(), start);

    let faults = register(start);
    let path = directory.path().join("socket");
    std::thread::scope(|scope| {
        let (says, thread) = mpsc::channel();
        let says_too = says.clone();
        let (has_read, read) = mpsc::channel();
        let memory = &memory;
        scope.spawn(move || {
            says.send(rustix::thread::gettid()).unwrap();
            has_read.send(memory.read(333 * PAGE as usize)).unwrap();
        });
        await_sleep(&thread);
        // The kernel tells of waiting threads first, and nothing can be brought before it has told of this.
        scope.spawn(move || {
            says_too.send(rustix::thread::gettid()).unwrap();
            memory.advise(DONT_NEED).unwrap();
        });
        await_sleep(&thread);
        let filling = scope.spawn(|| filler.serve(&listener, &agents).unwrap());
        let mut criu = UnixStream::connect(&path).unwrap();
        introduce(&mut criu, 9, &faults);
        drop(faults);
        // Whether its content or what is left of it: it goes on before CRIU has finished.
        let got = read.recv_timeout(Duration::from_secs(20));
        criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
        assert!(got == Ok(byte(333)) || got == Ok(0), "{got:?}");
        filling.join().unwrap();
    });
}

#[test]
fn a_mapping_that_moves_to_where_another_has_just_gone_keeps_its_pages() {
    const HALF: u64 = PAGES / 2 * PAGE;
    let reserved = Anonymous::new((PAGES * PAGE) as usize).unwrap();
    let start = reserved.address();
    drop(reserved);
    let moving = Anonymous::at(start, HALF as usize).unwrap();
    let going = Anonymous::at(start + HALF, HALF as usize).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (filler, listener, agents) = filler_of_all(directory.path(), start);

    let faults = register(start);
    std::thread::scope(|scope| {
        let (says, thread) = mpsc::channel();
        let says_too = says.clone();
        let (has_begun, begun) = mpsc::channel();
        let (has_gone, gone) = mpsc::channel();
        let moving = &moving;
        let moved = scope.spawn(move || {
            has_begun.send(()).unwrap();
            gone.recv().unwrap();
            let until = Instant::now() + Duration::from_secs(20);
            let there = loop {
                match Anonymous::at(start + HALF, HALF as usize) {
                    Ok(there) => break there,
                    Err(error) => assert!(Instant::now() < until, "{error}"),
                }
            };
            says_too.send(rustix::thread::gettid()).unwrap();
            moving.move_onto(0, &there, 0, HALF as usize).unwrap();
            there
        });
        // Its stacks would find room where the other one was.
        begun.recv().unwrap();
        scope.spawn(move || {
            says.send(rustix::thread::gettid()).unwrap();
            drop(going);
        });
        await_sleep(&thread);
        has_gone.send(()).unwrap();
        await_sleep(&thread);
        // Both wait to be heard.
        let filling = scope.spawn(|| filler.serve(&listener, &agents).unwrap());
        let mut criu = UnixStream::connect(directory.path().join("socket")).unwrap();
        introduce(&mut criu, 9, &faults);
        drop(faults);
        let there = moved.join().unwrap();
        criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
        for page in 0..PAGES / 2 {
            assert_eq!(there.read((page * PAGE) as usize), byte(page), "page {page}");
        }
        assert_eq!(filling.join().unwrap().pages, PAGES / 2);
    });
}

#[test]
fn a_page_that_is_waited_for_before_an_agent_connects_is_wished_for_when_it_does() {
    let memory = Anonymous::new((PAGES * PAGE) as usize).unwrap();
    let start = memory.address();
    let directory = tempfile::tempdir().unwrap();
    let (filler, listener, agents) = filler(directory.path(), |writer| {
        writer.run(AWAIT, start, PAGES as u32).unwrap();
    });

    let faults = register(start);
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| filler.serve(&listener, &agents).unwrap());
        let mut criu = UnixStream::connect(directory.path().join("socket")).unwrap();
        introduce(&mut criu, 9, &faults);
        drop(faults);
        // Two threads wait, and CRIU does not finish before they have got what they wait for.
        let (says, thread) = mpsc::channel();
        let memory = &memory;
        let readers = [401, 3].map(|page| {
            let says = says.clone();
            let reader = scope.spawn(move || {
                says.send(rustix::thread::gettid()).unwrap();
                memory.read((page * PAGE) as usize)
            });
            await_sleep(&thread);
            (page, reader)
        });
        let path = directory.path().join("agents");
        let answering = scope.spawn(move || answer_wishes(&path, start, usize::MAX));
        for (page, reader) in readers {
            assert_eq!(reader.join().unwrap(), byte(page));
        }
        criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
        assert!(answering.join().unwrap().1, "it hears that nothing is missing");
        filling.join().unwrap();
    });
}

#[test]
fn a_page_that_comes_while_mappings_change_is_put_in_its_place_when_they_do_not() {
    let (memory, other) = (Anonymous::new(PAGE as usize).unwrap(), Anonymous::new(PAGE as usize).unwrap());
    let faults = Userfaultfd::new().unwrap();
    faults.agree(feature::EVENT_REMOVE | feature::EVENT_UNMAP | feature::EVENT_REMAP).unwrap();
    [&memory, &other].into_iter().for_each(|memory| faults.register_missing(memory.address(), PAGE).unwrap());
    let page = memory.address() / PAGE;
    let mut awaited = Pieces::default();
    awaited.insert(memory.address(), crate::pieces::Piece { pages: 1, slot: page });
    let mut process = Process::new(9, faults, Pieces::default(), awaited);
    std::thread::scope(|scope| {
        let (says, thread) = mpsc::channel();
        let other = &other;
        let adviser = scope.spawn(move || {
            says.send(rustix::thread::gettid()).unwrap();
            other.advise(DONT_NEED).unwrap();
        });
        await_sleep(&thread);
        // It is kept, and nothing more is known of it than that.
        assert_eq!(process.arrive(page, Some(&[7; PAGE as usize])).unwrap(), 0);
        assert!(process.is_hindered() && !process.is_served());
        process.hear().unwrap();
        adviser.join().unwrap();
        assert!(process.settle().unwrap().is_empty());
        assert_eq!(process.arrive_late().unwrap(), 1);
    });
    assert!(process.is_served());
    assert_eq!(memory.read(0), 7);
}

#[test]
fn a_restore_that_breaks_off_ends_the_filling() {
    let directory = tempfile::tempdir().unwrap();
    let (filler, listener, agents) = filler(directory.path(), |_| ());
    let path = directory.path().join("socket");
    drop(UnixStream::connect(&path).unwrap());
    assert!(matches!(filler.serve(&listener, &agents), Err(FillError::Criu(_))));
}
