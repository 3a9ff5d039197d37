//! What keeps a container from moving is said before anything is done.

use serde_json::Value;

use crate::harness::{Lab, until};

/// The kinds of what blocks a move of a container to n2.
fn blocks(lab: &Lab, command: &str) -> Vec<String> {
    let ended = lab.drover(format!("--json {command}"));
    let check: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{} {}", ended.stdout, ended.stderr));
    let findings = check["findings"].as_array().unwrap().clone();
    let blocking = findings.iter().filter(|finding| finding["severity"] == "blocks");
    let kinds: Vec<String> = blocking.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ended.status, i32::from(!kinds.is_empty()), "{check}");
    kinds
}

#[test]
fn a_container_that_can_be_moved_is_said_to_be_and_stays_where_it_is() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box --ip 10.77.1.9/16 -d toolbox sleep 1000").well();
    let said = lab.drover("check box --to n2").well();
    assert!(said.starts_with("box: n1 → n2: it can be moved (looked at in "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(blocks(&lab, "check box --to n2 --mode post-copy"), [""; 0]);
    assert_eq!(lab.inspect("box")["node"], "n1");
    assert_eq!(lab.json("migrations").as_array().unwrap().len(), 0);
    lab.drover("migrate box --to n2").well();
    let error = lab.drover("check box --to n2").hinted_refusal();
    assert!(error.contains("it is there already"), "{error}");
}

#[test]
fn a_plan_says_what_a_move_will_take_and_the_move_says_how_far_off_it_was() {
    let lab = Lab::with_toolbox();
    // 32 MiB in a shell's memory, of which it writes a little again and again.
    let script = "a=$(head -c 33554432 /dev/zero | tr '\\0' x); echo ready; while :; do b=$((b + 1)); done";
    lab.drover(("run --node n1 --name box -d toolbox bash -c", script)).well();
    lab.await_log("box", "ready\n");
    let plan = lab.json("migrate box --to n2 --dry-run");
    assert_eq!(lab.inspect("box")["node"], "n1", "nothing is moved");
    assert_eq!(lab.json("migrations").as_array().unwrap().len(), 0);
    assert!(plan["memory"].as_u64().unwrap() >= 32 << 20, "{plan}");
    assert_eq!(plan["written"].as_array().unwrap().len(), 3, "{plan}");
    assert_eq!(plan["rate"]["source"], "measured", "{plan}");
    assert!(plan["rate"]["bytes_per_second"].as_f64().unwrap() > 1e6, "{plan}");
    assert!(plan["room"]["disk_free"].as_u64().unwrap() > 0, "{plan}");
    let predicted = &plan["predicted"];
    assert!(predicted["rounds"].as_u64().unwrap() >= 1 && predicted["total_ms"].as_f64().unwrap() > 0.0, "{plan}");
    // What was expected is kept with the outcome.
    let report = lab.json("migrate box --to n2");
    assert_eq!(&report["predicted"], predicted);
    // A move of a container that nobody has looked at is not expected to be anything.
    assert_eq!(lab.json("migrate box --to n1")["predicted"], Value::Null);
    // The one before has taught what the next one takes.
    let said = lab.drover("migrate box --to n2").well();
    assert!(said.lines().nth(1).unwrap().starts_with("expected: downtime "), "{said}");
    let error = lab.drover("migrate box --to n2 --dry-run").hinted_refusal();
    assert!(error.contains("it is there already"), "{error}");
}

#[test]
fn each_obstacle_in_a_container_is_found_by_name_and_refuses_the_move() {
    let lab = Lab::with_toolbox();
    let run = |name: &str, script: &str| {
        let script = format!("{script}; echo ready; while :; do sleep 1000; done");
        lab.drover((format!("run --node n1 --name {name} -d toolbox sh -c").as_str(), script.as_str())).well();
        lab.await_log(name, "ready\n");
    };
    let cases = [
        ("queue", ">/dev/mqueue/q", "message_queue"),
        ("linked", "echo x >/root/a; ln /root/a /root/b; exec 9</root/a; rm /root/a", "linked_file"),
        ("deleted", "dd if=/dev/zero of=/root/a bs=1M count=3 2>/dev/null; exec 9</root/a; rm /root/a", "deleted_file"),
    ];
    for (name, script, kind) in cases {
        run(name, script);
        assert_eq!(blocks(&lab, &format!("check {name} --to n2 --deleted-files 2m")), [kind]);
        let error = lab.drover(format!("migrate {name} --to n2 --deleted-files 2m")).hinted_refusal();
        assert!(error.starts_with(&format!("cannot move container {name}")), "{error}");
    }
    assert_eq!(lab.json("migrations").as_array().unwrap().len(), 0, "nothing was begun");
    // What is found is what CRIU would not do, and nothing else.
    lab.drover("migrate deleted --to n2").well();
    run("plain", "mkdir -p /root/x/y; cd /root/x/y; rm -r /root/x; mkfifo /root/f; exec 9<>/root/f; rm /root/f");
    assert_eq!(blocks(&lab, "check plain --to n2"), [""; 0]);
    lab.drover("migrate plain --to n2").well();
    let exec = lab.start("exec plain sleep 1000");
    until("a session", || (blocks(&lab, "check plain --to n1") == ["session"]).then_some(()));
    lab.drover(("exec plain sh -c", "kill $(pidof sleep)")).well();
    drop(exec);
    until("no session", || blocks(&lab, "check plain --to n1").is_empty().then_some(()));
}

#[test]
fn what_the_target_has_against_a_container_is_found_before_it_moves() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box --ip 10.77.1.9/16 -d toolbox sleep 1000").well();
    lab.drover("run --node n2 --name box -d toolbox sleep 1000").well();
    assert_eq!(blocks(&lab, "check box --node n1 --to n2"), ["name"]);
    lab.drover("rm -f box --node n2").well();
    lab.drover("node drain n2").well();
    assert_eq!(blocks(&lab, "check box --to n2"), ["drained"]);
    lab.drover("node undrain n2").well();
    // Somebody on the network takes its address.
    lab.on("client", "ip address add 10.77.1.9/16 dev eth0").well();
    assert_eq!(blocks(&lab, "check box --to n2"), ["address"]);
    lab.on("client", "ip address del 10.77.1.9/16 dev eth0").well();
    assert_eq!(blocks(&lab, "check box --to n2"), [""; 0]);
    lab.drover("lab agent n2 stop").well();
    assert_eq!(blocks(&lab, "check box --to n2"), ["unreachable"]);
}
