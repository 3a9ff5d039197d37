//! A cluster made by its own commands: joining, moving, rotating, revoking.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Ended, Lab, Running, image_root, until};

/// The program as hosts see it.
const DROVER: &str = "/opt/drover/drover";

/// A lab whose n1 is the first node of a cluster, and whose n2 may join it.
struct Cluster {
    lab: Lab,
    /// One file for each user; whoever has it is the user.
    contexts: tempfile::TempDir,
}

impl Cluster {
    fn init() -> Self {
        let lab = Lab::up();
        let cluster = Self { lab, contexts: tempfile::tempdir().unwrap() };
        for node in ["n1", "n2"] {
            cluster.lab.drover(format!("lab agent {node} stop")).well();
        }
        let init = "cluster init --name n1 --address 10.77.0.11 --uplink eth0 --pool 10.77.1.0/24 --prefix 16";
        cluster.lab.on("n1", format!("{DROVER} {init}")).well();
        cluster.start("n1");
        let text = cluster.lab.on("n1", "cat /etc/drover/cluster/context.json").well();
        cluster.write_context("admin", &text);
        until("an answer of the agent", || (cluster.by("admin", "ps").status == 0).then_some(()));
        cluster
    }

    /// Both nodes, with an image on each.
    fn of_two() -> Self {
        let cluster = Self::init();
        cluster.join("n2", &cluster.token("")).well();
        cluster.start("n2");
        cluster.by("admin", "user renew").well();
        until("an answer of n2", || (cluster.by("admin", "ps --node n2").status == 0).then_some(()));
        let import = format!("image import toolbox {}", image_root("toolbox").display());
        cluster.by("admin", import).well();
        cluster
    }

    fn start(&self, node: &str) {
        self.lab.on(node, "cp /etc/drover/cluster/agent.toml /etc/drover/agent.toml").well();
        self.lab.drover(format!("lab agent {node} start")).well();
    }

    fn context(&self, user: &str) -> PathBuf {
        self.contexts.path().join(format!("{user}.json"))
    }

    /// The nodes are reached from the lab's client.
    fn write_context(&self, user: &str, text: &str) {
        let mut context: Value = serde_json::from_str(text).unwrap();
        for node in context["nodes"].as_array_mut().unwrap() {
            node["netns"] = format!("/run/{}/netns/client", self.lab.mark()).into();
        }
        std::fs::write(self.context(user), context.to_string()).unwrap();
    }

    fn start_by(&self, user: &str, words: impl crate::harness::Words) -> Running {
        let mut command = self.lab.command(words);
        command.env("DROVER_CONTEXT", self.context(user));
        Running::start(command)
    }

    #[track_caller]
    fn by(&self, user: &str, words: impl crate::harness::Words) -> Ended {
        self.start_by(user, words).end()
    }

    fn json(&self, user: &str, words: &str) -> Value {
        serde_json::from_str(&self.by(user, format!("--json {words}")).well()).unwrap()
    }

    fn add_user(&self, name: &str, role: &str) {
        let file = self.context(name);
        self.by("admin", format!("user add {name} --role {role} --output {}", file.display())).well();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    fn token(&self, options: &str) -> String {
        self.json("admin", &format!("node token {options}"))["token"].as_str().unwrap().to_owned()
    }

    fn with_other_fingerprint(&self, token: &str) -> String {
        let zeros = "0".repeat(64);
        let script = format!(
            r#"body=$(echo {token} | cut -d. -f2 | tr '_-' '/+')
            while test $((${{#body}} % 4)) != 0; do body="$body="; done
            body=$(echo "$body" | base64 -d | sed 's/"f":"[0-9a-f]*"/"f":"{zeros}"/' | base64 -w0 | tr '/+' '_-' | tr -d =)
            echo "drover-join.$body""#
        );
        self.lab.on("client", script).well().trim().to_owned()
    }

    fn join(&self, name: &str, token: &str) -> Ended {
        let number = &name[1..];
        let options = format!("--name {name} --address 10.77.0.1{number} --pool 10.77.{number}.0/24 --prefix 16");
        self.lab.on("n2", format!("echo {token} | {DROVER} node join --token - {options}"))
    }
}

#[test]
fn a_node_joins_once_by_a_token_and_a_container_moves_there() {
    let cluster = Cluster::init();
    let expired = cluster.token("--ttl 0s");
    let error = cluster.join("n2", &expired).hinted_refusal();
    assert!(error.contains("it is unknown, was used already, or has expired"), "{error}");
    let error = cluster.join("n2", "drover-join.bm9uc2Vuc2U").hinted_refusal();
    assert!(error.contains("this is no join token"), "{error}");
    let named = cluster.token("--name n9");
    assert!(cluster.join("n2", &named).hinted_refusal().contains("another name"));

    // A token that names another authority: whoever answers there is not believed.
    let token = cluster.token("");
    let error = cluster.join("n2", &cluster.with_other_fingerprint(&token)).refusal();
    assert!(error.contains("cannot agree with node n1 on a secure connection"), "{error}");
    assert_eq!(cluster.lab.on("n2", "ls /etc/drover/cluster/node.pem").status, 2, "nothing was settled");

    cluster.join("n2", &token).well();
    cluster.start("n2");
    let modes = "cd /etc/drover/cluster; stat -c '%a %n' . node.pem document.json agent.toml";
    assert_eq!(cluster.lab.on("n2", modes).well(), "700 .\n600 node.pem\n600 document.json\n600 agent.toml\n");
    let modes =
        "cd /etc/drover/cluster; stat -c '%a %n' authority authority/key.pem authority/tokens.json context.json";
    let expected = "700 authority\n600 authority/key.pem\n600 authority/tokens.json\n600 context.json\n";
    assert_eq!(cluster.lab.on("n1", modes).well(), expected);

    let again =
        format!("echo {token} | {DROVER} node join --token - --name n3 --address 10.77.0.13 --dir /etc/drover/n3");
    let error = cluster.lab.on("n2", again).hinted_refusal();
    assert!(error.contains("was used already"), "{error}");

    cluster.by("admin", "user renew").well();
    until("an answer of n2", || (cluster.by("admin", "ps --node n2").status == 0).then_some(()));
    cluster.by("admin", format!("image import toolbox {}", image_root("toolbox").display())).well();
    cluster.by("admin", "run --node n1 --name box -d toolbox sleep 1000").well();
    for target in ["n2", "n1"] {
        let report = cluster.json("admin", &format!("migrate box --to {target}"));
        assert_eq!(report["outcome"], "moved", "{report}");
    }
    let shown = cluster.json("admin", "cluster show");
    assert_eq!(shown["nodes"].as_array().unwrap().len(), 2);
    let audit = cluster.by("admin", "audit").well();
    for line in ["JOIN", "POST /v1/cluster/tokens", "LINK"] {
        assert!(audit.contains(line), "{line}: {audit}");
    }
    let secrets = cluster.lab.on("n1", "cat /var/lib/drover/audit.jsonl").well() + &cluster.lab.agent_log("n1");
    assert!(!secrets.contains("drover-join") && !secrets.contains("PRIVATE KEY"), "{secrets}");
}

#[test]
fn certificates_are_renewed_while_a_container_moves_and_a_session_is_open() {
    let cluster = Cluster::of_two();
    cluster.by("admin", "run --node n1 --name box -d toolbox sleep 1000").well();
    cluster.by("admin", "run --node n1 --name other -d toolbox sleep 1000").well();
    let fill = "dd if=/dev/urandom of=/big bs=1M count=48 2>/dev/null";
    cluster.by("admin", ("exec box sh -c", fill)).well();
    let mut session = cluster.start_by("admin", "exec -i other cat");
    let serial = |node: &str| cluster.lab.on(node, "sha256sum /etc/drover/cluster/node.pem").well();
    let before = ["n1", "n2"].map(serial);
    let begun = cluster.json("admin", "migrate box --to n2 --bandwidth 100mbit --detach");
    let id = begun["id"].as_str().unwrap().to_owned();
    for node in ["n1", "n2"] {
        cluster.by("admin", format!("node renew {node}")).well();
    }
    let state = cluster.json("admin", &format!("migrations {id}"));
    assert!(state["report"].is_null(), "it was to be under way still: {state}");
    let report = until("the end of the move", || {
        let state = cluster.json("admin", &format!("migrations {id}"));
        Some(state["report"].clone()).filter(|report| !report.is_null())
    });
    assert_eq!(report["outcome"], "moved", "{report}");
    assert_ne!(["n1", "n2"].map(serial), before);
    session.write("still here\n");
    assert_eq!(session.end().well(), "still here\n");
    // What is shown from now on is the new one.
    let report = cluster.json("admin", "migrate box --to n1");
    assert_eq!(report["outcome"], "moved", "{report}");
}

#[test]
fn whoever_is_revoked_is_out_on_every_node_and_stays_out() {
    let cluster = Cluster::of_two();
    cluster.add_user("bob", "owner");
    cluster.add_user("carol", "viewer");
    for node in ["n1", "n2"] {
        until("a node that knows bob", || (cluster.by("bob", format!("ps --node {node}")).status == 0).then_some(()));
        cluster.by("bob", format!("run --node {node} --name on-{node} -d toolbox sleep 1000")).well();
    }
    until("a node that knows carol", || (cluster.by("carol", "ps --node n2").status == 0).then_some(()));
    assert!(cluster.by("carol", "stop on-n1").refusal().contains("user carol has the role viewer"));
    cluster.by("admin", "user role carol operator").well();
    until("a role that counts", || (cluster.by("carol", "stop -t 0 on-n1").status == 0).then_some(()));
    cluster.by("carol", "start on-n1").well();
    assert!(cluster.by("admin", "user role admin viewer").hinted_refusal().contains("the last administrator"));
    let error = cluster.by("bob", "node token").hinted_refusal();
    assert!(error.contains("user bob has the role owner"), "{error}");
    let mut sessions = ["n1", "n2"].map(|node| cluster.start_by("bob", format!("exec -i on-{node} cat")));
    for session in &mut sessions {
        session.write("x");
        assert!(session.runs());
    }
    cluster.by("admin", "user revoke bob").well();
    for session in &mut sessions {
        until("the end of a session of a user who was revoked", || (!session.runs()).then_some(()));
    }
    until("a refusal of both nodes", || {
        let refused = ["n1", "n2"].map(|node| cluster.by("bob", format!("ps --node {node}")).stderr);
        refused.iter().all(|error| error.contains("user bob is not known here")).then_some(())
    });
    // The same name again is somebody else.
    std::fs::rename(cluster.context("bob"), cluster.context("stolen")).unwrap();
    cluster.add_user("bob", "owner");
    until("the new bob on both nodes", || (cluster.by("bob", "ps --node n2").status == 0).then_some(()));
    assert!(cluster.by("stolen", "ps --node n1").refusal().contains("is not known here"));
    assert!(cluster.by("admin", "user revoke admin").hinted_refusal().contains("the last administrator"));

    assert!(cluster.by("admin", "node remove n1").hinted_refusal().contains("the cluster's authority"));
    cluster.by("admin", "node remove n2").well();
    let error = cluster.by("admin", "migrate on-n1 --to n2").hinted_refusal();
    assert!(error.contains("knows no node n2"), "{error}");
    // The node that was removed may not have heard of it; the other one does not take its containers.
    let error = cluster.by("admin", "migrate on-n2 --to n1").refusal();
    assert!(!error.is_empty(), "{error}");
    let ps = cluster.json("admin", "ps --node n1");
    assert_eq!(ps.as_array().unwrap().len(), 1, "{ps}");
    let audit = cluster.by("admin", "audit --node n1").well();
    assert!(audit.lines().any(|line| line.contains("LINK") && line.contains("403")), "{audit}");
}
