//! Tests on fixture trees of regular files, one for each layout.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Cgroup, Hierarchies, Layout, Limits, Usage};

/// A directory that is removed with the test.
struct Tree(PathBuf);

impl Tree {
    fn new(mountinfo: &str, memberships: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("drover-cgroup-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let tree = Self(std::env::temp_dir().join(name));
        tree.put("proc/self/mountinfo", mountinfo);
        tree.put("proc/self/cgroup", memberships);
        tree
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.join(path)).unwrap()
    }

    fn group(&self) -> Cgroup {
        Cgroup::at(&Hierarchies::detect(&self.0, "/").unwrap(), "drover/c1").unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn v1() -> Tree {
    let line = |name: &str| format!("1 1 0:1 / /cg/{name} rw - cgroup cgroup rw,{name}\n");
    let names = ["cpu", "cpuacct", "cpuset", "memory", "pids", "freezer"];
    let memberships: String = names.iter().map(|name| format!("1:{name}:/\n")).collect();
    let tree = Tree::new(&names.map(line).concat(), &memberships);
    for directory in ["cg/cpuset", "cg/cpuset/drover", "cg/cpuset/drover/c1"] {
        let inherited = if directory == "cg/cpuset" { "0-1\n" } else { "\n" };
        tree.put(&format!("{directory}/cpuset.cpus"), inherited);
        tree.put(&format!("{directory}/cpuset.mems"), &inherited.replace("0-1", "0"));
    }
    for name in ["cpu", "cpuacct", "memory", "pids", "freezer"] {
        tree.put(&format!("cg/{name}/drover/c1/cgroup.procs"), "");
    }
    tree.put("cg/cpuset/drover/c1/cgroup.procs", "");
    tree.put("cg/memory/drover/c1/memory.limit_in_bytes", "9223372036854771712\n");
    tree.put("cg/memory/drover/c1/memory.usage_in_bytes", "4096\n");
    tree.put("cg/cpu/drover/c1/cpu.cfs_period_us", "100000\n");
    tree.put("cg/cpu/drover/c1/cpu.cfs_quota_us", "-1\n");
    tree.put("cg/cpuacct/drover/c1/cpuacct.usage", "12345\n");
    tree.put("cg/pids/drover/c1/pids.max", "max\n");
    tree.put("cg/pids/drover/c1/pids.current", "3\n");
    tree.put("cg/freezer/drover/c1/freezer.state", "THAWED\n");
    tree
}

fn v2() -> Tree {
    let tree = Tree::new("1 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n", "0::/agent\n");
    for directory in ["cg", "cg/drover", "cg/drover/c1"] {
        tree.put(&format!("{directory}/cgroup.controllers"), "cpu memory\n");
        tree.put(&format!("{directory}/cgroup.subtree_control"), "\n");
    }
    tree.put("cg/drover/c1/cgroup.procs", "");
    tree.put("cg/drover/c1/cgroup.events", "populated 1\nfrozen 0\n");
    tree.put("cg/drover/c1/cgroup.freeze", "0\n");
    tree.put("cg/drover/c1/memory.max", "max\n");
    tree.put("cg/drover/c1/memory.current", "8192\n");
    tree.put("cg/drover/c1/cpu.max", "max 100000\n");
    tree.put("cg/drover/c1/cpu.stat", "usage_usec 7\nuser_usec 5\n");
    tree
}

#[test]
fn version_1_takes_limits_and_gives_usage() {
    let tree = v1();
    let group = tree.group();
    group.create().unwrap();
    assert_eq!(tree.text("cg/cpuset/drover/c1/cpuset.cpus"), "0-1");
    assert_eq!(tree.text("cg/cpuset/drover/c1/cpuset.mems"), "0");
    assert_eq!(group.stats().unwrap(), Usage { cpu_ns: 12345, memory: 4096, memory_limit: None, pids: 3 });
    group.apply(&Limits { memory: Some(1 << 20), cpu_millis: Some(1500), pids: Some(9) }).unwrap();
    assert_eq!(tree.text("cg/memory/drover/c1/memory.limit_in_bytes"), "1048576");
    assert_eq!(tree.text("cg/cpu/drover/c1/cpu.cfs_quota_us"), "150000");
    assert_eq!(tree.text("cg/pids/drover/c1/pids.max"), "9");
    assert_eq!(group.memory_limit().unwrap(), Some(1 << 20));
    group.apply(&Limits::default()).unwrap();
    assert_eq!(tree.text("cg/memory/drover/c1/memory.limit_in_bytes"), "-1");
    assert_eq!(tree.text("cg/cpu/drover/c1/cpu.cfs_quota_us"), "-1");
    assert_eq!(tree.text("cg/pids/drover/c1/pids.max"), "max");
}

#[test]
fn version_1_freezes_by_its_state_file() {
    let tree = v1();
    let group = tree.group();
    assert!(!group.is_frozen().unwrap());
    group.freeze(Duration::from_millis(10)).unwrap();
    assert!(group.is_frozen().unwrap());
    assert_eq!(group.freezer_path().unwrap(), tree.0.join("cg/freezer/drover/c1"));
    group.thaw().unwrap();
    assert_eq!(tree.text("cg/freezer/drover/c1/freezer.state"), "THAWED");
}

#[test]
fn version_2_takes_limits_and_gives_usage() {
    let tree = v2();
    let group = tree.group();
    group.create().unwrap();
    // Written one by one; the last one stands in a regular file.
    assert_eq!(tree.text("cg/cgroup.subtree_control"), "+memory");
    assert_eq!(tree.text("cg/drover/cgroup.subtree_control"), "+memory");
    assert_eq!(tree.text("cg/drover/c1/cgroup.subtree_control"), "\n", "controllers belong to groups above");
    assert_eq!(group.stats().unwrap(), Usage { cpu_ns: 7000, memory: 8192, memory_limit: None, pids: 0 });
    group.apply(&Limits { memory: Some(1 << 20), cpu_millis: Some(250), pids: None }).unwrap();
    assert_eq!(tree.text("cg/drover/c1/memory.max"), "1048576");
    assert_eq!(tree.text("cg/drover/c1/cpu.max"), "25000 100000");
}

#[test]
fn a_limit_without_its_controller_is_refused() {
    let tree = v2();
    let group = tree.group();
    group.apply(&Limits { pids: Some(1), ..Limits::default() }).unwrap_err();
    group.apply(&Limits::default()).unwrap();
}

#[test]
fn a_freeze_that_does_not_take_effect_times_out_and_stands() {
    let tree = v2();
    let group = tree.group();
    // A regular file gives POLLPRI at no time, and "frozen 0" for ever.
    let error = group.freeze(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(tree.text("cg/drover/c1/cgroup.freeze"), "1");
    tree.put("cg/drover/c1/cgroup.events", "populated 1\nfrozen 1\n");
    group.freeze(Duration::ZERO).unwrap();
    assert!(group.is_frozen().unwrap() && group.is_populated().unwrap());
}

#[test]
fn hybrid_freezes_by_version_2_and_limits_by_version_1() {
    let tree = v1();
    let mountinfo = tree.text("proc/self/mountinfo") + "1 1 0:1 / /cg/unified rw - cgroup2 cgroup2 rw\n";
    tree.put("proc/self/mountinfo", &mountinfo);
    tree.put("cg/unified/drover/c1/cgroup.freeze", "0\n");
    tree.put("cg/unified/drover/c1/cgroup.events", "populated 1\nfrozen 1\n");
    tree.put("cg/unified/drover/c1/cgroup.procs", "12\n0\n13\n");
    let hierarchies = Hierarchies::detect(&tree.0, "/").unwrap();
    assert_eq!(hierarchies.layout(), Layout::Hybrid);
    let group = tree.group();
    group.freeze(Duration::from_millis(10)).unwrap();
    assert_eq!(tree.text("cg/unified/drover/c1/cgroup.freeze"), "1");
    assert_eq!(tree.text("cg/freezer/drover/c1/freezer.state"), "THAWED\n");
    assert_eq!(group.freezer_path().unwrap(), tree.0.join("cg/unified/drover/c1"));
    assert_eq!(group.pids().unwrap(), [12, 13], "0 is a process that cannot be seen from here");
    assert_eq!(group.stats().unwrap().pids, 3);
}

#[test]
fn a_path_that_leaves_the_base_is_refused() {
    let tree = v2();
    let hierarchies = Hierarchies::detect(&tree.0, "/").unwrap();
    for bad in ["", "/drover", "drover/../x", "..", "./x/.."] {
        assert!(Cgroup::at(&hierarchies, Path::new(bad)).is_err(), "{bad}");
    }
}
