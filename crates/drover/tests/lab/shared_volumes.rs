//! Shared volumes: mounted by a driver on both nodes, found to be the same before a move, and watched over.
//!
//! The lab's client is the server: its SSH server exports `/srv/data`.

use crate::harness::{Lab, until};

/// What a node needs to mount the client's directory.
const KEYS: &str = "IdentityFile=/root/key,UserKnownHostsFile=/root/known";
/// Appends rising numbers to a file that it opens for each.
const REOPENING: &str = "i=0; while sleep 0.02; do i=$((i + 1)); echo $i >>/data/numbers; done";
/// Appends rising numbers to a file that it keeps open.
const APPENDING: &str = "exec 3>>/data/numbers; i=0; while sleep 0.02; do i=$((i + 1)); echo $i >&3; done";
/// Starts the server; its processes end with `STOP_SERVER`.
const START_SERVER: &str = "/usr/sbin/sshd -f /root/sshd_config -E /root/sshd.log";
const STOP_SERVER: &str = "for process in /proc/[0-9]*; do case $(cat $process/comm 2>/dev/null) in sshd*) kill -9 ${process#/proc/};; esac; done";

/// A lab whose client serves `/srv/data` by SSH, and whose nodes may mount it; the source for that.
fn with_server() -> (Lab, String) {
    let lab = Lab::with_toolbox();
    let address =
        lab.on("client", "ip -o -4 addr show scope global | sed 's,.*inet \\([^/]*\\)/.*,\\1,' | head -n 1").well();
    let address = address.trim();
    let make = "mkdir -p /srv/data /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /root/host && \
                ssh-keygen -q -t ed25519 -N '' -f /root/user && cp /root/user.pub /root/allowed && chmod 600 /root/allowed && \
                printf '%s\\n' 'Port 22' 'HostKey /root/host' 'AuthorizedKeysFile /root/allowed' 'UsePAM no' \
                'StrictModes no' 'PermitRootLogin prohibit-password' 'Subsystem sftp internal-sftp' >/root/sshd_config";
    lab.on("client", format!("{make} && {START_SERVER}")).well();
    let (key, host) = (lab.on("client", "cat /root/user").well(), lab.on("client", "cat /root/host.pub").well());
    for node in ["n1", "n2"] {
        let host = host.trim();
        let place = format!("umask 077 && printf '%s' '{key}' >/root/key && echo '{address} {host}' >/root/known");
        lab.on(node, place).well();
    }
    (lab, format!("root@{address}:/srv/data"))
}

/// The numbers that have reached the server.
#[track_caller]
fn numbers(lab: &Lab) -> Vec<u64> {
    let text = lab.on("client", "cat /srv/data/numbers 2>/dev/null; true").well();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[track_caller]
fn await_more_numbers(lab: &Lab) {
    let seen = numbers(lab).len();
    until("more numbers on the server", || (numbers(lab).len() > seen + 10).then_some(()));
}

/// What is mounted for volumes on a node.
#[track_caller]
fn mounted(lab: &Lab, node: &str) -> String {
    lab.on(node, "grep ' /run/drover/' /proc/mounts | grep /volumes/; true").well()
}

#[test]
fn a_volume_on_a_server_is_mounted_on_both_sides_of_a_move() {
    let (lab, source) = with_server();
    lab.drover(format!("volume create data --driver sshfs --source {source} -o {KEYS}")).well();
    lab.drover(("run --node n1 --name box -v data:/data -d toolbox sh -c", APPENDING)).well();
    assert!(mounted(&lab, "n2").is_empty(), "nobody needs it there yet");
    lab.inside("box", "echo x >/data/file; chown 33:44 /data/file");
    for (target, other) in [("n2", "n1"), ("n1", "n2")] {
        await_more_numbers(&lab);
        lab.migrate("box", target);
        await_more_numbers(&lab);
        assert_eq!(lab.inside("box", "cat /data/file; stat -c %u:%g /data/file"), "x\n33:44\n");
        until("a source that has unmounted it", || mounted(&lab, other).is_empty().then_some(()));
        let left = lab.on("client", "ls -A /srv/data").well();
        assert_eq!(left, "file\nnumbers\n", "marks are gone");
    }
    let all = numbers(&lab);
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>(), "no number is lost and none is there twice");
    // An agent that is killed does not take what is mounted with it.
    lab.restart_agent("n1");
    await_more_numbers(&lab);
    lab.drover("rm -f box").well();
    until("a node without mounts", || mounted(&lab, "n1").is_empty().then_some(()));
    assert_eq!(lab.json("volume ls").as_array().unwrap().len(), 2, "it stays declared");
}

#[test]
fn a_container_whose_volume_is_another_one_on_the_target_does_not_move() {
    let lab = Lab::with_toolbox();
    for node in ["n1", "n2"] {
        lab.on(node, "mkdir /srv/data && echo same >/srv/data/file").well();
    }
    lab.drover("volume create data --driver bind --source /srv/data --node n1").well();
    lab.drover("run --node n1 --name box -v data:/data -d toolbox sleep 1000").well();
    let undeclared = lab.drover("migrate box --to n2").hinted_refusal();
    assert!(undeclared.contains("node n2 has no volume data"), "{undeclared}");
    lab.drover("volume create data --driver bind --source /srv/data --node n2").well();
    let other = lab.drover("migrate box --to n2").hinted_refusal();
    assert!(other.contains("volume data is not the same file system on both nodes"), "{other}");
    assert_eq!(lab.inside("box", "cat /data/file; echo more >>/data/file"), "same\n");
    until("a directory without marks", || (lab.on("n1", "ls -A /srv/data").well() == "file\n").then_some(()));
    assert_eq!(lab.on("n2", "ls -A /srv/data; cat /srv/data/file").well(), "file\nsame\n", "nothing was written there");
    assert!(mounted(&lab, "n2").is_empty());
}

/// Hosts of a lab see the same directory of programs, which they cannot write to.
#[test]
fn a_volume_that_nobody_can_write_to_is_known_by_what_it_shows() {
    let lab = Lab::with_toolbox();
    lab.drover("volume create programs --driver bind --source /opt/drover").well();
    lab.drover("run --node n1 --name box -v programs:/programs:ro -d toolbox sleep 1000").well();
    for target in ["n2", "n1"] {
        lab.migrate("box", target);
        lab.inside("box", "test -x /programs/drover");
    }
    lab.on("n1", "mkdir /srv/empty && mount -t tmpfs -o ro none /srv/empty").well();
    lab.drover("volume create empty --driver bind --source /srv/empty").well();
    lab.drover("run --node n1 --name other -v empty:/empty -d toolbox sleep 1000").well();
    let nothing = lab.drover("migrate other --to n2").hinted_refusal();
    assert!(nothing.contains("is empty and cannot be written to"), "{nothing}");
}

#[test]
fn a_container_whose_volume_is_lost_stands_still_until_it_is_back() {
    let (lab, source) = with_server();
    lab.drover(format!("volume create data --driver sshfs --source {source} -o {KEYS}")).well();
    lab.drover(("run --node n1 --name box -v data:/data -d toolbox sh -c", REOPENING)).well();
    lab.migrate("box", "n2");
    for _ in 0..2 {
        await_more_numbers(&lab);
        lab.on("client", STOP_SERVER).well();
        until("a container that stands still", || (lab.inspect("box")["state"] == "frozen").then_some(()));
        assert_eq!(lab.inspect("box")["awaits"], serde_json::json!(["data"]));
        assert!(lab.drover("ps").well().contains("frozen, waits for volume data"));
        assert!(lab.drover("volume ls").well().contains("sshfs (lost)"));
        let refused = lab.drover("migrate box --to n1").hinted_refusal();
        assert!(refused.contains("it is frozen"), "{refused}");
        // An agent that is started anew takes up the wait.
        lab.restart_agent("n2");
        until("a container that stands still", || (lab.inspect("box")["state"] == "frozen").then_some(()));
        // What lies beneath takes nothing.
        let seen = numbers(&lab).len();
        lab.on("n2", "! touch /run/drover/volumes/data/file 2>/dev/null").well();
        lab.on("client", START_SERVER).well();
        until("a container that goes on", || (lab.inspect("box")["state"] == "running").then_some(()));
        assert!(lab.inspect("box")["awaits"].is_null());
        until("more numbers on the server", || (numbers(&lab).len() > seen + 10).then_some(()));
    }
    lab.migrate("box", "n1");
    await_more_numbers(&lab);
    lab.inside("box", "grep -q ' /data fuse.sshfs rw,nosuid,nodev' /proc/mounts");
}

#[test]
fn a_container_whose_volume_is_lost_is_stopped_when_that_was_wished() {
    let (lab, source) = with_server();
    // A program that stays while it is mounted.
    let command = format!("sshfs -f -o allow_other,{KEYS} {source} {{target}}");
    lab.drover(("volume create data --driver fuse --lost stop --source", command)).well();
    lab.drover(("run --node n1 --name box --restart always -v data:/data -d toolbox sh -c", REOPENING)).well();
    await_more_numbers(&lab);
    lab.on("client", STOP_SERVER).well();
    lab.await_exit("box");
    until("a node that has unmounted it", || mounted(&lab, "n1").is_empty().then_some(()));
    let refused = lab.drover("start box").hinted_refusal();
    assert!(
        refused.contains("cannot mount volume data: sshfs failed: ") && refused.contains("Connection"),
        "{refused}"
    );
    lab.on("client", START_SERVER).well();
    lab.drover("start box").well();
    await_more_numbers(&lab);
}

#[test]
fn what_cannot_be_mounted_says_why_and_leaves_nothing() {
    let lab = Lab::with_toolbox();
    let refusal = |driver: &str, source: &str| {
        lab.drover((format!("volume create data --node n1 --driver {driver} --source"), source)).well();
        let refused = lab.drover("run --node n1 --name box -v data:/data -d toolbox true").hinted_refusal_with(125);
        assert!(mounted(&lab, "n1").is_empty());
        lab.drover("volume rm data").well();
        refused
    };
    assert!(refusal("bind", "/no/such/directory").contains("No such file or directory"));
    assert!(refusal("fuse", "no-such-program {target}").contains("cannot start no-such-program"));
    assert!(refusal("fuse", "ls --no-such-option {target}").contains("ls failed: ls: unrecognized option"));
    if lab.on("n1", "grep -qw nfs /proc/filesystems").status == 0 {
        eprintln!("skipped: this kernel has an NFS client, and the test wants to see what one without says");
    } else {
        assert!(refusal("nfs", "10.77.0.99:/data").contains("mount failed: mount: "));
    }
    let nonsense = lab.drover("volume create data --driver nfs --source nowhere").refusal();
    assert!(nonsense.contains("is no source for the driver nfs: use HOST:/PATH"), "{nonsense}");
}
