//! Whatever goes wrong before the decision: the container goes on where it was, nothing is left where it was to go, and
//! its user is told why in plain words.

use serde_json::Value;

use crate::connection::Witness;
use crate::harness::{Lab, until};

/// What crosses before something happens to it: more than what is said in the beginning, much less than all.
const SOME: u64 = 4 << 20;
/// The memory that crosses.
const LOAD_MIB: u64 = 48;

/// The container runs on n1, and n2 knows nothing of it.
#[track_caller]
fn stayed(lab: &Lab) {
    let record = lab.inspect("web");
    assert_eq!((&record["node"], &record["state"]), (&"n1".into(), &"running".into()), "{record}");
    assert_eq!(lab.drover("exec web redis-cli ping").well(), "PONG\n");
    let id = lab.id("web");
    until("a target without the container", || lab.traces("n2", &id).is_empty().then_some(()));
}

/// A move that must fail; the error.
#[track_caller]
fn refused(lab: &Lab) -> String {
    lab.drover("migrate web --to n2").hinted_refusal()
}

/// A report of a move that was undone; the reason.
#[track_caller]
fn undone(report: &Value) -> String {
    assert_eq!(report["outcome"], "rolled_back", "{report}");
    assert!(report["hint"].is_string(), "no hint: {report}");
    report["reason"].as_str().unwrap().to_owned()
}

/// CRIU, which is root, mounts on the target what was mounted from `/dev`, by its name there.
#[test]
fn what_a_program_puts_in_the_place_of_a_device_leads_nowhere() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 1);
    // The kernel calls a deleted device `NAME//deleted` in its list of mounts.
    lab.inside("web", "rm /dev/null && mkdir /dev/null && ln -s /etc/passwd /dev/null/deleted");
    let error = refused(&lab);
    assert!(error.contains("has removed from /dev"), "{error}");
    stayed(&lab);
    witness.content();
}

#[test]
fn nothing_moves_to_a_node_whose_agent_is_away() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 1);
    lab.drover("lab agent n2 stop").well();
    let error = refused(&lab);
    assert!(error.contains("n2"), "{error}");
    stayed(&lab);
    lab.restart_agent("n2");
    lab.migrate("web", "n2");
    witness.content();
}

#[test]
fn the_source_goes_on_when_the_target_is_killed_in_the_middle() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, LOAD_MIB);
    lab.drover("lab link 100mbit").well();
    let id = lab.migrate_halfway("web", "n2", SOME);
    lab.drover("lab agent n2 stop").well();
    let reason = undone(&lab.await_report(&id));
    assert!(reason.contains("link") || reason.contains("target"), "{reason}");
    lab.restart_agent("n2");
    stayed(&lab);
    lab.drover("lab link none").well();
    lab.migrate("web", "n2");
    witness.content();
}

#[test]
fn the_source_goes_on_when_its_own_agent_is_killed_in_the_middle() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, LOAD_MIB);
    lab.drover("lab link 100mbit").well();
    let id = lab.migrate_halfway("web", "n2", SOME);
    lab.restart_agent("n1");
    until("a container that goes on", || (lab.inspect("web")["state"] == "running").then_some(()));
    // Whoever ordered it finds it in the list.
    let report = lab.await_report(&id);
    let reason = report["reason"].as_str().unwrap();
    assert!(report["outcome"] == "rolled_back" && reason.contains("agent of n1 was restarted"), "{report}");
    stayed(&lab);
    lab.drover("lab link none").well();
    until("a second attempt", || (lab.drover("migrate web --to n2").status == 0).then_some(()));
    witness.content();
}

#[test]
fn the_source_goes_on_when_the_move_is_cancelled() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, LOAD_MIB);
    lab.drover("lab link 100mbit").well();
    let id = lab.migrate_halfway("web", "n2", SOME);
    lab.drover(format!("migrate --cancel {id}")).well();
    let report = lab.await_report(&id);
    assert_eq!(report["outcome"], "rolled_back", "{report}");
    assert!(report["reason"].as_str().unwrap().contains("cancel"), "{report}");
    stayed(&lab);
    lab.drover("lab link none").well();
    lab.migrate("web", "n2");
    witness.content();
}

#[test]
fn the_source_goes_on_when_the_link_is_cut_in_the_middle() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, LOAD_MIB);
    lab.drover("lab link 100mbit").well();
    let id = lab.migrate_halfway("web", "n2", SOME);
    lab.on("n2", "ip link set eth0 down").well();
    let reason = undone(&lab.await_report(&id));
    assert!(reason.contains("link") || reason.contains("n2") || reason.contains("target"), "{reason}");
    lab.on("n2", "ip link set eth0 up").well();
    lab.drover("lab link none").well();
    until("a target that answers", || (lab.drover("ps --node n2").status == 0).then_some(()));
    stayed(&lab);
    lab.migrate("web", "n2");
    witness.content();
}

#[test]
fn nothing_moves_to_a_node_without_room_on_its_disk() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 1);
    lab.drover(("exec web sh -c", "head -c 40M /dev/urandom >/data/file")).well();
    lab.drover("lab agent n2 stop").well();
    // The agent starts in this very namespace of mounts.
    lab.on("n2", "mount -t tmpfs -o size=90M tmpfs /var/lib/drover").well();
    lab.restart_agent("n2");
    let error = refused(&lab);
    assert!(error.contains("disk room"), "{error}");
    stayed(&lab);
    witness.content();
}

#[test]
fn the_source_goes_on_when_the_target_runs_out_of_disk_in_the_middle() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 1);
    // It fits until somebody else fills the disk while the files come.
    lab.drover(("exec web sh -c", "head -c 40M /dev/urandom >/data/file")).well();
    lab.drover("lab agent n2 stop").well();
    lab.on("n2", "mount -t tmpfs -o size=300M tmpfs /var/lib/drover").well();
    lab.restart_agent("n2");
    lab.drover("lab link 100mbit").well();
    let id = lab.migrate_halfway("web", "n2", SOME);
    lab.on("n2", "cat /dev/zero >/var/lib/drover/filler");
    let error = undone(&lab.await_report(&id));
    assert!(error.contains("No space left"), "{error}");
    stayed(&lab);
    witness.content();
}

#[test]
fn nothing_moves_to_a_node_without_criu() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 1);
    lab.on("n2", "mv /usr/sbin/criu /usr/sbin/criu.away").well();
    let error = refused(&lab);
    assert!(error.contains("criu"), "{error}");
    stayed(&lab);
    lab.on("n2", "mv /usr/sbin/criu.away /usr/sbin/criu").well();
    lab.migrate("web", "n2");
    witness.content();
}

#[test]
fn the_source_goes_on_when_the_restore_is_refused() {
    let lab = Lab::up();
    let witness = Witness::of_redis(&lab, 1);
    // The program's own file is not what it was.
    lab.on("n2", "for file in $(find /var/lib/drover/images/layers -path '*usr/bin/redis-*'); do rm $file; done")
        .well();
    let error = refused(&lab);
    assert!(error.contains("restore"), "{error}");
    stayed(&lab);
    witness.content();
}

#[test]
fn what_cannot_be_moved_is_refused() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    lab.drover("run --node n2 --name box -d toolbox sleep 1000").well();
    let error = lab.drover("migrate box --to n2 --node n1").hinted_refusal();
    assert!(error.contains("name is taken"), "{error}");
    let error = lab.drover("migrate box --to n1 --node n1").hinted_refusal();
    assert!(error.contains("n1"), "{error}");
    let error = lab.drover("migrate box --to n9 --node n1").hinted_refusal();
    assert!(error.contains("n9"), "{error}");
    lab.drover("run --node n1 --name done toolbox true").well();
    let error = lab.drover("migrate done --to n2").hinted_refusal();
    assert!(error.contains("exited"), "{error}");
    let error = lab.drover("migrate nobody --to n2").hinted_refusal();
    assert!(error.contains("nobody"), "{error}");
    let states: Vec<String> =
        lab.json("ps").as_array().unwrap().iter().map(|record| record["state"].to_string()).collect();
    assert_eq!(states, ["\"running\"", "\"running\""]);
}
