//! Memory that is written all the time arrives as it was, whatever the mode.

use crate::count::{copy, import_counter};
use crate::harness::{Lab, image_root, sharer};

/// Moves a container that checks its own memory, and has it look at every page in the end.
fn torture(options: &str, limit: Option<&str>, modes: &[&str]) {
    let lab = Lab::up();
    import_counter(&lab);
    lab.drover(format!("run --node n1 --name box -d counter drover-check torture {options} --json")).well();
    lab.await_log("box", "ready\n");
    if let Some(limit) = limit {
        lab.drover(format!("lab link {limit}")).well();
    }
    for (number, mode) in modes.iter().enumerate() {
        let target = if number % 2 == 0 { "n2" } else { "n1" };
        let report = lab.json(format!("migrate box --to {target} --mode {mode}"));
        assert_eq!(report["outcome"], "moved", "{report}");
        assert_eq!(report["mode"], *mode, "{report}");
    }
    lab.drover("stop -t 30 box").well();
    let log = lab.logs("box");
    assert_eq!(lab.await_exit("box"), 0, "{log}");
    assert!(log.contains("\"wrong\":null"), "{log}");
}

#[test]
fn memory_that_is_written_arrives_as_it_was() {
    let modes =
        ["pre-copy", "pre-copy", "stop-and-copy", "pre-copy", "pre-copy", "pre-copy", "stop-and-copy", "pre-copy"];
    torture("--mib 24 --threads 3 --children 2 --pause-us 100", None, &modes);
}

#[test]
fn a_round_that_was_given_up_is_not_sent_to_its_end() {
    let lab = Lab::up();
    import_counter(&lab);
    lab.drover("run --node n1 --name box -d counter drover-check torture --mib 64 --children 0 --json").well();
    lab.await_log("box", "ready\n");
    // The rest of the round would take longer than anybody here waits.
    lab.drover("lab link 2mbit").well();
    let id = lab.copy_halfway("box", "n2", 1 << 20);
    lab.drover(format!("migrate --cancel {id}")).well();
    assert_eq!(lab.await_report(&id)["outcome"], "rolled_back");
    lab.drover("lab link none").well();
    lab.migrate("box", "n2");
    lab.drover("stop -t 30 box").well();
    assert_eq!(lab.await_exit("box"), 0, "{}", lab.logs("box"));
}

#[test]
fn memory_that_is_written_faster_than_it_crosses_arrives_as_it_was() {
    torture("--mib 16 --threads 2 --children 1 --pause-us 300", Some("500mbit"), &["pre-copy", "pre-copy"]);
}

/// Imports the toolbox with the program that shares memory inside as the image `sharer`.
fn import_sharer(lab: &Lab) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    copy(&image_root("toolbox"), &root);
    copy(&sharer(), &root.join("usr/bin/sharer"));
    lab.drover(format!("image import sharer {}", root.display())).well();
}

#[test]
fn memory_of_every_kind_arrives_as_it_was() {
    let lab = Lab::up();
    import_sharer(&lab);
    lab.drover("run --node n1 --name box -d sharer sharer 8 300").well();
    lab.await_log("box", "ready\n");
    let modes = ["pre-copy", "stop-and-copy", "pre-copy", "pre-copy", "stop-and-copy", "pre-copy", "pre-copy"];
    for (number, mode) in modes.iter().enumerate() {
        let target = if number % 2 == 0 { "n2" } else { "n1" };
        let report = lab.json(format!("migrate box --to {target} --mode {mode}"));
        assert_eq!((&report["outcome"], &report["mode"]), (&"moved".into(), &(*mode).into()), "{report}");
    }
    lab.drover("stop -t 30 box").well();
    let log = lab.logs("box");
    assert_eq!(lab.await_exit("box"), 0, "{log}");
    assert!(log.contains("\"wrong\":null"), "{log}");
}

#[test]
fn shared_memory_crosses_before_the_container_is_frozen() {
    /// Bytes of each of three pieces of shared memory.
    const PIECE: u64 = 32 << 20;
    let lab = Lab::up();
    import_sharer(&lab);
    lab.drover(format!("run --node n1 --name box -d sharer sharer {} 20000", PIECE >> 20)).well();
    lab.await_log("box", "ready\n");
    let frozen = |report: &serde_json::Value| {
        let rounds = report["rounds"].as_array().unwrap();
        let bytes = |round: &serde_json::Value| round["bytes"].as_u64().unwrap();
        (rounds[..rounds.len() - 1].iter().map(bytes).sum::<u64>(), bytes(&rounds[rounds.len() - 1]))
    };
    for target in ["n2", "n1"] {
        let report = lab.json(format!("migrate box --to {target} --mode pre-copy"));
        let (before, while_frozen) = frozen(&report);
        assert!(before >= 3 * PIECE, "{report}");
        assert!(while_frozen < PIECE / 2, "{report}");
    }
    let report = lab.json("migrate box --to n2 --mode stop-and-copy");
    assert!(frozen(&report).1 >= 3 * PIECE, "{report}");
    lab.drover("stop -t 30 box").well();
    let log = lab.logs("box");
    assert!(log.contains("\"wrong\":null"), "{log}");
    assert!(lab.agent_log("n2").contains("shared memory is in its place taken="), "{}", lab.agent_log("n2"));
}
