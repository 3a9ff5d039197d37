//! Tests on the running kernel, in groups of their own. They need root and pass vacuously without it.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::{Cgroup, Hierarchies, Limits};

const PATIENCE: Duration = Duration::from_secs(5);

struct Group(Cgroup);

impl Group {
    fn new(name: &str, hierarchies: impl Fn(&mut Hierarchies)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let mut found = Hierarchies::detect(Path::new("/"), "/").unwrap();
        hierarchies(&mut found);
        let group = Cgroup::at(&found, format!("drover-test-{}-{name}", std::process::id())).unwrap();
        group.create().unwrap();
        Some(Self(group))
    }

    fn spin(&self) -> Child {
        let entrance = self.0.entrance().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        // SAFETY: `enter` only writes to open descriptors, which is async-signal-safe.
        unsafe { command.pre_exec(move || entrance.enter()) };
        command.spawn().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait_empty(PATIENCE);
        let _ = self.0.remove();
    }
}

/// Processor time that a process has used, in clock ticks (proc_pid_stat(5), fields 14 and 15).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Waits until the process has used processor time.
fn wait_running(pid: u32) {
    let (start, end) = (ticks(pid), Instant::now() + PATIENCE);
    while ticks(pid) < start + 2 {
        assert!(Instant::now() < end, "the process does not run");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn freezes_and_kills(group: &Group) {
    let cgroup = &group.0;
    let mut child = group.spin();
    wait_running(child.id());
    assert_eq!(cgroup.pids().unwrap(), [child.id()]);
    assert!(cgroup.is_populated().unwrap());

    let start = Instant::now();
    cgroup.freeze(PATIENCE).unwrap();
    println!("frozen after {:?}", start.elapsed());
    assert!(cgroup.is_frozen().unwrap());
    let before = ticks(child.id());
    // The only way to see that nothing happens is to look on for a while.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks(child.id()), before, "a frozen process does not run");
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    wait_running(child.id());

    cgroup.freeze(PATIENCE).unwrap();
    cgroup.kill().unwrap();
    cgroup.wait_empty(PATIENCE).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    cgroup.remove().unwrap();
    assert!(!cgroup.exists());
    cgroup.remove().unwrap();
}

#[test]
fn the_mounted_layout_freezes_kills_and_removes() {
    if let Some(group) = Group::new("all", |_| {}) {
        freezes_and_kills(&group);
    }
}

#[test]
fn version_1_alone_freezes_kills_and_removes() {
    if let Some(group) = Group::new("v1", |found| found.unified = None)
        && group.0.legacy("freezer").is_some()
    {
        freezes_and_kills(&group);
    }
}

#[test]
fn limits_reach_the_kernel_and_usage_comes_back() {
    let Some(group) = Group::new("limits", |_| {}) else { return };
    group.0.apply(&Limits { memory: Some(64 << 20), cpu_millis: Some(500), pids: Some(7) }).unwrap();
    let mut child = group.spin();
    wait_running(child.id());
    let usage = group.0.stats().unwrap();
    assert!(usage.cpu_ns > 0 && usage.memory > 0, "{usage:?}");
    assert_eq!((usage.memory_limit, usage.pids), (Some(64 << 20), 1));
    group.0.apply(&Limits::default()).unwrap();
    assert_eq!(group.0.stats().unwrap().memory_limit, None);
    group.0.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_process_and_groups_below_are_counted_and_removed() {
    let Some(group) = Group::new("below", |_| {}) else { return };
    for directory in group.0.directories() {
        std::fs::create_dir(directory.join("inner")).unwrap();
    }
    let mut child = group.spin();
    group.0.join(child.id()).unwrap();
    if let Some(unified) = group.0.unified() {
        std::fs::write(unified.join("inner/cgroup.procs"), child.id().to_string()).unwrap();
        assert_eq!(group.0.pids().unwrap(), [child.id()]);
    }
    group.0.kill().unwrap();
    child.wait().unwrap();
    group.0.wait_empty(PATIENCE).unwrap();
    group.0.remove().unwrap();
    assert!(!group.0.exists());
}
