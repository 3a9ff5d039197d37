//! Who may do what, by certificates of each role, and what is written down of it.

use serde_json::Value;

use crate::harness::Lab;

#[test]
fn an_owner_has_only_what_is_its_own_and_it_stays_so_over_a_move() {
    let lab = Lab::with_toolbox();
    lab.by("alice", "run --node n1 --name hers -v data:/srv -d toolbox sleep 1000").well();
    lab.by("bob", "run --node n2 --name his -d toolbox sleep 1000").well();
    assert_eq!(lab.inspect("hers")["spec"]["owner"], "alice");
    assert_eq!(lab.by("alice", "ps -aq").well(), lab.id("hers") + "\n");
    assert_eq!(lab.by("viewer", "ps -aq").well().lines().count(), 2);

    let moved = lab.by("alice", "migrate hers --to n2 --json").well();
    assert!(moved.contains("\"moved\""), "{moved}");
    assert_eq!(lab.inspect("hers")["spec"]["owner"], "alice");
    let migrations: Vec<Value> = serde_json::from_str(&lab.by("bob", "migrations --json").well()).unwrap();
    assert_eq!(migrations, Vec::<Value>::new());

    let id = lab.id("hers");
    for what in ["stop", "rm -f", "kill", "inspect", "logs", "stats --no-stream", "commit"] {
        let target = if what == "commit" { "hers mine" } else { "hers" };
        let error = lab.by("bob", format!("{what} {target}")).hinted_refusal();
        assert!(error.contains("no node has a container hers"), "{what}: {error}");
        let error = lab.by("bob", format!("{what} {}", target.replace("hers", &id))).hinted_refusal();
        assert!(error.contains("no node has a container"), "{what}: {error}");
    }
    for what in [format!("exec {id} true"), format!("migrate {id} --to n1")] {
        assert!(lab.by("bob", what.as_str()).stderr.contains("no node has a container"), "{what}");
    }
    assert_eq!(lab.by("alice", ("exec hers sh -c", "echo here")).well(), "here\n");
    // The files of a volume are its user's, also when its container is gone.
    lab.by("alice", "rm -f hers").well();
    let error = lab.by("bob", "run --node n2 --name taker -v data:/srv -d toolbox sleep 1000");
    assert!(error.stderr.contains("volume data on this node is not yours"), "{error:?}");
    assert_eq!(lab.by("bob", "volume ls --json").well(), "[]\n");
    lab.by("bob", "volume rm data").hinted_refusal();
    lab.by("alice", "run --node n2 --name again -v data:/srv -d toolbox sleep 1000").well();
}

/// What was ordered for one was done to another user's container that had its id for a name.
#[test]
fn a_container_cannot_have_another_one_s_id_for_a_name() {
    let lab = Lab::with_toolbox();
    lab.by("bob", "run --node n1 --name his -d toolbox sleep 1000").well();
    let id = lab.id("his");
    for name in [&id, &id[..12]] {
        let error =
            lab.by("alice", format!("run --node n1 --name {name} -d toolbox sleep 1000")).hinted_refusal_with(125);
        assert!(error.contains("looks like an id"), "{error}");
    }
    // Short words are names before they are the beginning of an id, but never instead of a whole one.
    let begins = &id[..4];
    lab.by("alice", format!("run --node n1 --name {begins} -d toolbox sleep 1000")).well();
    assert_eq!(lab.inspect(begins)["spec"]["owner"], "alice");
    assert_eq!(lab.inspect(&id)["spec"]["owner"], "bob");
    assert_eq!(lab.inspect(&id[..12])["spec"]["owner"], "bob");
    // And for bob hers does not exist.
    let his: Value = serde_json::from_str(&lab.by("bob", format!("inspect {begins} --json")).well()).unwrap();
    assert_eq!(his["spec"]["owner"], "bob");
}

#[test]
fn a_viewer_looks_and_changes_nothing() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -e SECRET=hunter2 -d toolbox sleep 1000").well();
    for what in ["ps", "inspect box", "stats --no-stream box", "image ls", "volume ls", "migrations", "copies ls"] {
        let seen = lab.by("viewer", what).well();
        assert!(!seen.contains("hunter2"), "{what}: {seen}");
    }
    assert!(lab.by("viewer", "inspect box").well().contains("SECRET=(hidden)"));
    for what in
        ["stop box", "rm -f box", "kill box", "logs box", "exec box true", "migrate box --to n2", "commit box x"]
    {
        let ended = lab.by("viewer", what);
        assert!(ended.status != 0 && ended.stderr.contains("user viewer has the role viewer"), "{what}: {ended:?}");
        assert!(ended.stderr.contains("hint: it takes an"), "{what}: {ended:?}");
    }
    let made = lab.by("viewer", "run --node n1 --name mine -d toolbox true");
    assert!(made.stderr.contains("may not do this"), "{made:?}");
    assert_eq!(lab.inspect("box")["state"], "running");
}

#[test]
fn an_operator_has_all_containers_and_not_the_nodes_themselves() {
    let lab = Lab::with_toolbox();
    lab.by("alice", "run --node n1 --name hers -d toolbox sleep 1000").well();
    lab.by("operator", "migrate hers --to n2").well();
    lab.by("operator", "stop -t 0 hers").well();
    let error = lab.by("operator", "volume create etc --driver bind --source /etc").hinted_refusal();
    assert!(error.contains("it takes an admin"), "{error}");
    let error = lab.by("operator", "audit").hinted_refusal();
    assert!(error.contains("user operator has the role operator"), "{error}");
    let error = lab.by("alice", "image rm toolbox").hinted_refusal();
    assert!(error.contains("an operator or admin"), "{error}");
}

#[test]
fn changes_refusals_and_links_are_written_down_without_secrets() {
    let lab = Lab::with_toolbox();
    lab.by("alice", "run --node n1 --name web -e SECRET=hunter2 -d toolbox sleep 1000").well();
    lab.by("viewer", "stop web").hinted_refusal();
    lab.by("bob", "ps").well();
    let id = lab.id("web");
    lab.by("bob", format!("kill {id}")).hinted_refusal();
    lab.by("alice", ("exec web sh -c", "echo hunter3")).well();
    lab.by("alice", "migrate web --to n2").well();
    let records = lab.json("audit");
    let line = |record: &Value| {
        let who = record["identity"]["user"].as_str().or(record["identity"]["node"].as_str()).unwrap();
        let of = record["container"].as_str().unwrap_or("-");
        let (node, method) = (record["node"].as_str().unwrap(), record["method"].as_str().unwrap());
        format!("{node} {who} {method} {} {of} {}", record["path"].as_str().unwrap(), record["status"])
    };
    let lines: Vec<String> = records.as_array().unwrap().iter().map(line).collect();
    for expected in [
        "n1 alice POST /v1/containers web 201".to_owned(),
        format!("n1 viewer POST /v1/containers/{id}/stop - 403"),
        // It was not found for him, on the node that has it; the other one has nothing to hide.
        format!("n1 bob GET /v1/containers/{id} - 404"),
        format!("n1 alice POST /v1/containers/{id}/exec web 101"),
        "n1 alice POST /v1/migrations web 202".to_owned(),
        "n2 n1 LINK  - 101".to_owned(),
    ] {
        assert!(lines.contains(&expected), "{expected} is not in {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.contains("bob GET /v1/containers -")), "looking is not written down");
    let files = "cd /var/lib/drover; stat -c %a audit.jsonl; cat audit.jsonl";
    for node in ["n1", "n2"] {
        let file = lab.on(node, files).well();
        assert!(file.starts_with("600\n") && !file.contains("hunter"), "{file}");
    }
}
