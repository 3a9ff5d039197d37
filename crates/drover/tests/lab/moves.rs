//! What travels with a container, and what works as before after a move there and back.

use crate::harness::{Lab, until};
use crate::lifecycle::{last_number, limits};

/// Prints rising numbers until there is a file `/end`, and ends with status 9 then.
const COUNTING: &str = "i=0; while sleep 0.01; do i=$((i + 1)); echo $i; test -e /end && exit 9; done";

#[test]
fn a_container_is_used_as_before_after_a_move_there_and_back() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -d toolbox sh -c", COUNTING)).well();
    let (id, started) = (lab.id("box"), lab.inspect("box")["started_at"].clone());
    for (number, target) in [(1, "n2"), (2, "n1")] {
        lab.await_log("box", "\n10\n");
        lab.migrate("box", target);
        let record = lab.inspect("box");
        assert_eq!(record["spec"]["id"], id.as_str());
        assert_eq!((&record["generation"], &record["started_at"]), (&number.into(), &started));
        assert_eq!(lab.inspect(&id)["spec"]["name"], "box");
        assert_eq!(lab.inside("box", "echo inside"), "inside\n");
        let seen = last_number(&lab.logs("box"));
        until("more numbers", || (last_number(&lab.logs("box")) > seen + 10).then_some(()));
        let stats = lab.json("stats --no-stream box");
        assert!(stats[0]["node"] == target && stats[0]["memory"].as_u64().unwrap() > 0, "{stats}");
        assert_eq!(lab.json("ps").as_array().unwrap().len(), 1);
    }
    let attached = lab.start("attach box");
    lab.let_end("box");
    assert_eq!(attached.end().status, 9);
    assert_eq!(lab.await_exit("box"), 9);
    last_number(&lab.logs("box"));
}

#[test]
fn followers_and_the_attached_travel_along() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -d toolbox sh -c", COUNTING)).well();
    let mut following = lab.start("logs -f box");
    let mut attached = lab.start("attach box");
    for target in ["n2", "n1"] {
        lab.migrate("box", target);
        let seen = last_number(&lab.logs("box"));
        until("more numbers", || (last_number(&lab.logs("box")) > seen + 10).then_some(()));
        assert!(following.runs(), "following ended: {:?}", following.end());
        assert!(attached.runs(), "attached ended: {:?}", attached.end());
    }
    lab.let_end("box");
    let log = lab.start("logs -f box").end().well();
    assert_eq!(last_number(&following.end().well()), last_number(&log));
    assert_eq!(attached.end().status, 9);
}

#[test]
fn a_moved_container_can_be_stopped_started_and_removed() {
    let lab = Lab::with_toolbox();
    let script = "trap 'echo asked; exit 0' TERM; echo run; while sleep 0.05; do :; done";
    lab.drover(("run --node n1 --name box --ip 10.77.0.51 -d toolbox sh -c", script)).well();
    lab.await_log("box", "run\n");
    lab.migrate("box", "n2");
    lab.drover("stop box").well();
    assert_eq!(lab.await_exit("box"), 0);
    assert_eq!(lab.logs("box"), "run\nasked\n");
    lab.drover("start box").well();
    lab.await_log("box", "asked\nrun\n");
    lab.migrate("box", "n1");
    lab.drover("kill -s TERM box").well();
    assert_eq!(lab.await_exit("box"), 0);
    let id = lab.id("box");
    lab.drover("rm box").well();
    for node in ["n1", "n2"] {
        until("a node without the container", || lab.traces(node, &id).is_empty().then_some(()));
    }
    assert_eq!(lab.json("copies ls"), serde_json::json!([]), "its files are removed wherever it has been");
}

#[test]
fn a_restart_policy_travels() {
    let lab = Lab::with_toolbox();
    let script = "echo run; while sleep 0.05; do :; done";
    lab.drover(("run --node n1 --name box --restart on-failure:1 -d toolbox sh -c", script)).well();
    lab.await_log("box", "run\n");
    lab.migrate("box", "n2");
    lab.drover("kill -s KILL box").well();
    lab.await_log("box", "run\nrun\n");
    until("a running program", || (lab.inspect("box")["state"] == "running").then_some(()));
    lab.migrate("box", "n1");
    assert_eq!(lab.inspect("box")["restarts"], 1);
    lab.drover("kill -s KILL box").well();
    assert_eq!(lab.await_exit("box"), 137);
}

#[test]
fn names_variables_and_limits_travel() {
    let lab = Lab::with_toolbox();
    let options = "-e GREETING=hello -w /tmp --hostname pasture --ip 10.77.0.51";
    let bounds = "--memory 64m --cpus 0.5 --pids-limit 20";
    lab.drover(format!("run --node n1 --name box {options} {bounds} -d toolbox sleep 1000")).well();
    let script = "id; pwd; hostname; cat /etc/hostname /etc/hosts; echo $GREETING; \
                  tr '\\0' '\\n' </proc/1/environ; grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid)' /proc/1/status; \
                  grep -E 'Seccomp:|CapEff' /proc/self/status; sed 's/,.*//' /proc/mounts | cut -d' ' -f2- | sort; \
                  stat -c '%N %A %t:%T %u:%g' /dev/*; cat /proc/kcore 2>&1 | head -c 100; cat /proc/1/oom_score_adj";
    let before = lab.inside("box", script);
    let id = lab.id("box");
    for target in ["n2", "n1"] {
        lab.migrate("box", target);
        assert_eq!(lab.inside("box", script), before, "on {target}");
        assert_eq!(limits(&lab, target, &id), "67108864 50 20");
        assert_ne!(lab.drover("exec box unshare -m true").status, 0);
    }
}

/// To dump the processes of another user needs CAP_SYS_RESOURCE, which not every machine's root has.
#[test]
fn the_container_of_an_ordinary_user_travels() {
    let lab = Lab::with_toolbox();
    let run = "run --node n1 --name box --user 1000:1001 -d toolbox sh -c";
    lab.drover((run, "ulimit -n 777; exec sleep 1000")).well();
    let limits = || lab.inside("box", "cat /proc/1/limits");
    let before = limits();
    assert!(before.lines().any(|line| line.starts_with("Max open files") && line.contains("777")), "{before}");
    for target in ["n2", "n1"] {
        lab.migrate("box", target);
        assert_eq!(lab.inside("box", "id -u; id -g"), "1000\n1001\n");
        assert_eq!(limits(), before);
    }
}

#[test]
fn who_sleeps_sleeps_on() {
    let lab = Lab::with_toolbox();
    let script = "sleep 1000; echo ended by $?";
    lab.drover(("run --node n1 --name box -d toolbox sh -c", script)).well();
    lab.drover("run --node n1 --name first -d toolbox sleep 1000").well();
    for target in ["n2", "n1", "n2"] {
        lab.migrate("box", target);
        lab.migrate("first", target);
    }
    assert_eq!(lab.logs("box"), "");
    assert_eq!(lab.inspect("first")["state"], "running");
}

#[test]
fn a_program_that_ends_as_it_arrives_has_moved() {
    let lab = Lab::with_toolbox();
    // It ends at a time that comes while it is frozen: its memory takes more than two seconds to cross.
    let script = "ballast=$(head -c 24M /dev/urandom | base64 -w0); echo ready
        until test -s /end && (( ${EPOCHREALTIME/./} > $(cat /end) )); do sleep 0.02; done; exit 4";
    lab.drover(("run --node n1 --name box -d toolbox bash -c", script)).well();
    lab.await_log("box", "ready\n");
    lab.drover("lab link 100mbit").well();
    lab.drover(("exec box bash -c", "echo $(( ${EPOCHREALTIME/./} + 1500000 )) >/end")).well();
    lab.drover("migrate box --to n2 --mode stop-and-copy").well();
    assert_eq!(lab.await_exit("box"), 4);
    assert_eq!(lab.inspect("box")["node"], "n2");
}

#[test]
fn files_travel_deleted_ones_that_are_open_too() {
    let lab = Lab::with_toolbox();
    let script = "for place in /root /dev/shm /tmp; do
          echo kept >$place/kept; chmod 640 $place/kept; ln -s kept $place/link; mkdir -p $place/empty
        done
        chown 7:8 /root/kept; rm -r /etc/skel; echo changed >>/etc/hostname
        exec 5>/root/deleted 6>/dev/shm/deleted; rm /root/deleted /dev/shm/deleted; echo one >&5; echo one >&6
        mkfifo /tmp/fifo; exec 7<>/tmp/fifo; echo waiting >&7
        while ! test -e /go; do sleep 0.02; done
        echo two >&5; echo two >&6; read -u 7 word; echo $word
        cat /proc/self/fd/5 /proc/self/fd/6
        echo done; sleep 1000";
    lab.drover(("run --node n1 --name box -d toolbox bash -c", script)).well();
    until("the files", || (lab.drover("exec box test -p /tmp/fifo").status == 0).then_some(()));
    let look =
        "ls -lAn /root /dev/shm /tmp; cat /root/link /dev/shm/link /tmp/link /etc/hostname; ls -d /etc/skel 2>&1; true";
    let before = lab.inside("box", look);
    for target in ["n2", "n1"] {
        lab.migrate("box", target);
        assert_eq!(lab.inside("box", look), before, "on {target}");
    }
    lab.inside("box", "touch /go");
    let log = lab.await_log("box", "done");
    assert_eq!(log, "waiting\none\ntwo\none\ntwo\ndone\n");
}

#[test]
fn a_deleted_file_travels_up_to_the_size_that_is_allowed() {
    let lab = Lab::with_toolbox();
    let script = "exec 5<>/root/file; rm /root/file; head -c 3000000 /dev/zero | tr '\\0' x >&5; echo written; \
                  while ! test -e /go; do sleep 0.02; done; wc -c </proc/self/fd/5; sleep 1000";
    lab.drover(("run --node n1 --name box -d toolbox bash -c", script)).well();
    lab.await_log("box", "written");
    let error = lab.drover("migrate box --to n2 --deleted-files 1m").hinted_refusal();
    assert!(error.contains("/root/file") && error.contains("--deleted-files"), "{error}");
    assert_eq!(lab.inspect("box")["node"], "n1");
    lab.migrate("box", "n2");
    lab.inside("box", "touch /go");
    lab.await_log("box", "3000000");
}

#[test]
fn processes_and_the_pipes_between_them_travel() {
    let lab = Lab::with_toolbox();
    let script = "(i=0; while ! test -e /end; do i=$((i + 1)); echo $i; sleep 0.005; done) | cat | while read n; do echo $n; done";
    lab.drover(("run --node n1 --name box -d toolbox bash -c", script)).well();
    lab.await_log("box", "\n10\n");
    // A shell forks for each sleep, so that now and then one more is seen.
    let processes = || lab.inside("box", "ps | grep -cE '[b]ash|[c]at'");
    until("three shells and a cat", || (processes() == "4\n").then_some(()));
    for target in ["n2", "n1", "n2"] {
        lab.migrate("box", target);
        let seen = last_number(&lab.logs("box"));
        until("more numbers", || (last_number(&lab.logs("box")) > seen + 10).then_some(()));
        until("the same processes", || (processes() == "4\n").then_some(()));
    }
    lab.let_end("box");
    assert_eq!(lab.await_exit("box"), 0);
    last_number(&lab.logs("box"));
}

#[test]
fn unix_sockets_and_listeners_travel() {
    let lab = Lab::up();
    lab.import("redis");
    let script = "redis-server --save '' --bind '*' --protected-mode no --unixsocket /tmp/socket &
        until redis-cli -s /tmp/socket ping >/dev/null 2>&1; do sleep 0.02; done
        redis-cli -s /tmp/socket subscribe news";
    lab.drover(("run --node n1 --name web --ip 10.77.0.50 -d redis sh -c", script)).well();
    lab.await_log("web", "news\n");
    for (number, target) in [(1, "n2"), (2, "n1")] {
        lab.migrate("web", target);
        // The subscriber's connection is one of before the move, these are new ones.
        assert_eq!(lab.inside("web", format!("redis-cli -s /tmp/socket publish news word{number}")), "1\n");
        lab.await_log("web", &format!("word{number}\n"));
        assert_eq!(lab.on("client", "redis-cli -h 10.77.0.50 ping").well(), "PONG\n");
    }
}

#[test]
fn a_terminal_travels_with_its_shell() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -dit toolbox bash --norc").well();
    let id = lab.id("box");
    for target in ["n2", "n1"] {
        let mut session = lab.start_on_terminal("attach box");
        session.write(&format!("here=$here-{target}\n"));
        session.write("echo it is $here\n");
        lab.await_log("box", &format!("-{target}\r\n"));
        // Ctrl-p ctrl-q.
        session.write("\u{10}\u{11}");
        assert_eq!(session.end().status, 0);
        lab.migrate("box", target);
    }
    let mut session = lab.start_on_terminal("attach box");
    session.write("echo at last $here; tty; stty size; exit 6\n");
    let ended = session.end();
    assert!(ended.stdout.contains("at last -n2-n1") && ended.stdout.contains("/dev/pts/0"), "{ended:?}");
    assert!(ended.stdout.contains("31 101"), "{ended:?}");
    assert_eq!((ended.status, lab.await_exit("box")), (6, 6));
    until("a node without the container", || lab.traces("n2", &id).is_empty().then_some(()));
}

#[test]
fn the_address_answers_from_where_the_container_is() {
    let lab = Lab::with_toolbox();
    let script = "while :; do echo hello | nc -l -p 7000 >/dev/null; done";
    lab.drover(("run --node n1 --name box --ip 10.77.0.51 -d toolbox sh -c", script)).well();
    let ask = "ping -c 1 -W 2 10.77.0.51 >/dev/null && nc -w 2 10.77.0.51 7000 </dev/null";
    let answers = || until("an answer", || Some(lab.on("client", ask)).filter(|ended| ended.status == 0));
    assert_eq!(answers().stdout, "hello\n");
    let hardware = || lab.on("client", "ip neigh show 10.77.0.51 | grep -o 'lladdr [0-9a-f:]*'").well();
    let before = hardware();
    for (target, source) in [("n2", "n1"), ("n1", "n2")] {
        lab.migrate("box", target);
        assert_eq!(answers().stdout, "hello\n");
        assert_eq!(hardware(), before);
        // With the target's cable out, nobody else answers in its place.
        lab.on(target, "ip link set eth0 down").well();
        assert_ne!(lab.on("client", "ping -c 1 -W 1 10.77.0.51").status, 0, "{source} still answers");
        lab.on(target, "ip link set eth0 up").well();
        until("an agent that answers", || (lab.drover(format!("ps --node {target}")).status == 0).then_some(()));
    }
}
