//! Nothing is left of what is gone, on the nodes and on the machine.

use std::collections::BTreeSet;
use std::process::Command;

use crate::connection::Witness;
use crate::harness::{Lab, until};

/// Mounts, links, namespaces, cgroups, processes and firewall rules of a node; the agent's own do not change.
#[track_caller]
fn inventory(lab: &Lab, host: &str) -> BTreeSet<String> {
    let script = "cut -d' ' -f2,3 /proc/mounts
        ip -o link | cut -d: -f2
        find /run/drover /var/lib/drover/containers -mindepth 1
        find /sys/fs/cgroup -type d -path '*drover*'
        nft list ruleset 2>/dev/null
        ps -eo args | grep -E 'drover|criu|runc|redis|sleep' | grep -vE 'grep|find /run'
        true";
    lab.on(host, script).well().lines().map(str::to_owned).collect()
}

#[test]
fn nodes_are_as_before_after_moves_failures_and_removals() {
    let lab = Lab::with_toolbox();
    // The first container leaves what all share, such as the cgroup of the shims.
    for node in ["n1", "n2"] {
        lab.drover(format!("run --node {node} --name first -d toolbox sleep 1000")).well();
        lab.drover("rm -f first").well();
    }
    let before = ["n1", "n2"].map(|node| {
        until("shims that have ended", || {
            // One that is just ending has no arguments any more: ps gives its name in brackets.
            let ends = |line: &String| line.contains(" shim ") || line.starts_with('[');
            Some(inventory(&lab, node)).filter(|all| !all.iter().any(ends))
        })
    });
    let witness = Witness::of_redis(&lab, 1);
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    lab.migrate("web", "n2");
    lab.migrate("box", "n2");
    lab.migrate("web", "n1");
    lab.on("n2", "mv /usr/sbin/criu /usr/sbin/criu.away").well();
    lab.drover("migrate web --to n2").refusal();
    witness.content();
    lab.drover("rm -f web box").well();
    for (node, before) in ["n1", "n2"].into_iter().zip(before) {
        let mut left = Vec::new();
        until("a node as it was before", || {
            let after = inventory(&lab, node);
            let now: Vec<String> = after.symmetric_difference(&before).cloned().collect();
            let same = now.is_empty();
            if now != left {
                eprintln!("{node} differs: {now:#?}");
                left = now;
            }
            same.then_some(())
        });
    }
}

/// Everything on this machine with the lab's name in it.
fn of_machine(name: &str) -> String {
    let script = format!(
        "grep -F '{name}' /proc/mounts
         find /run /var/lib/drover /sys/fs/cgroup -maxdepth 6 -name '*{name}*' 2>/dev/null
         ps -eo pid,args | grep -F '{name}' | grep -v -e grep -e 'sh -c'
         true"
    );
    let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_machine_is_as_before_when_a_lab_with_containers_is_gone() {
    let lab = Lab::with_toolbox();
    let links = || Command::new("ip").args(["-o", "link"]).output().unwrap().stdout;
    let before = links();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    lab.drover("run --node n1 --name other -d toolbox sleep 1000").well();
    lab.migrate("box", "n2");
    let name = lab.mark();
    assert_ne!(of_machine(&name), "");
    lab.drover("lab down").well();
    assert_eq!(of_machine(&name), "");
    assert_eq!(links(), before);
}
