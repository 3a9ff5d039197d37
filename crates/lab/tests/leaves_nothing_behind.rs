//! A real lab on this machine, ended in every way: whatever was there before is there afterwards, and nothing else.
//!
//! Needs root and the lab's base (`make lab-base`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The machine is compared as a whole, so one test at a time.
static MACHINE: Mutex<()> = Mutex::new(());

/// A lab of its own name, taken away whatever becomes of the test.
struct Lab {
    name: String,
    before: BTreeSet<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    fn new(name: &str) -> Self {
        let alone = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let name = format!("{name}-{}", std::process::id());
        let before = machine(&name);
        Self { name, before, _alone: alone }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let tests = std::env::current_exe().expect("a test has an executable");
        let program = tests.ancestors().nth(2).expect("it is in deps/").join("examples/lab");
        let mut command = Command::new(program);
        command.args(arguments).env("DROVER_LAB", &self.name).env_remove("DROVER_HOME");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the example is built with the tests")
    }

    /// Runs something that must succeed, and gives what it printed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn up(&self) -> String {
        self.ok(&["up", "2", "1gbit", "nc", "-lk", "7780"])
    }

    fn path(&self, below: &str) -> PathBuf {
        Path::new(&format!("/run/drover-lab-{}", self.name)).join(below)
    }

    fn first_process(&self, host: &str) -> Option<i32> {
        let status: serde_json::Value = serde_json::from_str(&self.ok(&["status"])).expect("status is JSON");
        let hosts = status["hosts"].as_array().expect("a lab has hosts");
        let host = hosts.iter().find(|one| one["name"] == host).expect("the host is in the lab");
        host["pid"].as_i64().map(|pid| pid.try_into().expect("a pid is small"))
    }

    fn assert_nothing_left(&self) {
        let mut left = BTreeSet::new();
        // Namespaces are taken apart by the kernel a moment after their last process.
        let gone = eventually(|| {
            left = machine(&self.name).difference(&self.before).cloned().collect();
            left.is_empty()
        });
        assert!(gone, "left behind: {left:#?}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Everything of the machine that this lab could leave behind, one line each.
fn machine(lab: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts can be read");
    found.extend(mounts.lines().map(|line| format!("mount {line}")));
    for (program, arguments) in [("ip", &["-o", "link"][..]), ("nft", &["list", "ruleset"])] {
        let output = Command::new(program).args(arguments).output().expect("it is installed with the base");
        found.extend(String::from_utf8_lossy(&output.stdout).lines().map(|line| format!("{program} {line}")));
    }
    for directory in ["/run", "/run/netns", "/var/lib/drover"] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("file {}", entry.path().display())));
    }
    cgroups(Path::new("/sys/fs/cgroup"), &mut found);
    // Processes come and go on any machine; a lab's own are known by their cgroups and their arguments.
    for process in fs::read_dir("/proc").expect("processes can be listed").flatten() {
        let told = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        let told = [told("cgroup"), told("cmdline")].concat();
        if String::from_utf8_lossy(&told).contains(&format!("drover-lab-{lab}")) {
            found.insert(format!("process {}", process.path().display()));
        }
    }
    // Another lab on this machine may come and go meanwhile.
    found.retain(|line| !line.contains("drover-lab-") && !line.contains("drover/lab-") || line.contains(lab));
    found
}

fn cgroups(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(format!("cgroup {}", entry.path().display()));
            cgroups(&entry.path(), found);
        }
    }
}

fn kill(pid: i32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(status.expect("kill is installed").success());
}

#[test]
fn a_lab_goes_up_once_and_down_once_and_leaves_nothing() {
    let lab = Lab::new("once");
    assert!(lab.up().starts_with("up after"));
    assert!(lab.up().starts_with("already up"));
    let other = lab.run(&["up", "3"]);
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("hint: remove it with: drover lab down"));

    assert_eq!(lab.ok(&["exec", "n1", "hostname"]).trim(), "n1");
    assert_eq!(lab.run(&["exec", "n2", "sh", "-c", "exit 7"]).status.code(), Some(7));
    for target in ["10.77.0.12", "10.77.0.100", "fd77::c", "fd77::64"] {
        lab.ok(&["exec", "n1", "ping", "-c1", "-W2", target]);
    }
    lab.ok(&["exec", "client", "nc", "-z", "10.77.0.11", "7780"]);
    lab.ok(&["exec", "n1", "criu", "check"]);

    assert!(lab.ok(&["down"]).contains("existed: true"));
    lab.assert_nothing_left();
    assert!(lab.ok(&["down"]).contains("existed: false"));
    assert_eq!(lab.ok(&["status"]).trim(), "down");
}

#[test]
fn an_agent_that_is_killed_comes_back_unless_it_is_held() {
    let lab = Lab::new("agent");
    lab.up();
    let agent = || lab.ok(&["exec", "n1", "cat", "/run/drover-lab/agent.pid"]);
    let first = agent();
    lab.ok(&["exec", "n1", "kill", "-9", first.trim()]);
    let reaches = || lab.run(&["exec", "client", "nc", "-z", "10.77.0.11", "7780"]).status.success();
    assert!(eventually(|| reaches() && agent() != first));
    lab.ok(&["agent", "n1", "stop"]);
    assert!(!reaches());
    lab.ok(&["agent", "n1", "start"]);
    assert!(eventually(reaches));
    lab.ok(&["down"]);
    lab.assert_nothing_left();
}

#[test]
fn a_lab_with_a_killed_host_and_frozen_containers_leaves_nothing() {
    let lab = Lab::new("frozen");
    lab.up();
    // Two stand-ins for containers in cgroups of their own, one frozen by each freezer that the machine has.
    let script = "
        for freezer in /sys/fs/cgroup/freezer/box /sys/fs/cgroup/unified/box /sys/fs/cgroup/box; do
            test -e ${freezer%/box}/cgroup.procs || continue
            mkdir $freezer
            setsid sleep 1000 </dev/null >/dev/null 2>&1 &
            until grep -q sleep /proc/$!/comm; do :; done
            echo $! >$freezer/cgroup.procs
            echo FROZEN 2>/dev/null >$freezer/freezer.state || echo 1 >$freezer/cgroup.freeze
            echo frozen
        done";
    assert!(lab.ok(&["exec", "n1", "sh", "-c", script]).contains("frozen"));
    let host = lab.first_process("n2").expect("n2 runs");
    kill(host);
    assert!(eventually(|| lab.first_process("n2").is_none()));
    let again = lab.run(&["up", "2", "1gbit", "nc", "-lk", "7780"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("its host n2 is dead"));
    kill(lab.first_process("n1").expect("n1 runs"));
    lab.ok(&["down"]);
    lab.assert_nothing_left();
}

#[test]
fn an_up_that_is_killed_at_any_point_leaves_nothing_after_down() {
    let lab = Lab::new("killed");
    for point in ["lab.json", "netns/switch", "netns/n2", "hosts/n1.json"] {
        let mut up = lab.command(&["up", "2"]).stdout(Stdio::null()).spawn().expect("the example is built");
        assert!(eventually(|| lab.path(point).exists()), "{point}");
        up.kill().expect("it runs");
        up.wait().expect("it is ours");
        lab.ok(&["down"]);
        lab.assert_nothing_left();
    }
    // And one whose hosts are on their way.
    let mut up = lab.command(&["up", "2"]).stdout(Stdio::null()).spawn().expect("the example is built");
    let host = format!("drover-lab-{}/n1", lab.name);
    let starts = |host: &str| machine(&lab.name).iter().any(|line| line.starts_with("cgroup") && line.ends_with(host));
    assert!(eventually(|| starts(&host)));
    up.kill().expect("it runs");
    up.wait().expect("it is ours");
    // The next `up` needs no `down` before it.
    assert!(lab.up().starts_with("up after") || lab.up().starts_with("already up"));
    lab.ok(&["down"]);
    lab.assert_nothing_left();
}

#[test]
fn a_host_that_cannot_start_is_reported_with_its_log_and_leaves_nothing() {
    let lab = Lab::new("broken");
    let output = lab.command(&["up", "1", "none", "/nonexistent"]).output().expect("the example is built");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("cannot find the agent /nonexistent"), "{error}");
    lab.assert_nothing_left();
}
