//! Tests of the whole way: whatever is sent in whatever order, the store has it in the end.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use drover_model::Compression;
use proptest::prelude::*;

use crate::inflow::Inflow;
use crate::outflow::{Outflow, Verdict};
use crate::record::{Object, Run};
use crate::room::Room;
use crate::store::{KEEP, StoreError, ZERO, store};
use crate::stored::Stored;
use drover_packing::Algorithm;

const PAGE: usize = 4096;
/// Where the processes' memory begins.
const BASE: u64 = 0x7000_0000;
/// How many pages each of them has.
const PAGES: u64 = 400;

/// What a content looks like.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// One letter again and again.
    Letter,
    /// Words, more or less.
    Words,
    /// What nobody can pack.
    Noise,
}

#[derive(Debug, Clone)]
enum Step {
    /// Pages of a process get content of their own.
    Content { process: u64, page: u64, pages: u64, kind: Kind, seed: u64 },
    /// Pages become zero.
    Zero { process: u64, page: u64, pages: u64 },
    /// A round ends.
    Mark,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(Kind::Letter), Just(Kind::Words), Just(Kind::Noise)];
    prop_oneof![
        6 => (1..4_u64, 0..PAGES, 1..150_u64, kind, any::<u64>()).prop_map(|(process, page, pages, kind, seed)| {
            Step::Content { process, page, pages: pages.min(PAGES - page), kind, seed }
        }),
        2 => (1..4_u64, 0..PAGES, 1..50_u64).prop_map(|(process, page, pages)| {
            Step::Zero { process, page, pages: pages.min(PAGES - page) }
        }),
        1 => Just(Step::Mark),
    ]
}

/// A page of content that belongs to its address and seed alone.
fn content(kind: Kind, seed: u64, page: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(page).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[5]
    };
    match kind {
        Kind::Letter => vec![next() | 1; PAGE],
        Kind::Words => (0..PAGE).map(|_| b'a' + next() % 4).collect(),
        Kind::Noise => (0..PAGE).map(|_| next()).collect(),
    }
}

/// What each page of each process has; those that are missing are zero.
type Memory = BTreeMap<(u64, u64), Vec<u8>>;

/// Puts pages into the stream, which may take some at a time.
fn put(stream: &mut Outflow<&mut Vec<u8>>, first: u64, pages: &[Vec<u8>]) {
    let mut done = 0;
    while done < pages.len() {
        let room = stream.room().unwrap();
        let count = (room.len() / PAGE).min(pages.len() - done);
        for (page, into) in pages[done..done + count].iter().zip(room.chunks_mut(PAGE)) {
            into.copy_from_slice(page);
        }
        let run = Run { address: BASE + (first + done as u64) * PAGE as u64, pages: count as u32 };
        stream.put(std::iter::once(run), |_, _| Verdict::Send).unwrap();
        done += count;
    }
}

/// Sends all steps; the memory that there is in the end.
fn send(steps: &[Step], compression: Compression, out: &mut Vec<u8>) -> Memory {
    let mut memory = Memory::new();
    let mut stream = Outflow::new(out, compression, ZERO).unwrap();
    for step in steps {
        match *step {
            Step::Content { process, page, pages, kind, seed } => {
                let contents: Vec<Vec<u8>> = (page..page + pages).map(|page| content(kind, seed, page)).collect();
                stream.object(Object::Process(process)).unwrap();
                put(&mut stream, page, &contents);
                memory.extend((page..).zip(contents).map(|(page, content)| ((process, page), content)));
            }
            Step::Zero { process, page, pages } => {
                stream.object(Object::Process(process)).unwrap();
                stream.run(ZERO, BASE + page * PAGE as u64, pages as u32).unwrap();
                memory.retain(|(id, at), _| *id != process || !(page..page + pages).contains(at));
            }
            Step::Mark => {
                stream.mark().unwrap();
                stream.flush().unwrap();
            }
        }
    }
    for process in 1..4 {
        stream.object(Object::Process(process)).unwrap();
        stream.run(KEEP, BASE, PAGES as u32).unwrap();
    }
    stream.end().unwrap();
    memory
}

/// The stream as it might come: in pieces of such lengths, again and again.
fn cut(bytes: &[u8], lengths: &[usize]) -> Inflow<std::vec::IntoIter<Bytes>> {
    let mut pieces = Vec::new();
    let (mut rest, mut lengths) = (bytes, lengths.iter().cycle());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
        pieces.push(Bytes::copy_from_slice(piece));
        rest = behind;
    }
    Inflow::new(pieces.into_iter())
}

/// What a stream leaves, and how many rounds it had.
fn arrive(bytes: &[u8], lengths: &[usize]) -> Result<(Memory, usize), StoreError> {
    let directory = tempfile::tempdir().unwrap();
    let mut rounds = 0;
    store(directory.path(), &mut cut(bytes, lengths), Room::default(), || rounds += 1)?;
    let stored = Stored::open(directory.path())?.unwrap();
    let mut content = Vec::new();
    (&stored.content).read_to_end(&mut content).unwrap();
    let mut memory = Memory::new();
    for (process, pieces) in &stored.processes {
        for page in 0..PAGES {
            if let Some((slot, _)) = pieces.at(BASE + page * PAGE as u64) {
                memory.insert((*process, page), content[slot as usize * PAGE..][..PAGE].to_vec());
            }
        }
    }
    Ok((memory, rounds))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_has_what_was_sent_last_however_it_was_packed_and_cut(
        steps in proptest::collection::vec(step(), 0..24),
        lengths in proptest::collection::vec(1..300_000_usize, 1..6),
    ) {
        let rounds = steps.iter().filter(|step| matches!(step, Step::Mark)).count();
        for compression in Compression::ALL {
            let mut bytes = Vec::new();
            let memory = send(&steps, compression, &mut bytes);
            prop_assert!(arrive(&bytes, &lengths).unwrap() == (memory, rounds), "{:?}", compression);
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error(steps in proptest::collection::vec(step(), 1..6), lost in 1..5_000_usize) {
        let mut bytes = Vec::new();
        send(&steps, Compression::Zstd, &mut bytes);
        let length = bytes.len().saturating_sub(lost);
        prop_assert!(arrive(&bytes[..length], &[100_000]).is_err());
    }
}

#[test]
fn what_can_be_packed_crosses_packed_and_the_rest_as_it_is() {
    let words = Step::Content { process: 1, page: 0, pages: 300, kind: Kind::Words, seed: 1 };
    let noise = Step::Content { process: 2, page: 0, pages: 300, kind: Kind::Noise, seed: 2 };
    let whole = 300 * PAGE;
    for (compression, most) in [(Compression::Lz4, whole * 7 / 10), (Compression::Zstd, whole * 35 / 100)] {
        let mut bytes = Vec::new();
        send(std::slice::from_ref(&words), compression, &mut bytes);
        assert!(bytes.len() < most, "{compression:?}: {}", bytes.len());
        let mut bytes = Vec::new();
        send(std::slice::from_ref(&noise), compression, &mut bytes);
        assert!(bytes.len() > whole && bytes.len() < whole + 1000, "{compression:?}: {}", bytes.len());
    }
}

#[test]
fn sums_say_how_pages_were_packed() {
    let mut out = Vec::new();
    let mut stream = Outflow::new(&mut out, Compression::Lz4, ZERO).unwrap();
    stream.object(Object::Process(1)).unwrap();
    put(&mut stream, 0, &vec![vec![7; PAGE]; 64]);
    put(&mut stream, 64, &(0..64).map(|page| content(Kind::Noise, 1, page)).collect::<Vec<_>>());
    let (sums, _) = stream.end().unwrap();
    assert_eq!(sums.packed[Algorithm::None as usize], 64);
    assert_eq!(sums.packed[Algorithm::Lz4 as usize], 64);
    assert_eq!((sums.pages, sums.bytes), (128, out.len() as u64));
}

#[test]
fn an_outlet_that_refuses_ends_the_stream() {
    struct Broken;
    impl drover_packing::Outlet for Broken {
        fn send(&mut self, _: Bytes) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    for compression in Compression::ALL {
        let mut stream = Outflow::new(Broken, compression, ZERO).unwrap();
        let room = stream.room().unwrap().len();
        let run = Run { address: BASE, pages: (room / PAGE) as u32 };
        stream.put(std::iter::once(run), |_, _| Verdict::Send).unwrap();
        assert!(stream.flush().is_err());
    }
}
