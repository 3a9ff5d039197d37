//! Numbers that a container writes to a file, a pipe and a connection while it moves.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Lab, image_root, until, witness};
use crate::lifecycle::last_number;

/// How many moves.
const MOVES: u64 = 50;

/// Imports the toolbox with the witness inside as the image `counter`.
pub fn import_counter(lab: &Lab) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    copy(&image_root("toolbox"), &root);
    copy(&witness(), &root.join("usr/bin/drover-check"));
    lab.drover(format!("image import counter {}", root.display())).well();
}

/// Copies a tree.
pub fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp").arg("-a").args([from, to]).status().unwrap().success(),
        "cannot copy {}",
        from.display()
    );
}

#[test]
fn fifty_moves_lose_and_repeat_no_number() {
    let lab = Lab::up();
    import_counter(&lab);
    let files = "--out /run/numbers --ready-file /run/ready --stop-file /run/stop";
    let collect = format!("/opt/drover/drover-check collect --listen 10.77.0.100:7000 {files} --json");
    let collect = lab.start(format!("lab exec client -- {collect}"));
    until("a collector", || (lab.on("client", "test -e /run/ready").status == 0).then_some(()));
    let count = "drover-check count --file /numbers --connect 10.77.0.100:7000";
    lab.drover(format!("run --node n1 --name counter --ip 10.77.0.60 -d counter {count}")).well();
    lab.await_log("counter", "\n100\n");
    let tally = lab.json(format!("pong counter --nodes n1,n2 --count {MOVES} --dwell 20ms"));
    assert_eq!(tally["moves"], MOVES, "{tally}");
    let moved = last_number(&lab.logs("counter"));
    until("numbers after the last move", || (last_number(&lab.logs("counter")) > moved).then_some(()));
    let file = last_number(&lab.inside("counter", "cat /numbers"));
    assert!(file >= moved, "the file ends at {file}, the log had {moved}");
    lab.drover("stop counter").well();
    // It says itself how far it counted, after the last number.
    let log = lab.logs("counter");
    let (numbers, said) = log.trim_end().rsplit_once('\n').unwrap();
    let last = last_number(numbers);
    assert_eq!(said, format!("last: {last}"));
    let ended = collect.end();
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!((&report["first"], &report["last"]), (&1.into(), &last.into()), "{report}");
    assert_eq!((&report["lost_or_repeated"], &report["ended"]), (&0.into(), &"closed".into()), "{report}");
    assert_eq!(lab.inspect("counter")["generation"], MOVES);
}
