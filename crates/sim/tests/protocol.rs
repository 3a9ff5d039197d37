//! Many seeds, each twice; and breaks that must be found.

use drover_sim::{Mutant, run};

/// How many seeds CI goes through.
const SEEDS: u64 = 20_000;
/// Within how many each break must be found.
const FOUND_WITHIN: u64 = 4_000;

#[test]
fn no_seed_breaks_a_promise_and_each_is_the_same_twice() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..SEEDS).step_by(threads as usize).for_each(check));
        }
    });
}

fn check(seed: u64) {
    let (first, second) = (run(seed, None, false), run(seed, None, false));
    if let Err(violation) = &first.ending {
        panic!("seed {seed} {violation}\n`drover sim protocol --seed {seed}` shows the run");
    }
    assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed} is not the same twice");
}

#[test]
fn every_deliberate_break_is_found() {
    for mutant in Mutant::ALL {
        let found = (0..FOUND_WITHIN).any(|seed| run(seed, Some(mutant), false).ending.is_err());
        assert!(found, "{mutant:?} is not found within {FOUND_WITHIN} seeds");
    }
}

/// What was wrong once, and the seeds that found it.
const FOUND: [(&str, &[u64]); 9] = [
    ("a target that lost power after it had promised could not give the container back", &[250, 488]),
    ("what was left of a container where its removal had failed stayed there", &[539, 1993]),
    ("a decision that could not be read back ended the move with a frozen container", &[38, 14]),
    ("an abort while the image came waited for the source's next attempt", &[519, 10_633]),
    ("an older decision whose last line was not written stayed open for ever", &[1866]),
    ("a target whose last line was not written answered nobody before its agent was started anew", &[7672]),
    ("the late end of an older migration hid that a newer one had given the container away", &[34_598]),
    ("a copy was destroyed once more, and with it the container that had come back", &[99_096, 125_725, 190_160]),
    ("what a shim had said before a loss of power was believed after it", &[103_338]),
];

#[test]
fn seeds_that_broke_a_promise_once_keep_it() {
    for (what, seeds) in FOUND {
        println!("{what}: {seeds:?}");
        seeds.iter().copied().for_each(check);
    }
}
