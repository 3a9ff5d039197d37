//! What a process itself, rather than what it has open, does to keep it from being dumped.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use drover_model::Finding;

use super::{Looked, field};

/// Namespaces that all processes of a container share.
const SHARED: [(&str, &str); 6] = [
    ("pid", "process ids"),
    ("user", "users"),
    ("net", "the network"),
    ("ipc", "IPC"),
    ("uts", "the host name"),
    ("time", "clocks"),
];

pub(super) fn examine(one: &Looked, first: u32, all: &BTreeSet<u32>) -> Vec<Finding> {
    let mut findings = at_a_glance(one, first, all);
    if findings.is_empty() {
        findings.extend(traced_thread(one));
    }
    findings.extend(nested(one, first));
    findings
}

pub(super) fn at_a_glance(one: &Looked, first: u32, all: &BTreeSet<u32>) -> Vec<Finding> {
    traced(one, &one.status).into_iter().chain(from_outside(one, first, all)).collect()
}

/// What the status of a process or thread says of its tracer.
fn traced(one: &Looked, status: &str) -> Option<Finding> {
    let tracer = field(status, "TracerPid:").filter(|pid| *pid != "0")?;
    let reason = format!("it is traced by process {tracer}, and only one may trace it");
    Some(one.blocks("ptrace", None, reason, "end the debugger or tracer (gdb, strace) first"))
}

fn traced_thread(one: &Looked) -> Option<Finding> {
    let mut threads = fs::read_dir(format!("/proc/{}/task", one.pid)).into_iter().flatten().flatten();
    threads.find_map(|thread| traced(one, &fs::read_to_string(thread.path().join("status")).ok()?))
}

/// A process whose parent is none of the container's came from `exec`; it has somebody to answer to outside.
fn from_outside(one: &Looked, first: u32, all: &BTreeSet<u32>) -> Option<Finding> {
    let parent: u32 = field(&one.status, "PPid:")?.parse().ok()?;
    if one.pid == first || all.contains(&parent) {
        return None;
    }
    let reason = "it was started from outside the container";
    Some(one.blocks("session", None, reason, "end running `drover exec` sessions first"))
}

fn namespace(pid: u32, name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()
}

fn nested(one: &Looked, first: u32) -> Option<Finding> {
    if one.pid == first {
        return None;
    }
    let other = |(name, _): &&(&str, &str)| {
        let (own, theirs) = (namespace(one.pid, name), namespace(first, name));
        own.is_some() && theirs.is_some() && own != theirs
    };
    let (name, what) = SHARED.iter().find(other)?;
    let reason = format!("it has a namespace of its own for {what}, inside the container's");
    let hint = "sandboxes inside of containers (bubblewrap, unshare, browsers, nested runtimes) cannot be dumped: switch the \
                program's own sandbox off";
    Some(one.blocks("namespace", Some(format!("namespace {name}")), reason, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRIU waited for a tracer until the move was given up, with the container frozen.
    #[test]
    fn processes_that_are_traced_or_have_their_parent_outside_are_found() {
        let all = BTreeSet::from([6, 7]);
        let kinds = |parent: u32, tracer: u32, first: u32| {
            let status = format!("Name:\tbox\nPid:\t7\nPPid:\t{parent}\nTracerPid:\t{tracer}\nNSpid:\t7\t3\n");
            let one = Looked::read(7, status).unwrap();
            let found = at_a_glance(&one, first, &all);
            found.into_iter().map(|finding| (finding.kind, finding.process.unwrap().pid)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(6, 0, 6), []);
        assert_eq!(kinds(1, 0, 7), []);
        assert_eq!(kinds(1, 0, 6), [("session".to_owned(), 3)]);
        assert_eq!(kinds(6, 9, 6), [("ptrace".to_owned(), 3)]);
    }
}
