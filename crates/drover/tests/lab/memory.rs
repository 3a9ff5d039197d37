//! Memory that is written all the time arrives as it was, whatever the mode.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::count::{copy, import_counter};
use crate::harness::{Lab, image_root, sharer, until};

pub const STOP_AND_COPY: (&str, &str) = ("--mode stop-and-copy", "stop-and-copy");
pub const PRE_COPY: (&str, &str) = ("--fallback freeze", "pre-copy");
pub const POST_COPY: (&str, &str) = ("--mode post-copy", "post-copy");
/// A round, and what was written again follows.
pub const HYBRID: (&str, &str) = ("--fallback post-copy --downtime 0ms --max-rounds 1", "post-copy");

/// What the container does that checks its own memory. Not among it:
/// - `locked`: a process with locked memory is not followed, and crosses while it is frozen whatever the mode;
/// - `huge`: hardly any machine has huge pages to spare.
const KINDS: &str = "heap,private,shared,memfd,file,dont-fork,wipe-on-fork,hidden,guarded,stack,fork,exec";

/// Starts a container that checks its own memory, of all kinds that can be had everywhere.
pub fn begin_torture(lab: &Lab, options: &str) {
    let options = format!("{options} --kinds {KINDS}");
    begin_torture_of(lab, &options);
}

fn begin_torture_of(lab: &Lab, options: &str) {
    lab.drover(format!("run --node n1 --name box -d counter drover-check torture {options} --json")).well();
    lab.await_log("box", "ready\n");
}

/// Moves a container that checks its own memory, in ways with these options that are reported as these modes, and has it
/// look at every page in the end.
fn torture(options: &str, limit: Option<&str>, ways: &[(&str, &str)]) {
    let lab = Lab::up();
    import_counter(&lab);
    begin_torture(&lab, options);
    if let Some(limit) = limit {
        lab.drover(format!("lab link {limit}")).well();
    }
    move_about(&lab, ways);
    let report = examine(&lab);
    assert_eq!(report["skipped"], serde_json::json!({}), "{report}");
    for kind in KINDS.split(',') {
        // Those are no memory: they are things to do.
        let count = if matches!(kind, "fork" | "exec") { &report["acts"][kind] } else { &report["looked"][kind] };
        assert!(count.as_u64().is_some_and(|count| count > 0), "{kind}: {report}");
    }
}

/// Moves it there and back, in ways with these options that are reported as these modes.
fn move_about(lab: &Lab, ways: &[(&str, &str)]) {
    for (number, (way, mode)) in ways.iter().enumerate() {
        let target = if number % 2 == 0 { "n2" } else { "n1" };
        let report = lab.json(format!("migrate box --to {target} {way}"));
        assert_eq!(report["outcome"], "moved", "{report}");
        assert_eq!(report["mode"], *mode, "{report}");
        assert_eq!(report["exposure_ms"].is_number(), *mode == "post-copy", "{report}");
    }
}

/// Ends the container that checks its own memory, which must have found every page as it was; its report.
#[track_caller]
pub fn examine(lab: &Lab) -> Value {
    lab.drover("stop -t 30 box").well();
    let log = lab.logs("box");
    assert_eq!(lab.await_exit("box"), 0, "{log}");
    let report = log.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no report: {log}"));
    let report: Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["wrong"], Value::Null, "{log}");
    report
}

#[test]
fn memory_that_is_written_arrives_as_it_was() {
    let ways = [PRE_COPY, POST_COPY, STOP_AND_COPY, HYBRID, PRE_COPY, POST_COPY, HYBRID, HYBRID];
    torture("--mib 16 --threads 3 --children 2 --pause-us 100", None, &ways);
}

#[test]
fn memory_that_follows_over_a_slow_link_arrives_as_it_was() {
    torture("--mib 8 --threads 2 --children 2 --pause-us 300", Some("100mbit"), &[POST_COPY, HYBRID, POST_COPY]);
}

/// Lets the container's reads from the disk take long, where control groups of the first version can do that.
fn slow_reads(lab: &Lab, container: &str, node: &str) {
    const PER_SECOND: u32 = 60;
    let group = PathBuf::from(format!("/sys/fs/cgroup/blkio/{}/{node}/drover/{}", lab.mark(), lab.id(container)));
    if group.exists() {
        let disk = rustix::fs::stat("/var/lib").unwrap().st_dev;
        let limit = format!("{}:{} {PER_SECOND}", rustix::fs::major(disk), rustix::fs::minor(disk));
        std::fs::write(group.join("blkio.throttle.read_iops_device"), limit).unwrap();
    }
}

/// What a device writes by itself no page table tells: the container stands still for a moment in every round.
#[test]
fn memory_that_is_read_past_the_page_cache_arrives_as_it_was() {
    let lab = Lab::up_with(&[("RUST_LOG", "info,drover_engine=debug")]);
    import_counter(&lab);
    begin_torture_of(&lab, "--mib 64 --threads 8 --children 0 --pause-us 0 --kinds direct");
    for (node, target, way) in
        [("n1", "n2", "--stop-rule rounds=3"), ("n2", "n1", "--mode post-copy"), ("n1", "n2", "--stop-rule rounds=2")]
    {
        slow_reads(&lab, "box", node);
        let report = lab.json(format!("migrate box --to {target} {way}"));
        assert_eq!(report["outcome"], "moved", "{report}");
    }
    let log = lab.agent_log("n1");
    assert!(log.contains("container stood still"), "{log}");
    let report = examine(&lab);
    assert!(report["looked"]["direct"].as_u64().is_some_and(|pages| pages > 0), "{report}");
}

/// A process that has locked memory is not followed, and crosses while it is frozen whatever the mode.
#[test]
fn locked_memory_arrives_as_it_was() {
    let lab = Lab::up();
    import_counter(&lab);
    begin_torture_of(&lab, "--mib 4 --threads 2 --children 1 --pause-us 300 --kinds locked,private,shared");
    for (number, (way, _)) in [PRE_COPY, POST_COPY, STOP_AND_COPY, HYBRID].iter().enumerate() {
        let target = if number % 2 == 0 { "n2" } else { "n1" };
        let report = lab.json(format!("migrate box --to {target} {way}"));
        assert_eq!(report["outcome"], "moved", "{report}");
    }
    let report = examine(&lab);
    assert!(report["looked"]["locked"].as_u64().is_some_and(|pages| pages > 0), "{report}");
}

/// Begins a move whose memory follows for some seconds, and waits until the container runs on the target.
fn follow_halfway(lab: &Lab) -> String {
    import_counter(lab);
    begin_torture(lab, "--mib 48 --children 1");
    lab.drover("lab link 50mbit").well();
    let begun = lab.json("migrate box --to n2 --mode post-copy --detach");
    let id = begun["id"].as_str().unwrap().to_owned();
    until("a container that runs before its memory has crossed", || {
        let state = lab.json(format!("migrations {id}"));
        assert!(state["report"].is_null(), "{state}");
        (state["phase"] == "settle").then_some(())
    });
    id
}

#[test]
fn memory_follows_on_after_the_source_s_agent_was_killed() {
    let lab = Lab::up();
    let id = follow_halfway(&lab);
    lab.drover("lab agent n1 stop").well();
    // The target says what it is.
    until("a container that waits for its memory", || {
        (lab.inspect("box")["follows"]["reachable"] == false).then_some(())
    });
    assert!(lab.drover("ps").well().contains("waits for memory on n1"));
    lab.restart_agent("n1");
    lab.drover("lab link none").well();
    let report = lab.await_report(&id);
    assert_eq!(report["outcome"], "moved", "{report}");
    let record = lab.inspect("box");
    assert_eq!((&record["node"], &record["follows"]), (&"n2".into(), &Value::Null));
    lab.migrate("box", "n1");
    examine(&lab);
}

/// Not before: whoever orders it is told so. What has come by then is still being put in its place when the next move begins.
#[test]
fn a_container_is_moved_on_once_its_memory_has_followed() {
    let lab = Lab::up();
    let id = follow_halfway(&lab);
    let refusal = lab.drover("migrate box --to n1").hinted_refusal();
    assert!(refusal.contains("something else is changing it"), "{refusal}");
    // Programs can be executed in it, and nobody can call the move back.
    assert_eq!(lab.inside("box", "echo $((6 * 7))"), "42\n");
    let refusal = lab.drover(format!("migrate --cancel {id}")).hinted_refusal();
    assert!(refusal.contains("it is decided"), "{refusal}");
    lab.drover("lab link none").well();
    assert_eq!(lab.await_report(&id)["outcome"], "moved");
    for node in ["n1", "n2"] {
        lab.migrate("box", node);
    }
    examine(&lab);
}

#[test]
fn memory_follows_on_after_the_target_s_agent_was_killed() {
    let lab = Lab::up();
    let id = follow_halfway(&lab);
    lab.restart_agent("n2");
    lab.drover("lab link none").well();
    let report = lab.await_report(&id);
    assert_eq!(report["outcome"], "moved", "{report}");
    lab.migrate("box", "n1");
    examine(&lab);
}

/// As by the kernel, when the source is short of memory.
#[test]
fn a_container_whose_memory_is_killed_on_the_source_is_lost_and_said_to_be() {
    let lab = Lab::up();
    let id = follow_halfway(&lab);
    let group = format!("/n1/drover/{}\n", lab.id("box"));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if groups.contains(&lab.mark()) && groups.contains(&group) {
            let pid = entry.file_name().to_str().unwrap().parse().unwrap();
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
    }
    let report = lab.await_report(&id);
    let reason = report["reason"].as_str().unwrap();
    assert!(report["outcome"] == "failed" && reason.contains("memory on n1 is lost"), "{report}");
    assert_eq!(lab.await_exit("box"), 137);
    lab.drover("start box").well();
}

#[test]
fn a_container_whose_memory_follows_can_be_killed() {
    let lab = Lab::up();
    let id = follow_halfway(&lab);
    lab.drover("kill box").well();
    assert_eq!(lab.await_report(&id)["outcome"], "moved");
    assert_eq!(lab.await_exit("box"), 137);
    lab.drover("rm box").well();
}

#[test]
fn a_move_that_cannot_meet_its_budget_ends_as_its_user_wishes() {
    let lab = Lab::up();
    import_counter(&lab);
    let options = format!("--mib 16 --threads 2 --children 0 --pause-us 200 --kinds {KINDS}");
    lab.drover(format!("run --node n1 --name box -d counter drover-check torture {options} --json")).well();
    lab.await_log("box", "ready\n");
    lab.drover("lab link 100mbit").well();
    let error = lab.drover("migrate box --to n2 --mode pre-copy --downtime 1ms").hinted_refusal();
    assert!(error.contains("over the budget of 1 ms"), "{error}");
    assert_eq!(lab.inspect("box")["node"], "n1");
    let report = lab.json("migrate box --to n2 --downtime 1ms --fallback slow");
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.contains("slowed") || reason.contains("most rounds"), "{report}");
    // On the target it is as fast as ever.
    let report = lab.json("migrate box --to n1 --stop-rule rounds=3");
    assert_eq!(report["rounds"].as_array().unwrap().len(), 4, "{report}");
    examine(&lab);
}

#[test]
fn a_round_that_was_given_up_is_not_sent_to_its_end() {
    let lab = Lab::up();
    import_counter(&lab);
    let options = format!("--mib 64 --children 0 --kinds {KINDS}");
    lab.drover(format!("run --node n1 --name box -d counter drover-check torture {options} --json")).well();
    lab.await_log("box", "ready\n");
    // The rest of the round would take longer than anybody here waits.
    lab.drover("lab link 2mbit").well();
    let id = lab.copy_halfway("box", "n2", 1 << 20);
    lab.drover(format!("migrate --cancel {id}")).well();
    assert_eq!(lab.await_report(&id)["outcome"], "rolled_back");
    // At once: the target may still be cleaning up.
    let begun = lab.json("migrate box --to n2 --detach");
    lab.drover("lab link none").well();
    let report = lab.await_report(begun["id"].as_str().unwrap());
    assert_eq!(report["outcome"], "moved", "{report}");
    lab.drover("stop -t 30 box").well();
    assert_eq!(lab.await_exit("box"), 0, "{}", lab.logs("box"));
}

#[test]
fn a_container_whose_move_was_cancelled_while_it_was_frozen_is_not_frozen_again() {
    /// A CRIU that holds a container which is to go on is killed after 5 s. None did here.
    const WATCHED: Duration = Duration::from_secs(6);
    let lab = Lab::up();
    import_counter(&lab);
    lab.drover("run --node n1 --name box -d counter drover-check torture --mib 24 --children 0 --kinds private").well();
    lab.await_log("box", "ready\n");
    lab.drover("lab link 50mbit").well();
    let way = "--fallback freeze --downtime 0ms --max-rounds 1 --compress none --detach";
    let begun = lab.json(format!("migrate box --to n2 {way}"));
    let id = begun["id"].as_str().unwrap().to_owned();
    until("a container that is frozen while its last pages cross", || {
        (lab.json(format!("migrations {id}"))["phase"] == "checkpoint").then_some(())
    });
    lab.drover(format!("migrate --cancel {id}")).well();
    assert_eq!(lab.await_report(&id)["outcome"], "rolled_back");
    let ended = Instant::now();
    until("the time in which it would be frozen", || (ended.elapsed() > WATCHED).then_some(()));
    lab.drover("stop -t 10 box").well();
    assert_eq!(lab.await_exit("box"), 0, "{}", lab.logs("box"));
}

#[test]
fn memory_that_is_written_faster_than_it_crosses_arrives_as_it_was() {
    torture("--mib 16 --threads 2 --children 1 --pause-us 300", Some("500mbit"), &[PRE_COPY, HYBRID]);
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
    let ways =
        [PRE_COPY, STOP_AND_COPY, POST_COPY, PRE_COPY, HYBRID, HYBRID, POST_COPY, POST_COPY, STOP_AND_COPY, PRE_COPY];
    for (number, (way, mode)) in ways.iter().enumerate() {
        let target = if number % 2 == 0 { "n2" } else { "n1" };
        let moved = lab.drover(format!("--json migrate box --to {target} {way}"));
        // It looks at itself now and then, and ends when something is wrong.
        assert_eq!(moved.status, 0, "{}, {way}, move {number}: {}", moved.stderr, lab.logs("box"));
        let report: Value = serde_json::from_str(&moved.stdout).unwrap();
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
    let frozen = |report: &Value| {
        let rounds = report["rounds"].as_array().unwrap();
        // However they were packed.
        let bytes = |round: &Value| round["pages"].as_u64().unwrap() << 12;
        (rounds[..rounds.len() - 1].iter().map(bytes).sum::<u64>(), bytes(&rounds[rounds.len() - 1]))
    };
    for (target, (way, _)) in [("n2", PRE_COPY), ("n1", PRE_COPY), ("n2", HYBRID), ("n1", PRE_COPY)] {
        let report = lab.json(format!("migrate box --to {target} {way}"));
        let (before, while_frozen) = frozen(&report);
        assert!(before >= 3 * PIECE, "{report}");
        assert!(while_frozen < PIECE / 2, "{report}");
    }
    // Without rounds all of it crosses then, for it does not follow.
    for (target, (way, _)) in [("n2", STOP_AND_COPY), ("n1", POST_COPY), ("n2", POST_COPY)] {
        let report = lab.json(format!("migrate box --to {target} {way}"));
        assert!(frozen(&report).1 >= 3 * PIECE, "{report}");
    }
    lab.drover("stop -t 30 box").well();
    let log = lab.logs("box");
    assert!(log.contains("\"wrong\":null"), "{log}");
    assert!(lab.agent_log("n2").contains("shared memory is in its place taken="), "{}", lab.agent_log("n2"));
}

/// A lab with a container on `n1` that has some MiB of numbers in words, which can be packed.
fn with_numbers() -> Lab {
    hold_numbers(Lab::up())
}

fn hold_numbers(lab: Lab) -> Lab {
    lab.import("toolbox");
    let numbers = "x=$(seq 1 2000000); echo ready; while sleep 1; do :; done";
    lab.drover(("run --node n1 --name box -d toolbox sh -c", numbers)).well();
    lab.await_log("box", "ready\n");
    lab
}

/// What a report says of its first round: pages, and bytes that crossed.
#[track_caller]
fn first_round(report: &Value) -> (u64, u64) {
    assert_eq!(report["outcome"], "moved", "{report}");
    let round = &report["rounds"][0];
    (round["pages"].as_u64().unwrap(), round["bytes"].as_u64().unwrap())
}

#[test]
fn what_has_crossed_is_not_dumped_again_where_criu_reads_the_page_map() {
    /// `FI_DONT_USE_PAGEMAP_SCAN` (`criu/include/fault-injection.h`): as on kernels before 6.7.
    const NO_SCANS: (&str, &str) = ("CRIU_FAULT", "135");
    let lab = hold_numbers(Lab::up_with(&[NO_SCANS]));
    for to in ["n2", "n1"] {
        let report = lab.json(format!("migrate box --to {to} --fallback freeze"));
        let (pages, _) = first_round(&report);
        let frozen = report["rounds"].as_array().unwrap().last().unwrap()["pages"].as_u64().unwrap();
        assert!(pages > 2000 && frozen < pages / 4, "{report}");
    }
}

#[test]
fn memory_crosses_packed_as_the_user_wishes() {
    let lab = with_numbers();
    let (pages, bytes) = first_round(&lab.json("migrate box --to n2 --compress none"));
    assert!(pages > 2000 && bytes >= pages * 4096, "{bytes} bytes for {pages} pages");
    for (to, packing) in [("n1", "lz4"), ("n2", "zstd")] {
        let report = lab.json(format!("migrate box --to {to} --compress {packing}"));
        let (pages, bytes) = first_round(&report);
        assert!(bytes < pages * 4096 * 2 / 3, "{packing}: {bytes} bytes for {pages} pages");
        assert!(report["packed"][packing].as_u64().unwrap() > pages * 2 / 3, "{report}");
    }
}

#[test]
fn a_move_keeps_to_its_bound_and_packs_for_it() {
    let lab = with_numbers();
    let report = lab.json("migrate box --to n2 --bandwidth 20mbit");
    let (pages, bytes) = first_round(&report);
    let per_second = bytes as f64 / report["phases"]["copy"].as_f64().unwrap() * 1e3;
    assert!(per_second < 2_500_000.0 * 1.1, "{per_second} bytes in a second");
    // Nobody said how to pack: the bound is a slow link.
    assert!(bytes < pages * 4096 * 2 / 3, "{bytes} bytes for {pages} pages");
}
