//! Migrations whose decision one of the two nodes does not know: they end by themselves, or an operator says how.

use serde_json::Value;

use crate::harness::{Lab, until};

/// Prints a number after the other; so many processes that a restore takes a moment.
const COUNTS: &str = "for i in $(seq 150); do sleep 100000 & done; n=0; \
                      while :; do n=$((n+1)); echo $n; sleep 0.05; done";

/// A container that counts, on n1.
fn counting() -> Lab {
    let lab = Lab::with_toolbox();
    count_in(&lab);
    lab
}

/// The same in a lab that is up.
pub fn count_in(lab: &Lab) {
    lab.drover(("run --node n1 --name web -d toolbox sh -c", COUNTS)).well();
    lab.await_log("web", "20\n");
}

/// No number is missing in what it has printed, and none came twice; the last one.
#[track_caller]
fn counted(lab: &Lab) -> u64 {
    let numbers: Vec<u64> = lab.logs("web").lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().zip(1..).all(|(number, expected)| *number == expected), "{numbers:?}");
    numbers.len() as u64
}

/// It counts on from where it was.
#[track_caller]
pub fn counts_on(lab: &Lab) {
    let before = counted(lab);
    until("more numbers", || (counted(lab) > before + 5).then_some(()));
}

/// Sends a signal to a node's agent.
fn signal_agent(lab: &Lab, node: &str, signal: &str) {
    let agent = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '[d]rover agent --config' && \
                 kill";
    lab.on(node, format!("{agent} -{signal} ${{p#/proc/}}; done; true")).well();
}

/// How often it is tried to cut the link in the right moment.
const ATTEMPTS: usize = 10;

/// Moves the container to n2, and lets the source's agent hear that it is restored there only when it cannot tell the target
/// any more what it has decided. The migration.
pub fn in_doubt(lab: &Lab) -> String {
    for _ in 0..ATTEMPTS {
        let begun = lab.json("migrate web --to n2 --mode stop-and-copy --detach");
        let id = begun["id"].as_str().unwrap().to_owned();
        if is_in_doubt(lab, &id) {
            assert_eq!(lab.inspect("web")["state"], "frozen");
            return id;
        }
        lab.on("n2", "ip link set eth0 up").well();
        lab.await_report(&id);
        until("a container on n1", || match lab.inspect("web")["node"].as_str() {
            Some("n1") => Some(()),
            _ => (lab.drover("migrate web --to n1").status == 0).then_some(()),
        });
    }
    panic!("it never came to doubt");
}

/// Whether a migration can be cut off between the target's word and the source's.
fn is_in_doubt(lab: &Lab, id: &str) -> bool {
    let state = || lab.json(format!("migrations {id} --node n1"));
    let restores = until("a restore", || {
        let state = state();
        (state["phase"] == "restore" || !state["report"].is_null()).then(|| state["report"].is_null())
    });
    if !restores {
        return false;
    }
    signal_agent(lab, "n1", "STOP");
    let promised = format!("grep {id} /var/lib/drover/migrations.jsonl | grep -q promised");
    until("a promise", || (lab.on("n2", &promised).status == 0).then_some(()));
    lab.on("n2", "ip link set eth0 down").well();
    signal_agent(lab, "n1", "CONT");
    // What the target has said may have been cut off with the link: then it is rolled back.
    until("a decision", || {
        let state = state();
        (state["in_doubt"] == true || !state["report"].is_null()).then(|| state["report"].is_null())
    })
}

pub fn outcome(lab: &Lab, id: &str) -> (Value, Value) {
    let report = lab.await_report(id);
    (report["outcome"].clone(), report["reason"].clone())
}

#[test]
fn a_migration_in_doubt_ends_when_the_nodes_see_each_other() {
    let lab = counting();
    let id = in_doubt(&lab);
    lab.on("n2", "ip link set eth0 up").well();
    assert_eq!(outcome(&lab, &id).0, "moved");
    assert_eq!(lab.inspect("web")["node"], "n2");
    counts_on(&lab);
}

/// It kept the container from running anywhere, for good.
#[test]
fn a_target_that_loses_power_after_its_promise_gives_the_container_back() {
    let lab = counting();
    let id = in_doubt(&lab);
    lose_power(&lab, "n2");
    lab.on("n2", "ip link set eth0 up").well();
    lab.drover("lab agent n2 start").well();
    let (outcome, reason) = outcome(&lab, &id);
    assert_eq!(outcome, "rolled_back");
    assert!(reason.as_str().unwrap().contains("gave it back"), "{reason}");
    assert_eq!(lab.inspect("web")["node"], "n1");
    counts_on(&lab);
    let container = lab.id("web");
    until("a target without the container", || lab.traces("n2", &container).is_empty().then_some(()));
    lab.migrate("web", "n2");
    counts_on(&lab);
}

#[test]
fn the_source_keeps_a_container_in_doubt_when_an_operator_says_so() {
    let lab = counting();
    let id = in_doubt(&lab);
    let warned = lab.drover("migrate web --resolve source").hinted_refusal();
    assert!(warned.contains("--yes") && warned.contains("two copies"), "{warned}");
    assert_eq!(lab.inspect("web")["state"], "frozen");
    lab.drover(format!("migrate {id} --resolve source --yes")).well();
    assert_eq!(outcome(&lab, &id).0, "rolled_back");
    counts_on(&lab);
    // The target hears of it as soon as it can.
    let container = lab.id("web");
    lab.on("n2", "ip link set eth0 up").well();
    until("a target without the container", || lab.traces("n2", &container).is_empty().then_some(()));
}

#[test]
fn the_target_has_a_container_whose_source_is_lost_when_an_operator_says_so() {
    let lab = counting();
    let id = in_doubt(&lab);
    lose_power(&lab, "n1");
    lab.on("n2", "ip link set eth0 up").well();
    until("a promise that is listed", || {
        let states = lab.json("migrations");
        let state = states.as_array().unwrap().iter().find(|state| state["id"] == id.as_str()).cloned();
        state.filter(|state| state["in_doubt"] == true)
    });
    lab.drover("migrate web --resolve target --yes").well();
    until("a container that runs", || (lab.inspect("web")["state"] == "running").then_some(()));
    assert_eq!(lab.inspect("web")["node"], "n2");
    counts_on(&lab);
    // The source comes back, and lets go of what it had.
    let container = lab.id("web");
    lab.drover("lab agent n1 start").well();
    until("a source without the container", || lab.traces("n1", &container).is_empty().then_some(()));
    counts_on(&lab);
}

/// What a loss of power takes from a node: every process of container `web` and all that must not survive it.
pub fn lose_power(lab: &Lab, node: &str) {
    let container = lab.id("web");
    lab.drover(format!("lab agent {node} stop")).well();
    let kill = format!(
        "for p in /proc/[0-9]*; do
           if grep -qs {container} $p/cgroup || tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '[s]him.*{container}'; then
             kill -KILL ${{p#/proc/}} 2>/dev/null
           fi
         done
         for freezer in $(find /sys/fs/cgroup -name cgroup.freeze -path '*{container}*') ; do echo 0 >$freezer; done
         true"
    );
    lab.on(node, kill).well();
    let gone = format!("! grep -qs {container} /proc/[0-9]*/cgroup");
    until("a node without processes of the container", || (lab.on(node, &gone).status == 0).then_some(()));
    // Its control groups, too: that nobody could read one that is not there was once taken for a sign of life.
    let run = "for mount in $(grep -o ' /run/drover[^ ]*' /proc/mounts | tac); do umount -l $mount; done; \
               rm -rf /run/drover/containers/*; \
               find /sys/fs/cgroup -depth -type d -path '*/drover/*' -exec rmdir {} + 2>/dev/null; true";
    lab.on(node, run).well();
}
