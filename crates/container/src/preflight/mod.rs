//! What of a container CRIU cannot dump, found while it runs: process by process, descriptor by descriptor.
//!
//! Source of what it can: CRIU's `criu/files.c`, `files-ext.c`, `sockets.c`, `namespaces.c`, and its error messages.

mod descriptors;
mod processes;
mod sockets;

use std::collections::BTreeSet;
use std::fs;

use drover_model::{Bytes, Explained, Finding, Process, Severity};

/// What is known of a container whose processes are looked at.
#[derive(Debug, Clone)]
pub struct Subject {
    /// All of its processes, as this node counts them.
    pub pids: Vec<u32>,
    /// The first one.
    pub first: u32,
    /// The largest file that may travel although it is deleted.
    pub deleted_files: Bytes,
}

/// Looks at everything. A process that ends meanwhile is no obstacle.
#[must_use]
pub fn examine(subject: &Subject) -> Vec<Finding> {
    let all: BTreeSet<u32> = subject.pids.iter().copied().collect();
    let mut said = BTreeSet::new();
    let mut findings: Vec<Finding> = queues(subject.first).into_iter().collect();
    let looked: Vec<Looked> = subject.pids.iter().filter_map(|pid| Looked::at(*pid)).collect();
    let guests = guests(&looked, subject.first, &all);
    for one in &looked {
        if guests.contains(&one.pid) {
            // Whatever else there is to be said of it goes with it.
            findings.extend(processes::at_a_glance(one, subject.first, &all));
        } else {
            findings.extend(processes::examine(one, subject.first, &all));
            findings.extend(descriptors::examine(one, &all, subject.deleted_files, &mut said));
        }
    }
    findings
}

/// Those that were started from outside, and what these have started.
fn guests(looked: &[Looked], first: u32, all: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut guests = BTreeSet::new();
    loop {
        let known = guests.len();
        let parent = |one: &Looked| field(&one.status, "PPid:").and_then(|pid| pid.parse::<u32>().ok());
        let is_guest = |one: &&Looked| {
            one.pid != first && parent(one).is_some_and(|parent| !all.contains(&parent) || guests.contains(&parent))
        };
        let more: Vec<u32> = looked.iter().filter(is_guest).map(|one| one.pid).collect();
        guests.extend(more);
        if guests.len() == known {
            return guests;
        }
    }
}

/// POSIX message queues last until they are removed, whether somebody has them open or not.
fn queues(first: u32) -> Option<Finding> {
    const PLACE: &str = "/dev/mqueue";
    let entries = fs::read_dir(format!("/proc/{first}/root{PLACE}")).ok()?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let reason = match names.as_slice() {
        [] => return None,
        [one] => format!("there is a POSIX message queue, {one}"),
        [one, others @ ..] => format!("there are POSIX message queues: {one} and {} more", others.len()),
    };
    let why = Explained { reason, hint: Some(descriptors::QUEUES_HINT.to_owned()) };
    Some(Finding { place: Some(PLACE.to_owned()), ..Finding::general(Severity::Blocks, "message_queue", why) })
}

/// What is seen at a glance: processes that were started from outside, and traced ones; not their other threads, which may
/// be many.
#[must_use]
pub fn strangers(pids: &[u32], first: u32) -> Vec<Finding> {
    let all: BTreeSet<u32> = pids.iter().copied().collect();
    let looked = pids.iter().filter_map(|pid| Looked::at(*pid));
    looked.flat_map(|one| processes::at_a_glance(&one, first, &all)).collect()
}

/// A process that is looked at.
#[derive(Debug)]
struct Looked {
    pid: u32,
    status: String,
    process: Process,
}

impl Looked {
    fn at(pid: u32) -> Option<Self> {
        Self::read(pid, fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn read(pid: u32, status: String) -> Option<Self> {
        let process = Process { pid: innermost(&status)?, name: field(&status, "Name:")?.to_owned() };
        Some(Self { pid, status, process })
    }

    fn finding(&self, severity: Severity, kind: &str, place: Option<String>, reason: String, hint: &str) -> Finding {
        let process = Some(self.process.clone());
        Finding { severity, kind: kind.to_owned(), process, place, reason, hint: hint.to_owned() }
    }

    fn blocks(&self, kind: &str, place: Option<String>, reason: impl Into<String>, hint: &str) -> Finding {
        self.finding(Severity::Blocks, kind, place, reason.into(), hint)
    }
}

/// A field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The number by which a process is known where it lives.
fn innermost(status: &str) -> Option<u32> {
    field(status, "NSpid:")?.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use drover_sys::uffd::Userfaultfd;
    use rustix::net::{AddressFamily, Protocol, SocketType, socket};

    use super::*;

    /// What is found in a process among these, as kinds and places.
    fn found(pid: u32, pids: Vec<u32>, deleted_files: Bytes) -> Vec<(String, String)> {
        let findings = examine(&Subject { pids, first: pid, deleted_files });
        findings.into_iter().map(|finding| (finding.kind, finding.place.unwrap_or_default())).collect()
    }

    struct Started(Child);

    impl Started {
        /// A shell that does this, says so, and sleeps.
        fn shell(commands: &str) -> Self {
            let script = format!("{commands}; echo ready; exec sleep 1000");
            let mut child =
                Command::new("sh").args(["-c", &script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            let output = std::io::BufReader::new(child.stdout.take().unwrap());
            std::io::BufRead::read_line(&mut { output }, &mut line).unwrap();
            assert_eq!(line, "ready\n");
            let begun = Instant::now();
            let name = format!("/proc/{}/comm", child.id());
            while fs::read_to_string(&name).unwrap() != "sleep\n" {
                assert!(begun.elapsed() < Duration::from_secs(10), "it does not sleep");
                std::thread::yield_now();
            }
            Self(child)
        }
    }

    impl Drop for Started {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_userfaultfd_and_an_unknown_socket_are_found_by_their_descriptors() {
        let own = std::process::id();
        let faults = Userfaultfd::new().unwrap();
        let protocol = Some(Protocol::from_raw(std::num::NonZero::new(1).unwrap()));
        let echo = socket(AddressFamily::INET, SocketType::RAW, protocol).unwrap();
        let alg = socket(AddressFamily::from_raw(38), SocketType::SEQPACKET, None);
        let found = found(own, vec![own], Bytes(1 << 30));
        let place = |descriptor: i32| format!("descriptor {descriptor}");
        let number = std::fs::read_dir("/proc/self/fd").unwrap().flatten().find_map(|entry| {
            let link = std::fs::read_link(entry.path()).ok()?;
            (link.to_str()? == "anon_inode:[userfaultfd]").then(|| entry.file_name().into_string().unwrap())
        });
        assert!(found.contains(&("userfaultfd".to_owned(), format!("descriptor {}", number.unwrap()))), "{found:?}");
        // CRIU dumps raw sockets.
        assert!(!found.iter().any(|(_, at)| *at == place(echo.as_raw_fd())), "{found:?}");
        if let Ok(alg) = alg {
            assert!(found.contains(&("socket".to_owned(), place(alg.as_raw_fd()))), "{found:?}");
        }
        drop(faults);
    }

    #[test]
    fn deleted_files_are_found_when_they_are_large_or_have_another_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let shell = Started::shell(&format!(
            "cd {at}; truncate -s 3000000 a; exec 7<a; rm a; echo x >b; exec 8<b; rm b; echo x >c; ln c d; exec 9<c; rm c; \
             echo x >e; exec 6<e; mv e f; mkdir g; cd g; rmdir ../g"
        ));
        let pid = shell.0.id();
        let expected = |kinds: &[(&str, &str)]| -> BTreeSet<(String, String)> {
            kinds.iter().map(|(kind, place)| ((*kind).to_owned(), (*place).to_owned())).collect()
        };
        let found_with = |most| found(pid, vec![pid], Bytes(most)).into_iter().collect::<BTreeSet<_>>();
        let few = found_with(1 << 20);
        assert_eq!(few, expected(&[("deleted_file", "descriptor 7"), ("linked_file", "descriptor 9")]));
        assert_eq!(found_with(1 << 30), expected(&[("linked_file", "descriptor 9")]));
    }

    #[test]
    fn a_process_that_was_started_from_outside_is_found() {
        let shell = Started::shell("true");
        let (pid, own) = (shell.0.id(), std::process::id());
        assert!(found(own, vec![own, pid], Bytes(1 << 30)).iter().all(|(kind, _)| kind != "session"));
        let first = Started::shell("true");
        let findings =
            examine(&Subject { pids: vec![first.0.id(), pid], first: first.0.id(), deleted_files: Bytes(0) });
        let session = findings.iter().find(|finding| finding.kind == "session").unwrap();
        assert_eq!(session.process.as_ref().unwrap().name, "sleep");
        assert_eq!(findings.len(), 1, "{findings:?}");
    }
}
