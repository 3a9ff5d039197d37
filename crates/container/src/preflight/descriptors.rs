//! What processes have open that cannot be dumped.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use drover_model::{Bytes, Finding};

use super::{Looked, sockets};

/// Files without a name (`anon_inode:…`) that CRIU knows.
const KNOWN: [&str; 7] = ["[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "inotify", "[fanotify]", "[pidfd]"];
/// Magic number of the file system of POSIX message queues (`statfs(2)`).
const MESSAGE_QUEUES: u64 = 0x1980_0202;
/// What helps against them.
pub(super) const QUEUES_HINT: &str = "CRIU cannot dump message queues: have it close and remove them (`mq_unlink`)";
/// For hints.
const MIB: u64 = 1 << 20;
/// Character devices that CRIU dumps: memory (null, zero, random, …), terminals.
const MEMORY: u32 = 1;
const TERMINALS: [u32; 2] = [4, 5];
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u32> = 128..=143;
/// `/dev/net/tun`.
const TUN: (u32, u32) = (10, 200);

/// `said` are kinds and reasons that were found already: what several processes have open, or one of them many times over,
/// is said once.
pub(super) fn examine(
    one: &Looked,
    all: &BTreeSet<u32>,
    deleted_files: Bytes,
    said: &mut BTreeSet<(String, String)>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", one.pid)).into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let found = look(one, number, &link, &entry.path(), all, deleted_files);
        findings.extend(found.filter(|finding| said.insert((finding.kind.clone(), finding.reason.clone()))));
    }
    findings
}

fn look(
    one: &Looked,
    number: u32,
    link: &Path,
    path: &Path,
    all: &BTreeSet<u32>,
    deleted_files: Bytes,
) -> Option<Finding> {
    let place = || Some(format!("descriptor {number}"));
    let text = link.to_string_lossy();
    if let Some(kind) = text.strip_prefix("anon_inode:") {
        return anonymous(kind).map(|(kind, reason, hint)| one.blocks(kind, place(), reason, hint));
    }
    if text.starts_with("socket:[") {
        return sockets::look(one, number, all);
    }
    if text.starts_with("pipe:[") && is_packet_pipe(one.pid, number) {
        let reason = "it has a pipe of packets open (O_DIRECT), which CRIU cannot dump".to_owned();
        return Some(one.blocks("packet_pipe", place(), reason, "have it open the pipe without O_DIRECT"));
    }
    if !link.is_absolute() {
        // Pipes and namespaces.
        return None;
    }
    let metadata = fs::metadata(path).ok()?;
    if metadata.file_type().is_char_device() {
        return character_device(metadata.rdev()).then(|| device(one, number, link));
    }
    if metadata.file_type().is_block_device() {
        return Some(device(one, number, link));
    }
    let queue = rustix::fs::statfs(path).is_ok_and(|system| system.f_type as u64 == MESSAGE_QUEUES);
    if queue {
        let reason = format!("it has the POSIX message queue {} open", link.display());
        return Some(one.blocks("message_queue", place(), reason, QUEUES_HINT));
    }
    deleted(one, &text, &metadata, deleted_files).map(|(kind, reason, hint)| one.blocks(kind, place(), reason, &hint))
}

/// Whether a pipe keeps what is written apart (`pipe2(2)`, `O_DIRECT`).
fn is_packet_pipe(pid: u32, number: u32) -> bool {
    let about = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let flags = about.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & rustix::fs::OFlags::DIRECT.bits() != 0)
}

/// What is said of a file that was deleted while it is open, if CRIU cannot dump it.
fn deleted(one: &Looked, link: &str, metadata: &fs::Metadata, most: Bytes) -> Option<(&'static str, String, String)> {
    let path = link.strip_suffix(" (deleted)")?;
    if !metadata.is_file() || is_memory(link) {
        return None;
    }
    let size = Bytes(metadata.len());
    if metadata.nlink() == 0 && size > most {
        let reason = format!("it has a deleted file of {size} open, and {most} may travel: {path}");
        let enough = size.0.saturating_add(1).div_ceil(MIB);
        return Some((
            "deleted_file",
            reason,
            format!("move it with --deleted-files {enough}m, or have it close the file"),
        ));
    }
    // A file may have been moved over the name, and then it is another one.
    let there = fs::symlink_metadata(format!("/proc/{}/root{path}", one.pid)).ok();
    let same = there.is_some_and(|there| (there.dev(), there.ino()) == (metadata.dev(), metadata.ino()));
    (metadata.nlink() > 0 && !same).then(|| {
        let reason = format!("it has {path} open, which was deleted under this name and has another one");
        ("linked_file", reason, "link the file to this name again (`ln`), or have it close the file".to_owned())
    })
}

/// What is said of a file without a name, if CRIU cannot dump it.
fn anonymous(kind: &str) -> Option<(&'static str, String, &'static str)> {
    if KNOWN.contains(&kind) || kind.starts_with("inotify") || kind == "bpf-map" {
        return None;
    }
    Some(match kind.trim_matches(['[', ']']) {
        "io_uring" => (
            "io_uring",
            "it uses io_uring, which CRIU cannot dump".to_owned(),
            "switch it off in the program: UV_USE_IO_URING=0 for Node.js, io_method=worker for PostgreSQL 18, aio threads for \
             nginx and MariaDB (innodb_use_native_aio=OFF)",
        ),
        "userfaultfd" => (
            "userfaultfd",
            "it follows its own page faults (userfaultfd), which CRIU cannot dump".to_owned(),
            "a garbage collector or a virtual machine does so: choose another one, or move it by stopping it",
        ),
        other => (
            "anonymous_file",
            format!("it has something open that CRIU does not know: {other}"),
            "have the program close it, or move it by stopping it",
        ),
    })
}

/// Whether a character device is none of those that can be dumped.
fn character_device(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    !(major == MEMORY || TERMINALS.contains(&major) || PSEUDO_TERMINALS.contains(&major) || (major, minor) == TUN)
}

fn device(one: &Looked, number: u32, link: &Path) -> Finding {
    let reason = format!("it has the device {} open, which stays with this machine", link.display());
    one.blocks(
        "device",
        Some(format!("descriptor {number}")),
        reason,
        "have it close the device, or move it by stopping it",
    )
}

/// Memory that only looks like a deleted file: memfds and shared mappings.
fn is_memory(link: &str) -> bool {
    ["/memfd:", "/dev/zero", "/SYSV", "/[aio]"].iter().any(|start| link.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_a_name_are_known_or_named() {
        for known in KNOWN {
            assert_eq!(anonymous(known), None, "{known}");
        }
        assert_eq!(anonymous("[io_uring]").unwrap().0, "io_uring");
        assert_eq!(anonymous("[userfaultfd]").unwrap().0, "userfaultfd");
        let (kind, reason, _) = anonymous("kvm-vm").unwrap();
        assert!(kind == "anonymous_file" && reason.contains("kvm-vm"));
    }

    #[test]
    fn null_and_terminals_may_go_and_disks_may_not() {
        let number = |path: &str| fs::metadata(path).unwrap().rdev();
        for path in ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/ptmx"] {
            assert!(!character_device(number(path)), "{path}");
        }
        assert!(character_device(rustix::fs::makedev(10, 229)), "fuse");
        assert!(!character_device(rustix::fs::makedev(10, 200)), "tun");
    }
}
