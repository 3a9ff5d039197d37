//! Processes of a lab's nodes, as the machine sees them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// A node of a lab, found by its control group.
#[derive(Debug, Clone)]
pub struct NodeProcesses {
    /// What is in the path of every control group of the node.
    group: String,
    /// Its first process.
    first: u32,
}

impl NodeProcesses {
    /// Of this node of this lab.
    pub fn of(lab: &str, node: &str, first: u32) -> Self {
        Self { group: format!("/drover-lab-{lab}/{node}/"), first }
    }

    /// All but the first.
    pub fn all(&self) -> Vec<u32> {
        pids().filter(|pid| self.has(*pid) && !is_dead(*pid)).collect()
    }

    fn has(&self, pid: u32) -> bool {
        pid != self.first && read(pid, "cgroup").contains(&self.group)
    }

    /// Its agent.
    pub fn agent(&self) -> Option<u32> {
        self.all().into_iter().find(|pid| {
            let line = read(*pid, "cmdline");
            let mut words = line.split('\0').skip(1);
            words.next() == Some("agent") && parent(*pid) == Some(self.first)
        })
    }

    /// Those whose program is CRIU.
    pub fn criu(&self) -> Vec<u32> {
        // The name first: there is no time to lose.
        let named = pids().filter(|pid| is_criu(*pid));
        named.filter(|pid| self.has(*pid) && !is_dead(*pid)).collect()
    }

    /// Those of a container.
    pub fn of_container(&self, id: &str) -> Vec<u32> {
        let group = format!("{}drover/{id}", self.group);
        self.all().into_iter().filter(|pid| read(*pid, "cgroup").contains(&group)).collect()
    }

    /// A file of the node as it is seen from outside.
    pub fn file(&self, path: &str) -> PathBuf {
        crate::lab::inside(self.first, path)
    }

    /// The directory of its group in a hierarchy of the first version.
    pub fn group(&self, hierarchy: &str) -> Option<PathBuf> {
        let groups = read(self.first, "cgroup");
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(hierarchy))?;
        let path = line.splitn(3, ':').nth(2)?;
        let end = path.find(&self.group).map_or(path.len(), |at| at + self.group.len() - 1);
        Some(Path::new("/sys/fs/cgroup").join(hierarchy).join(path[..end].trim_start_matches('/')))
    }
}

/// Whether a process is one of the witness's programs.
pub fn is_witness(pid: u32) -> bool {
    read(pid, "comm").trim_end() == "drover-check"
}

/// Whether a process is CRIU, or is being made by it and is no program of a container yet.
pub fn is_criu(pid: u32) -> bool {
    read(pid, "comm").trim_end() == "criu"
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Sends a signal; a process that is gone needs none.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// How often a process has given way by itself so far.
pub fn switches(pid: u32) -> u64 {
    let status = read(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn is_dead(pid: u32) -> bool {
    matches!(fields(pid).first().map(String::as_str), None | Some("Z" | "X"))
}

fn parent(pid: u32) -> Option<u32> {
    fields(pid).get(1)?.parse().ok()
}

/// What stands in `stat` after the name, which may hold anything.
fn fields(pid: u32) -> Vec<String> {
    let stat = read(pid, "stat");
    stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').map(str::to_owned).collect()).unwrap_or_default()
}

/// A file of a process; empty when it is gone.
fn read(pid: u32, file: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
