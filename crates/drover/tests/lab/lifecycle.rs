//! A container on one node, from its start to its removal.

use crate::doubt::lose_power;
use crate::harness::{Lab, until};

#[test]
fn a_container_lives_from_run_to_rm() {
    let lab = Lab::with_toolbox();
    let script = "echo begun; while sleep 0.05; do :; done";
    let printed = lab.drover(("run --node n1 --name box -d toolbox sh -c", script)).well();
    assert_eq!(printed, "box\n");
    lab.await_log("box", "begun\n");
    let listed = lab.json("ps");
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["spec"]["name"], &listed[0]["state"]), (&"box".into(), &"running".into()));
    assert_eq!(lab.inspect("box")["node"], "n1");
    assert_eq!(lab.inside("box", "echo $((6 * 7))"), "42\n");
    let stats = lab.json("stats --no-stream box");
    assert!(stats[0]["memory"].as_u64().unwrap() > 0 && stats[0]["pids"].as_u64().unwrap() >= 1, "{stats}");
    lab.drover("rm box").refusal();
    lab.drover("stop -t 0 box").well();
    assert_eq!(lab.await_exit("box"), 137);
    assert_eq!(lab.json("ps").as_array().unwrap().len(), 0);
    assert_eq!(lab.json("ps -a").as_array().unwrap().len(), 1);
    lab.drover("start box").well();
    until("a second beginning", || (lab.logs("box").matches("begun\n").count() == 2).then_some(()));
    lab.drover("kill -s KILL box").well();
    assert_eq!(lab.await_exit("box"), 137);
    let id = lab.id("box");
    lab.drover("rm box").well();
    assert_eq!(lab.json("ps -a").as_array().unwrap().len(), 0);
    until("a node without the container", || lab.traces("n1", &id).is_empty().then_some(()));
}

#[test]
fn run_in_the_foreground_passes_output_and_status_on() {
    let lab = Lab::with_toolbox();
    let ended = lab.drover(("run --node n1 --name box toolbox sh -c", "echo out; echo err >&2; exit 3"));
    assert_eq!((ended.status, &*ended.stdout, &*ended.stderr), (3, "out\n", "err\n"));
    let run = lab.start("run --node n1 --name shot toolbox sleep 1000");
    until("a running program", || (lab.drover("kill -s KILL shot").status == 0).then_some(()));
    assert_eq!(run.end().status, 137);
    let error = lab.drover("exec box true").refusal();
    assert!(error.contains("exited (3)"), "{error}");
}

#[test]
fn exec_passes_status_environment_directory_and_user_on() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -e A=1 -d toolbox sleep 1000").well();
    assert_eq!(lab.drover(("exec box sh -c", "exit 7")).status, 7);
    let printed =
        lab.drover(("exec -e B=2 -w /tmp -u 1000:1001 box sh -c", "echo $A $B $PWD $(id -u) $(id -g)")).well();
    assert_eq!(printed, "1 2 /tmp 1000 1001\n");
    let mut cat = lab.start("exec -i box cat");
    cat.write("through\n");
    assert_eq!(cat.end().well(), "through\n");
}

#[test]
fn what_cannot_be_run_is_refused_with_a_hint() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box --ip 10.77.0.50 -d toolbox sleep 1000").well();
    let error = lab.drover("run --node n1 --name box -d toolbox sleep 1000").hinted_refusal_with(125);
    assert!(error.contains("name is taken"), "{error}");
    let error = lab.drover("run --node n1 --name other --ip 10.77.0.50 -d toolbox sleep 1000").hinted_refusal_with(125);
    assert!(error.contains("another one here has 10.77.0.50"), "{error}");
    let error = lab.drover("run --node n1 --name other -d no-such-image").hinted_refusal_with(125);
    assert!(error.contains("no-such-image"), "{error}");
    let error = lab.drover("run --node n1 --name other -d toolbox no-such-program").hinted_refusal_with(127);
    assert!(error.contains("no-such-program"), "{error}");
    let error = lab.drover("run --node n9 --name other -d toolbox").hinted_refusal_with(125);
    assert!(error.contains("n9"), "{error}");
    assert_eq!(lab.json("ps -a").as_array().unwrap().len(), 1);
}

#[test]
fn limits_are_those_of_the_kernel() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box --memory 64m --cpus 0.5 --pids-limit 20 -d toolbox sleep 1000").well();
    assert_eq!(limits(&lab, "n1", &lab.id("box")), "67108864 50 20");
    let forked = lab.drover(("exec box sh -c", "for i in $(seq 30); do sleep 5 & done"));
    assert!(forked.stderr.contains("fork"), "{forked:?}");
    let eaten = lab.drover(("exec box sh -c", "head -c 200M /dev/zero | tail -c 200M >/dev/null"));
    assert_ne!(eaten.status, 0);
    assert_eq!(lab.inspect("box")["state"], "running");
}

/// A container's limits as its node's kernel has them: bytes, percent of a processor, tasks.
pub fn limits(lab: &Lab, host: &str, id: &str) -> String {
    let script = format!(
        "cd /sys/fs/cgroup
         memory=$(cat memory/drover/{id}/memory.limit_in_bytes drover/{id}/memory.max 2>/dev/null)
         period=$(cat cpu/drover/{id}/cpu.cfs_period_us 2>/dev/null || cut -d' ' -f2 drover/{id}/cpu.max)
         quota=$(cat cpu/drover/{id}/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 drover/{id}/cpu.max)
         echo $memory $((100 * quota / period)) $(cat pids/drover/{id}/pids.max drover/{id}/pids.max 2>/dev/null)"
    );
    lab.on(host, script).well().trim().to_owned()
}

#[test]
fn a_program_finds_the_user_names_and_variables_that_were_asked_for() {
    let lab = Lab::with_toolbox();
    let options = "--user 1000:1001 -e GREETING=hello -w /tmp --hostname pasture --ip 10.77.0.51";
    let script = "echo $(id -u):$(id -g) $GREETING $PWD $(hostname) $(cat /etc/hostname); grep pasture /etc/hosts";
    let printed = lab.drover((format!("run --node n1 --name box {options} toolbox sh -c"), script)).well();
    assert_eq!(printed, "1000:1001 hello /tmp pasture pasture\n10.77.0.51\tpasture\n");
}

#[test]
fn a_container_is_kept_in_its_sandbox() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    let status = lab.inside("box", "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/1/status");
    // What containers have by custom, but for CAP_MKNOD.
    assert_eq!(status, "CapEff:\t00000000a00425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n");
    for forbidden in [
        "unshare -m true",
        "mount -t tmpfs none /mnt",
        "head -c 1 /proc/kcore | grep -q .",
        "echo 1 >/proc/sys/kernel/panic",
        "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk",
        "ls /proc/scsi/scsi",
        "kill -0 2",
    ] {
        assert_ne!(lab.drover(("exec box sh -c", forbidden)).status, 0, "{forbidden}");
    }
}

#[test]
fn restart_on_failure_stops_after_its_limit() {
    let lab = Lab::with_toolbox();
    let script = "echo run; exit 5";
    lab.drover(("run --node n1 --name box --restart on-failure:2 -d toolbox sh -c", script)).well();
    until("two restarts", || (lab.logs("box") == "run\nrun\nrun\n").then_some(()));
    assert_eq!(lab.await_exit("box"), 5);
    assert_eq!(lab.inspect("box")["restarts"], 2);
    lab.drover(("run --node n1 --name fine --restart on-failure:2 toolbox sh -c", "echo run")).well();
    assert_eq!(lab.logs("fine"), "run\n");
}

#[test]
fn restart_goes_on_until_a_user_stops_it() {
    let lab = Lab::with_toolbox();
    let script = "trap 'exit 0' TERM; echo run; while sleep 0.05; do :; done";
    lab.drover(("run --node n1 --name box --restart unless-stopped -d toolbox sh -c", script)).well();
    for count in 1..=3 {
        until("another run", || (lab.logs("box").lines().count() == count).then_some(()));
        until("a running program", || (lab.inspect("box")["state"] == "running").then_some(()));
        if count < 3 {
            lab.drover("kill -s KILL box").well();
        }
    }
    lab.drover("stop box").well();
    assert_eq!(lab.await_exit("box"), 0);
    // A new agent asks the policy before it answers.
    lab.restart_agent("n1");
    assert_eq!(lab.inspect("box")["state"], "exited");
    assert_eq!(lab.logs("box").lines().count(), 3);
}

/// It was tried once, and then the container stayed away for good.
#[test]
fn what_is_in_the_way_of_a_restart_after_a_loss_of_power_may_go() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name web --ip 10.77.0.50/24 --restart always -d toolbox sleep 1000").well();
    let mac = lab.inspect("web")["spec"]["interface"]["mac"].as_str().unwrap().to_owned();
    lose_power(&lab, "n1");
    // As if the kernel had not let go of the container's network yet.
    lab.on(
        "n1",
        format!("ip link add link eth0 name old address {mac} type macvlan mode bridge && ip link set old up"),
    )
    .well();
    lab.restart_agent("n1");
    until("a second attempt", || (lab.inspect("web")["restarts"].as_u64() > Some(1)).then_some(()));
    assert_eq!(lab.inspect("web")["state"], "exited");
    lab.on("n1", "ip link del old").well();
    until("a running program", || (lab.inspect("web")["state"] == "running").then_some(()));
}

/// It waited for half a minute, and then spoke of uninterruptible sleep.
#[test]
fn a_container_whose_shim_was_killed_says_so_and_can_be_removed() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -d toolbox sleep 1000").well();
    let id = lab.id("box");
    let kill = format!(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '[s]him.*{id}' && kill -KILL ${{p#/proc/}}; \
         done; true"
    );
    lab.on("n1", kill).well();
    until("an agent that knows", || lab.agent_log("n1").contains("shim is gone").then_some(()));
    let error = lab.drover("stop box").hinted_refusal();
    assert!(error.contains("its shim is gone"), "{error}");
    assert_eq!(lab.inspect("box")["state"], "running");
    lab.drover("rm -f box").well();
    assert!(lab.traces("n1", &id).is_empty());
}

/// It came although the container had been started by its user, had left and come back, and killed it, again and again.
#[test]
fn a_restart_that_nobody_wants_any_more_does_not_come() {
    let lab = Lab::up_with(&[("RUST_LOG", "info,drover_engine::lifecycle=debug")]);
    lab.import("toolbox");
    let script = "echo run; test -e /ok || exit 3; exec sleep 1000";
    lab.drover(("run --node n1 --name box --restart always -d toolbox sh -c", script)).well();
    // The next pause is of 6.4 s.
    until("six restarts", || (lab.logs("box").lines().count() == 7).then_some(()));
    lab.await_exit("box");
    let files = format!("/var/lib/drover/containers/{}/upper", lab.id("box"));
    lab.on("n1", format!("touch {files}/ok")).well();
    lab.drover("start box").well();
    let began = || (lab.inspect("box")["started_at"].clone(), lab.inside("box", "cut -d ' ' -f 22 /proc/1/stat"));
    lab.migrate("box", "n2");
    lab.migrate("box", "n1");
    let before = began();
    until("a restart that is given up", || lab.agent_log("n1").contains("not wanted any more").then_some(()));
    assert_eq!((lab.inspect("box")["state"].clone(), began()), ("running".into(), before));
}

#[test]
fn run_interactively_passes_standard_input_on() {
    let lab = Lab::with_toolbox();
    let mut run = lab.start("run --node n1 --name box -i toolbox cat");
    run.write("one\ntwo\n");
    lab_has_line(&lab, "two\n");
    assert_eq!(run.end().well(), "one\ntwo\n");
    assert_eq!(lab.await_exit("box"), 0);
}

fn lab_has_line(lab: &Lab, line: &str) {
    until("a line of the log", || {
        let logs = lab.drover("logs box");
        (logs.status == 0 && logs.stdout.contains(line)).then_some(())
    });
}

#[test]
fn run_and_exec_give_a_terminal() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name other -d toolbox sleep 1000").well();
    for command in ["run --node n1 --name box -it toolbox", "exec -it other"] {
        // The size may come after the start.
        let script = "tty; while test \"$(stty size)\" != \"31 101\"; do sleep 0.01; done; read x; echo got $x";
        let mut session = lab.start_on_terminal(&format!("{command} bash -c '{script}'"));
        session.write("word\n");
        let ended = session.end();
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(ended.stdout.contains("got word"), "{ended:?}");
        assert_eq!(ended.stdout.matches("/dev/pts/0").count(), 1, "{ended:?}");
    }
}

#[test]
fn following_a_log_ends_with_the_program() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -d toolbox sh -c", "echo begun; until test -e /end; do :; done")).well();
    lab.await_log("box", "begun\n");
    let following = lab.start("logs -f box");
    lab.inside("box", "echo more >/proc/1/fd/1");
    lab.let_end("box");
    assert_eq!(following.end().well(), "begun\nmore\n");
}

#[test]
fn a_container_outlives_its_agent() {
    let lab = Lab::with_toolbox();
    let script = "i=0; while sleep 0.01; do i=$((i + 1)); echo $i; test -e /end && exit 9; done";
    lab.drover(("run --node n1 --name box -d toolbox sh -c", script)).well();
    lab.await_log("box", "\n20\n");
    lab.drover("lab agent n1 stop").well();
    let error = lab.drover("ps --node n1").hinted_refusal();
    assert!(error.contains("n1"), "{error}");
    lab.restart_agent("n1");
    assert_eq!(lab.inspect("box")["state"], "running");
    let seen = last_number(&lab.logs("box"));
    until("more numbers", || (last_number(&lab.logs("box")) > seen + 20).then_some(()));
    let attached = lab.start("attach box");
    lab.let_end("box");
    let attached = attached.end();
    assert_eq!(attached.status, 9, "{attached:?}");
    assert!(attached.stdout.lines().count() > 0);
    assert_eq!(lab.await_exit("box"), 9);
    last_number(&lab.logs("box"));
}

#[test]
fn an_exit_while_the_agent_is_away_is_kept() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -d toolbox sh -c", "while ! test -e /end; do sleep 0.01; done; exit 4"))
        .well();
    let pid = lab.inspect("box")["pid"].as_u64().unwrap();
    lab.drover("lab agent n1 stop").well();
    lab.on("n1", format!("touch /proc/{pid}/root/end; while test -d /proc/{pid}; do sleep 0.05; done")).well();
    lab.restart_agent("n1");
    assert_eq!(lab.await_exit("box"), 4);
}

/// The last of a log's numbers, which must rise by one from 1.
#[track_caller]
pub fn last_number(log: &str) -> u64 {
    let mut last = 0;
    for line in log.lines() {
        assert_eq!(line.parse(), Ok(last + 1), "after {last}");
        last += 1;
    }
    last
}
