//! What an honest peer would send, a few KiB for each target, made by the code that sends it where there is one.

mod files;
mod text;

use drover_memory::{Description, KEEP, Object, Outflow, Run, StreamWriter, Verdict, ZERO};
use drover_model::Compression;
use drover_packing::{Algorithm, Packer, room_for};
use drover_protocol::{FrameHeader, Stream};

/// Inputs by name.
pub type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The seeds of a target.
pub fn of(target: &str) -> Seeds {
    match target {
        "frame" => frames(),
        "message" => text::messages(),
        "session" => text::sessions(),
        "api" => text::bodies(),
        "config" => vec![("example", include_bytes!("../../../../contrib/agent.example.toml").to_vec())],
        "manifest" => text::manifests(),
        "tar" => files::tars(),
        "overlay" => files::overlays(),
        "layer_stream" => files::layer_streams(),
        "delta_stream" => files::delta_streams(),
        "having" => files::havings(),
        "packing" => blocks(),
        "page_stream" => page_streams(),
        "page_index" => indexes(),
        "criu_image" => text::images(),
        "proc" => text::lists(),
        "cgroup" => text::groups(),
        other => panic!("no seeds for {other}"),
    }
}

/// Letters that pack.
fn words(length: usize) -> Vec<u8> {
    b"a text of a few letters ".iter().copied().cycle().take(length).collect()
}

fn frames() -> Seeds {
    let frame = |header: FrameHeader, payload: &[u8]| [&header.encode()[..], payload].concat();
    let link = [
        frame(FrameHeader::Control(2), b"{}"),
        frame(FrameHeader::Data(Stream::Files, 5), b"piece"),
        frame(FrameHeader::Data(Stream::Files, 0), b""),
    ];
    let number = |number: usize| (number as u32).to_le_bytes();
    let packed = zstd::bulk::compress(&words(2000), 1).unwrap();
    let layer = [&number(5)[..], &number(5), b"piece", &number(2000), &number(packed.len()), &packed, &number(0)];
    vec![("link", link.concat()), ("layer", layer.concat())]
}

fn blocks() -> Seeds {
    let block = |algorithm: Algorithm| {
        let content = words(4096);
        let mut packed = vec![0; room_for(content.len())];
        let length = Packer::new().unwrap().pack(algorithm, &content, &mut packed).unwrap();
        [&[algorithm as u8, 0, 0x10, 0][..], &packed[..length]].concat()
    };
    vec![("lz4", block(Algorithm::Lz4)), ("zstd", block(Algorithm::Zstd))]
}

const PAGE: usize = 4096;
const BASE: u64 = 0x7f00_0000_0000;

fn rounds(compression: Compression) -> Vec<u8> {
    let mut bytes = vec![200];
    let mut stream = Outflow::new(&mut bytes, compression, ZERO).unwrap();
    let description = |last| Description {
        id: 9,
        last,
        sealable: true,
        system_five: false,
        size: 4 * PAGE as u64,
        process: 1,
        address: BASE,
        name: b"a piece".to_vec(),
    };
    let put = |stream: &mut Outflow<&mut Vec<u8>>, object, address, pages: usize| {
        stream.object(object).unwrap();
        stream.room().unwrap()[..pages * PAGE].copy_from_slice(&words(pages * PAGE));
        stream.put(std::iter::once(Run { address, pages: pages as u32 }), |_, _| Verdict::Send).unwrap();
    };
    put(&mut stream, Object::Process(1), BASE, 3);
    stream.mark().unwrap();
    put(&mut stream, Object::Process(1), BASE + PAGE as u64, 1);
    stream.run(ZERO, BASE + 2 * PAGE as u64, 1).unwrap();
    stream.run(KEEP, BASE, 3).unwrap();
    stream.describe(&description(false)).unwrap();
    put(&mut stream, Object::Shared(9), 0, 2);
    stream.describe(&description(true)).unwrap();
    stream.end().unwrap();
    bytes
}

fn page_streams() -> Seeds {
    use std::io::Write;
    let mut dump = vec![7];
    let mut stream = StreamWriter::new(&mut dump).unwrap();
    for process in [1, 7] {
        stream.object(Object::Process(process)).unwrap();
        stream.run(4, BASE, 1).unwrap();
        stream.content().write_all(&words(PAGE)).unwrap();
        stream.run(ZERO, BASE + PAGE as u64, 20).unwrap();
    }
    stream.end().unwrap();
    let packed = [("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];
    let mut seeds: Seeds = packed.into_iter().map(|(name, compression)| (name, rounds(compression))).collect();
    seeds.push(("dump", dump));
    seeds
}

fn indexes() -> Seeds {
    let index = |words: &[u64]| {
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        [b"DRVINDX3", &words[..]].concat()
    };
    let one = index(&[1, 7, 2, 0x1000, 1, 0, 0x3000, 3, 1, 1, 0x5000, 3, 1, 0x1000, 1]);
    vec![("one", one), ("two", index(&[2, 7, 1, 0x1000, 4, 0, 0, 0, 8, 0, 1, 0x9000, 2, 0]))]
}
