//! What an operator does and reads: several containers at once, statistics, lists, logs of agents.

use crate::harness::{Lab, until};

#[test]
fn rm_goes_on_after_a_container_that_cannot_be_removed() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name one toolbox true").well();
    lab.drover("run --node n1 --name running -d toolbox sleep 1000").well();
    lab.drover("run --node n2 --name two toolbox true").well();
    let ended = lab.drover("rm one nope running two");
    assert_eq!((ended.status, &*ended.stdout), (1, "one\ntwo\n"), "{ended:?}");
    for reason in ["cannot remove nope: no node has", "cannot remove container running: it is running"] {
        assert!(ended.stderr.contains(reason), "{ended:?}");
    }
    let left = lab.drover("ps -aq").well();
    assert_eq!(left, lab.id("running") + "\n");
}

#[test]
fn stats_of_a_container_that_is_not_there_fail() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    let error = lab.drover("stats --no-stream box nope").hinted_refusal();
    assert!(error.contains("no node has a container nope"), "{error}");
    let elsewhere = lab.drover("inspect box --node n2").hinted_refusal();
    assert!(elsewhere.contains("n2 has no container box"), "{elsewhere}");
    let by_id = lab.json(format!("stats --no-stream {}", &lab.id("box")[..8]));
    assert_eq!(by_id[0]["name"], "box");
}

#[test]
fn the_lab_says_what_it_did_and_that_its_client_runs_no_agent() {
    let lab = Lab::up();
    let error = lab.drover("lab agent client stop").hinted_refusal();
    assert!(error.contains("client runs no agent"), "{error}");
    assert_eq!(lab.drover("lab agent n1 stop").well(), "the agent of n1 is stopped\n");
    assert_eq!(lab.drover("lab agent n1 start").well(), "the agent of n1 is running\n");
    assert_eq!(lab.drover("lab link 100mbit").well(), "links: 100mbit\n");
    assert_eq!(lab.json("lab link none")["link"], serde_json::Value::Null);
}

#[test]
fn features_of_every_node_are_told_by_its_agent() {
    let lab = Lab::up();
    let all = lab.json("agent features");
    for (node, name) in all.as_array().unwrap().iter().zip(["n1", "n2"]) {
        assert_eq!(node["node"], name);
        // These tests need rounds, and CRIU.
        assert!(node["tracking"].is_string(), "{node}");
        let criu = node["features"].as_array().unwrap().iter().find(|feature| feature["name"] == "criu").unwrap();
        assert!(criu["available"] == true && criu["found"].is_string(), "{criu}");
    }
    let one = lab.drover("agent features --node n2").well();
    assert!(one.starts_with("n2: writes are followed by ") && !one.contains("n1"), "{one}");
}

/// A container with some MiB of memory, between nodes with slow links.
fn large_and_slow(lab: &Lab) {
    let script = "x=$(head -c 16000000 /dev/zero | tr '\\0' x); echo filled; sleep 1000; echo over";
    lab.drover(("run --node n1 --name box -d toolbox sh -c", script)).well();
    lab.await_log("box", "filled");
    lab.drover("lab link 50mbit").well();
}

#[test]
fn the_list_of_moves_tells_the_same_as_the_report_of_one_that_was_undone() {
    let lab = Lab::with_toolbox();
    large_and_slow(&lab);
    let id = lab.migrate_halfway("box", "n2", 2 << 20);
    lab.drover(format!("migrate --cancel {id}")).well();
    let report = lab.await_report(&id);
    assert_eq!(report["outcome"], "rolled_back", "{report}");
    let listed = &lab.json("migrations")[0];
    assert_eq!(listed["bytes_sent"], report["bytes_sent"], "{listed}");
    assert!(listed["began_at"].as_str().unwrap().ends_with('Z'), "{listed}");
    let table = lab.drover("migrations").well();
    assert!(table.contains(report["reason"].as_str().unwrap()), "{table}");
}

#[test]
fn an_interrupted_migrate_says_that_the_move_goes_on() {
    let lab = Lab::with_toolbox();
    large_and_slow(&lab);
    let moving = lab.start("migrate box --to n2");
    let id = until("a move", || lab.json("migrations")[0]["id"].as_str().map(str::to_owned));
    moving.interrupt();
    let ended = moving.end();
    let expected = format!("the move goes on; drover migrations {id} shows it, drover migrate --cancel {id} ends it\n");
    assert_eq!((ended.status, ended.stderr), (130, expected));
    assert_eq!(lab.await_report(&id)["outcome"], "moved");
}

#[test]
fn the_log_of_an_agent_tells_of_containers_and_images_and_warns_of_nothing() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box toolbox true").well();
    lab.drover("start box").well();
    assert_eq!(lab.await_exit("box"), 0);
    lab.drover("rm box").well();
    let log = lab.agent_log("n1");
    for told in
        ["image imported", "container made and started", "program ended", "container started", "container removed"]
    {
        assert!(log.lines().any(|line| line.contains(" INFO ") && line.contains(told)), "{told}: {log}");
    }
    assert!(!log.contains("WARN") && !log.contains("TLS"), "{log}");
}
