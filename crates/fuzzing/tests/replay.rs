//! Seeds, and inputs that broke something once, put to the bodies again: what the fuzzer does, without the fuzzer.
//!
//! `fuzz/seeds/TARGET` has what an honest peer would send (`make fuzz-seeds` writes it anew), `fuzz/regressions/TARGET`
//! what was mended since.

mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use drover_fuzzing::{TARGETS, Target, bound_memory};

/// The longest input that is kept, in bytes.
const LONGEST: u64 = 64 << 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The inputs of a target; none without a directory.
fn inputs(kind: &str, target: &Target) -> Vec<PathBuf> {
    let entries = fs::read_dir(fuzz().join(kind).join(target.name)).into_iter().flatten();
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs
}

#[test]
fn what_an_honest_peer_sends_is_taken_by_each_target() {
    bound_memory();
    if std::env::var_os("DROVER_BLESS").is_some() {
        bless();
    }
    let mut refused = Vec::new();
    for target in &TARGETS {
        let inputs = inputs("seeds", target);
        assert!(!inputs.is_empty(), "{} has no seeds", target.name);
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            assert!(bytes.len() as u64 <= LONGEST, "{} is too long", input.display());
            if !(target.body)(&bytes) {
                refused.push(input);
            }
        }
    }
    // Only root can make what is in some of them.
    assert!(refused.is_empty() || !is_root(), "{refused:?}");
}

#[test]
fn what_broke_something_once_is_survived() {
    bound_memory();
    for target in &TARGETS {
        for input in inputs("regressions", target) {
            let bytes = fs::read(&input).unwrap();
            assert!(bytes.len() as u64 <= LONGEST, "{} is too long", input.display());
            (target.body)(&bytes);
        }
    }
}

/// What crosses between nodes beside messages: frames, and what is in each stream.
const STREAMS: [&str; 7] = ["frame", "packing", "page_stream", "page_index", "layer_stream", "delta_stream", "having"];

/// `fuzz/recorded/version-5` has the streams as the first release with version 5 of the protocol said them. They are never
/// written anew: a stream that changes belongs to a new version.
#[test]
fn streams_of_version_5_are_as_they_were_recorded() {
    let recorded = |target: &str| fuzz().join("recorded/version-5").join(target);
    for target in TARGETS.iter().filter(|target| STREAMS.contains(&target.name)) {
        for (name, said) in seeds::of(target.name) {
            let path = recorded(target.name).join(name);
            if !path.exists() && std::env::var_os("DROVER_BLESS").is_some() {
                fs::create_dir_all(recorded(target.name)).unwrap();
                fs::write(&path, &said).unwrap();
            }
            let recorded = fs::read(&path).unwrap();
            // Trees belong to whoever makes them.
            assert!(said == recorded || !is_root(), "{} is not what is said today", path.display());
            assert!((target.body)(&recorded) || !is_root(), "{} is not understood", path.display());
        }
    }
}

/// Honest inputs, each with one byte changed or cut off somewhere: the least that a fuzzer does.
#[test]
fn what_is_almost_honest_harms_nothing() {
    bound_memory();
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        (chance % bound.max(1) as u64) as usize
    };
    for target in &TARGETS {
        for input in inputs("seeds", target) {
            let honest = fs::read(&input).unwrap();
            for _ in 0..12 {
                let mut bytes = honest.clone();
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes.truncate(at),
                    1 => bytes[at] = [0, 1, 0x7f, 0xff][below(4)],
                    _ => bytes[at] ^= 1 << below(8),
                }
                (target.body)(&bytes);
            }
        }
    }
}

#[test]
fn every_target_has_a_program_and_every_program_a_target() {
    let programs: BTreeSet<String> = fs::read_dir(fuzz().join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(programs, targets);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in targets {
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(program.contains(&format!("target!(\"{target}\")")), "{target} runs another body");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not in fuzz/Cargo.toml");
    }
}

/// Writes the seeds anew.
fn bless() {
    for target in &TARGETS {
        let directory = fuzz().join("seeds").join(target.name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in seeds::of(target.name) {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
}
