//! Volumes: what is in them travels with their container, or stays where it is.

use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use crate::harness::{Lab, home, until};

/// Appends rising numbers to a file that it keeps open, and tells in which file it does.
const APPENDING: &str = "exec 3>>/data/numbers; i=0; while sleep 0.01; do i=$((i + 1)); echo $i >&3; done";

/// The files of a volume on a node, as the machine sees them.
fn files(lab: &Lab, node: &str, volume: &str) -> PathBuf {
    home().join(lab.directory()).join(node).join("state/volumes").join(volume).join("data")
}

/// Names, modes, owners and contents.
const LISTING: &str = "cd /data && find . ! -name numbers -exec stat -c '%n %F %a %u:%g %s %t:%T' {} + | sort && \
                       find . -type f ! -name numbers -exec sha256sum {} + | sort && readlink link";

#[track_caller]
fn numbers(lab: &Lab) -> u64 {
    let text = lab.inside("box", "cat /data/numbers");
    let found: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<u64> = (1..=found.len() as u64).collect();
    assert_eq!(found, expected, "no number is lost and none is there twice");
    expected.len() as u64
}

#[track_caller]
fn await_more_numbers(lab: &Lab) {
    let seen = numbers(lab);
    until("more numbers", || (numbers(lab) > seen + 10).then_some(()));
}

/// What `/proc/mounts` says of a place inside.
#[track_caller]
fn mount(lab: &Lab, place: &str) -> String {
    lab.inside("box", format!("grep ' {place} ' /proc/mounts | cut -d' ' -f3-"))
}

#[test]
fn a_local_volume_travels_with_its_container() {
    let lab = Lab::with_toolbox();
    let options = "-v data:/data -v settings:/settings:ro";
    lab.drover((format!("run --node n1 --name box {options} -d toolbox sh -c"), APPENDING)).well();
    let fill = "cd /data; head -c 3000000 /dev/urandom >big; mkdir -p a/b; echo x >a/b/file; chown 33:44 a/b/file; \
                chmod 2770 a/b; ln -s nowhere/at/all link; ln big again; mkfifo pipe; truncate -s 64M hole";
    lab.inside("box", fill);
    let file = files(&lab, "n1", "data").join("a/b/file");
    rustix::fs::setxattr(&file, "user.colour", b"green", XattrFlags::CREATE).unwrap();
    let listing = lab.inside("box", LISTING);
    for (source, target) in [("n1", "n2"), ("n2", "n1")] {
        await_more_numbers(&lab);
        lab.migrate("box", target);
        await_more_numbers(&lab);
        assert_eq!(lab.inside("box", LISTING), listing, "on {target}");
        let mut value = [0; 16];
        let file = files(&lab, target, "data").join("a/b/file");
        let length = rustix::fs::getxattr(&file, "user.colour", &mut value).unwrap();
        assert_eq!(&value[..length], b"green");
        assert!(mount(&lab, "/settings").contains("ro,nosuid,nodev"), "{}", mount(&lab, "/settings"));
        assert_ne!(lab.drover(("exec box sh -c", "echo x >/settings/file")).status, 0);
        let volumes = lab.json("volume ls");
        let placed: Vec<_> = volumes.as_array().unwrap().iter().map(|volume| &volume["node"]).collect();
        assert_eq!(placed, [target, target], "nothing is left on {source}: {volumes}");
        assert!(!files(&lab, source, "data").exists());
    }
    let error = lab.drover("volume rm data").hinted_refusal();
    assert!(error.contains("container box uses it"), "{error}");
    lab.drover("rm -f box").well();
    // What is in it is for the next container, which takes nothing from the image any more.
    lab.drover(("run --node n1 --name box -v data:/data -d toolbox sh -c", "exec sleep 1000")).well();
    assert_eq!(lab.inside("box", LISTING), listing);
    lab.drover("rm -f box").well();
    let pruned = lab.json("volume prune");
    assert_eq!(pruned.as_array().unwrap().len(), 2, "{pruned}");
    assert_eq!(lab.json("volume ls"), serde_json::json!([]));
}

#[test]
fn a_new_volume_begins_with_what_the_image_has_there() {
    let lab = Lab::with_toolbox();
    let list = "cd /etc && find . ! -name hosts ! -name hostname ! -name resolv.conf -exec stat -c '%n %a %u:%g %s' {} + | sort";
    lab.drover("run --node n1 --name plain -d toolbox sleep 1000").well();
    lab.drover("run --node n1 --name box -v etc:/etc --workdir /etc -d toolbox sleep 1000").well();
    assert_eq!(lab.inside("box", list), lab.inside("plain", list));
    lab.inside("box", "rm /etc/passwd");
    lab.drover("stop -t 0 box").well();
    lab.drover("start box").well();
    assert_eq!(lab.inside("box", "ls /etc/passwd 2>/dev/null; true"), "", "what was removed stays away");
}

#[test]
fn files_in_memory_travel_and_have_their_size_and_mode() {
    let lab = Lab::with_toolbox();
    let options = "--tmpfs /cache:size=3m,mode=700 --tmpfs /scratch -v data:/data --tmpfs /data/inner";
    lab.drover(format!("run --node n1 --name box {options} -d toolbox sleep 1000")).well();
    let fill = "head -c 2000000 /dev/urandom >/cache/big; mkdir -m 711 /scratch/d; echo x >/scratch/d/f; echo y >/data/inner/g";
    lab.inside("box", fill);
    let look = "sha256sum /cache/big /scratch/d/f /data/inner/g; stat -c '%a %u' /cache /scratch /scratch/d; \
                df -k /cache /scratch | awk '{ print $2, $6 }'";
    let before = lab.inside("box", look);
    assert!(before.contains("700 0\n1777 0\n711 0\n") && before.contains("3072 /cache\n65536 /scratch"), "{before}");
    for target in ["n2", "n1"] {
        lab.migrate("box", target);
        assert_eq!(lab.inside("box", look), before, "on {target}");
        let full = lab.drover(("exec box sh -c", "head -c 4000000 /dev/zero >/cache/more"));
        assert_ne!(full.status, 0, "{full:?}");
        let fitted: u64 = lab.inside("box", "stat -c %s /cache/more; rm /cache/more").trim().parse().unwrap();
        assert!((900_000..=1_146_000).contains(&fitted), "{fitted}");
    }
    assert!(!files(&lab, "n1", "data").join("inner/g").exists(), "what is in memory is on no disk");
}

#[test]
fn a_volume_whose_name_is_taken_on_the_target_does_not_move() {
    let lab = Lab::with_toolbox();
    lab.drover("run --node n1 --name box -v data:/data -d toolbox sleep 1000").well();
    lab.drover("run --node n2 --name other -v data:/data -d toolbox sleep 1000").well();
    lab.inside("other", "echo theirs >/data/file");
    let error = lab.drover("migrate box --to n2").hinted_refusal();
    assert!(error.contains("volume data belongs to another container"), "{error}");
    let report = &lab.json("migrations")[0]["report"];
    assert!(report["phases"]["freeze"].is_null(), "nothing was frozen: {report}");
    lab.drover("rm -f other").well();
    let error = lab.drover("migrate box --to n2").hinted_refusal();
    assert!(error.contains("there is a volume data on this node already"), "{error}");
    assert_eq!(std::fs::read_to_string(files(&lab, "n2", "data").join("file")).unwrap(), "theirs\n");
    lab.drover("volume rm data --node n2").well();
    lab.migrate("box", "n2");
}

#[test]
fn the_source_keeps_its_volume_when_a_move_is_undone() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -v data:/data --tmpfs /cache -d toolbox sh -c", APPENDING)).well();
    lab.inside("box", "echo kept >/cache/file");
    await_more_numbers(&lab);
    lab.on("n2", "mv /usr/sbin/criu /usr/sbin/criu.away && printf '#!/bin/sh\\nexit 1\\n' >/usr/sbin/criu").well();
    lab.drover("migrate box --to n2").refusal();
    await_more_numbers(&lab);
    assert_eq!(lab.inside("box", "cat /cache/file"), "kept\n");
    until("a target without the volume", || (!files(&lab, "n2", "data").exists()).then_some(()));
    lab.on("n2", "mv /usr/sbin/criu.away /usr/sbin/criu").well();
    // Nor does what an interrupted arrival left stand in its way.
    lab.restart_agent("n1");
    lab.restart_agent("n2");
    lab.migrate("box", "n2");
    await_more_numbers(&lab);
}

#[test]
fn what_cannot_be_mounted_is_refused_with_a_hint() {
    let lab = Lab::with_toolbox();
    let refusal = |options: &str| {
        lab.drover(format!("run --node n1 --name box {options} -d toolbox true")).hinted_refusal_with(125)
    };
    assert!(refusal("-v /srv:/srv").contains("cannot travel"));
    assert!(refusal("-v data:/data -v data:/other").contains("mounted twice"));
    lab.drover("run --node n1 --name user -v data:/data -d toolbox sleep 1000").well();
    assert!(refusal("-v data:/data").contains("belongs to another container"));
    let absent = lab.drover("run --node n1 --name box -v fresh:/data -d toolbox /no/such/program");
    assert_eq!(absent.status, 127, "{absent:?}");
    let volumes = lab.json("volume ls");
    assert_eq!(volumes.as_array().unwrap().len(), 1, "a container that did not start leaves no volume: {volumes}");
    assert!(!Path::new(&files(&lab, "n1", "fresh")).exists());
}

/// What a report says of the bytes of files.
#[track_caller]
fn bytes_of_files(report: &serde_json::Value) -> u64 {
    report["bytes_disk"].as_u64().unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn a_container_that_comes_back_finds_its_files() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -v data:/data -d toolbox sh -c", APPENDING)).well();
    lab.inside("box", "head -c 20000000 /dev/urandom >/data/big; head -c 5000000 /dev/urandom >/root/upper");
    let listing = "sha256sum /data/big /root/upper";
    let before = lab.inside("box", listing);
    let there = lab.migrate("box", "n2");
    assert!(bytes_of_files(&there) > 25_000_000, "{there}");
    let copies = lab.json("copies ls");
    assert_eq!((&copies[0]["name"], &copies[0]["node"]), (&"box".into(), &"n1".into()), "{copies}");
    assert!(copies[0]["bytes"].as_u64() > Some(25_000_000), "{copies}");
    lab.inside("box", "echo changed >>/root/upper; rm /data/big; head -c 50000 /dev/urandom >/data/new");
    let changed = lab.inside("box", "sha256sum /data/new /root/upper");
    let back = lab.migrate("box", "n1");
    assert!((50_000..2_000_000).contains(&bytes_of_files(&back)), "{back}");
    assert_ne!(lab.inside("box", "sha256sum /root/upper; ls /data"), before);
    assert_eq!(lab.inside("box", "sha256sum /data/new /root/upper"), changed);
    numbers(&lab);
    // Without the copy everything crosses again.
    lab.drover("copies rm box").well();
    assert_eq!(lab.json("copies ls"), serde_json::json!([]));
    let error = lab.drover("copies rm box").hinted_refusal();
    assert!(error.contains("no node has a copy of files of container box"), "{error}");
    let again = lab.migrate("box", "n2");
    assert!(bytes_of_files(&again) > 5_000_000, "{again}");
    numbers(&lab);
    assert_eq!(lab.json("copies prune").as_array().map(Vec::len), Some(1));
}

#[test]
fn files_that_were_sent_ahead_do_not_cross_again() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -v data:/data --tmpfs /memory:size=64m -d toolbox sh -c", APPENDING)).well();
    lab.inside("box", "head -c 20000000 /dev/urandom >/data/big; head -c 5000000 /dev/urandom >/memory/not-kept");
    let sums = lab.inside("box", "sha256sum /data/big /memory/not-kept");
    let sent = lab.json("sync box --to n2");
    assert_eq!(sent["outcome"], "synced", "{sent}");
    assert!((20_000_000..24_000_000).contains(&bytes_of_files(&sent)), "{sent}");
    assert_eq!(lab.json("copies ls").as_array().map(Vec::len), Some(1), "it is there when the command ends");
    assert_eq!(lab.json("inspect box")["node"], "n1", "it stays where it is");
    await_more_numbers(&lab);
    let again = lab.json("sync box --to n2");
    assert!(bytes_of_files(&again) < 1_000_000, "{again}");
    let moved = lab.migrate("box", "n2");
    assert!((5_000_000..6_000_000).contains(&bytes_of_files(&moved)), "{moved}");
    assert_eq!(lab.inside("box", "sha256sum /data/big /memory/not-kept"), sums);
    await_more_numbers(&lab);
    assert_eq!(lab.json("copies ls")[0]["node"], "n1", "the copy on n2 is the container's again");
}

#[test]
fn what_crossed_of_a_move_that_was_given_up_does_not_cross_again() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -v data:/data -d toolbox sh -c", APPENDING)).well();
    lab.inside("box", "head -c 30000000 /dev/urandom >/data/big");
    let begun = lab.json("migrate box --to n2 --detach --bandwidth 50mbit");
    let id = begun["id"].as_str().unwrap().to_owned();
    let state = || lab.json(format!("migrations {id}"));
    until("half of it to cross", || (state()["bytes_sent"].as_u64() > Some(15_000_000)).then_some(()));
    lab.drover(format!("migrate --cancel {id}")).well();
    until("the copy", || (lab.json("copies ls").as_array().map(Vec::len) == Some(1)).then_some(()));
    let moved = lab.migrate("box", "n2");
    assert!((1..25_000_000).contains(&bytes_of_files(&moved)), "{moved}");
    await_more_numbers(&lab);
}

#[test]
fn what_a_container_has_copied_out_of_its_image_does_not_cross() {
    let lab = Lab::with_toolbox();
    lab.drover(("run --node n1 --name box -d toolbox sh -c", "exec sleep 1000")).well();
    // Not through links: there are hundreds to one program.
    lab.inside(
        "box",
        "mkdir /root/copy; cp $(find /usr/bin -type f) /root/copy; cat $(find /usr/bin /usr/lib -type f) >/root/all",
    );
    let size: u64 = lab.inside("box", "cat /root/all | wc -c").trim().parse().unwrap();
    let listing = lab.inside("box", "sha256sum /root/all /root/copy/*");
    let moved = lab.migrate("box", "n2");
    assert!(bytes_of_files(&moved) < size / 2, "{size} bytes copied twice: {moved}");
    assert_eq!(lab.inside("box", "sha256sum /root/all /root/copy/*"), listing);
}
