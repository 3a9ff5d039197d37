//! Page streams of hostile peers: what was valid is spoilt by chance, again and again, and taken in. Whatever comes, nothing
//! panics, nothing waits for ever, and memory stays bounded. (`make fuzz TARGET=page_stream` looks for more.)

use std::path::Path;

use bytes::Bytes;
use drover_memory::{Description, Inflow, KEEP, Object, Outflow, Room, Run, Verdict, ZERO, receive, store};
use drover_model::Compression;

const PAGE: usize = 4096;
/// The most memory that this process may ever have taken, in KiB: streams, buffers, and what is kept of pages.
const MEMORY: u64 = 256 << 10;

/// Numbers by chance (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A stream as an honest peer might send it.
fn honest(chance: &mut Chance) -> Vec<u8> {
    let mut out = Vec::new();
    let compression = Compression::ALL[chance.below(4)];
    let mut stream = Outflow::new(&mut out, compression, ZERO).unwrap();
    for _ in 0..chance.below(6) {
        stream.object(Object::Process(1 + chance.next() % 3)).unwrap();
        let address = 0x10_0000 + (chance.below(64) * PAGE) as u64;
        let letters = 1 << chance.below(9);
        let room = stream.room().unwrap();
        let pages = 1 + chance.below(room.len() / PAGE);
        room[..pages * PAGE].iter_mut().for_each(|byte| *byte = (chance.next() % letters) as u8);
        let run = Run { address, pages: pages as u32 };
        stream.put(std::iter::once(run), |_, _| Verdict::Send).unwrap();
        if chance.below(3) == 0 {
            stream.run(ZERO, address, 1).unwrap();
        }
        if chance.below(3) == 0 {
            stream.mark().unwrap();
        }
        stream.run(KEEP, address, pages as u32).unwrap();
    }
    if chance.below(2) == 0 {
        share(chance, &mut stream);
    }
    stream.end().unwrap();
    out
}

/// A piece of shared memory.
fn share(chance: &mut Chance, stream: &mut Outflow<&mut Vec<u8>>) {
    let (id, size) = (chance.next() % 3, (64 * PAGE) as u64);
    let begun = Description {
        id,
        last: false,
        sealable: chance.below(2) == 0,
        system_five: false,
        size,
        process: 1,
        address: 0x10_0000,
        name: vec![b'a'; chance.below(20)],
    };
    stream.describe(&begun).unwrap();
    stream.object(Object::Shared(id)).unwrap();
    let room = stream.room().unwrap();
    let pages = 1 + chance.below(room.len() / PAGE);
    room[..pages * PAGE].fill(chance.next() as u8);
    stream.put(std::iter::once(Run { address: 0, pages: pages as u32 }), |_, _| Verdict::Send).unwrap();
    stream.run(ZERO, 0, 1).unwrap();
    stream.describe(&Description { last: true, ..begun }).unwrap();
}

/// Spoils a stream somewhere.
fn spoil(chance: &mut Chance, bytes: &mut Vec<u8>, other: &[u8]) {
    // Where records stand, not only where content does.
    let near = if chance.below(2) == 0 { 64.min(bytes.len()) } else { bytes.len() };
    let at = chance.below(near);
    match chance.below(6) {
        0 => bytes.truncate(at),
        1 => {
            let length = chance.below(40).min(bytes.len() - at);
            bytes.drain(at..at + length);
        }
        2 => {
            let from = chance.below(other.len());
            let length = chance.below(5000).min(other.len() - from);
            bytes.splice(at..at, other[from..from + length].iter().copied());
        }
        3 => {
            let word = [0, 1, 63, 64, 65, 0x7fff_ffff, u64::MAX, 1 << 63, 4096, 262_144][chance.below(10)];
            let length = [1, 2, 4, 8][chance.below(4)].min(bytes.len() - at);
            bytes[at..at + length].copy_from_slice(&word.to_le_bytes()[..length]);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << chance.below(8);
            }
        }
    }
}

/// Takes a stream in, both ways, in pieces of a length by chance; whether any took it for valid.
fn take_in(chance: &mut Chance, directory: &Path, bytes: &[u8]) -> bool {
    let length = 1 + chance.below(100_000);
    let pieces: Vec<Bytes> = bytes.chunks(length).map(Bytes::copy_from_slice).collect();
    let place = directory.join("store");
    std::fs::create_dir(&place).unwrap();
    let stored = store(&place, &mut Inflow::new(pieces.into_iter()), Room::default(), || ());
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    let received = receive(&place, bytes, Room::default());
    std::fs::remove_dir_all(&place).unwrap();
    stored.is_ok() || received.is_ok()
}

fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn hostile_streams_are_refused() {
    const SEED: u64 = 7;
    const STREAMS: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let mut chance = Chance(SEED);
    let mut valid = 0;
    for _ in 0..STREAMS {
        let (mut bytes, other) = (honest(&mut chance), honest(&mut chance));
        if chance.below(8) > 0 {
            for _ in 0..=chance.below(4) {
                spoil(&mut chance, &mut bytes, &other);
            }
        }
        valid += u64::from(take_in(&mut chance, directory.path(), &bytes));
    }
    assert!(valid > 0 && valid < STREAMS, "all or none were valid");
    assert!(most_memory() < MEMORY, "{} KiB of memory", most_memory());
}
