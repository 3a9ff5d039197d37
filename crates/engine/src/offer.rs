//! Beginning a migration: what is looked at on the source, and what is offered to the target.

use std::path::Path;

use drover_container::criu;
use drover_disk::Token;
use drover_model::{Explained, MigrationId, NodeName, Settings};
use drover_protocol::Offer;

use crate::container::Container;
use crate::crossing;
use crate::error::failure;
use crate::journal::{Entry, Mark};
use crate::node::{Inner, now};

impl Inner {
    /// What is offered to the target, with the beginning in the journal, and the marks on shared volumes.
    pub(crate) fn offer(
        &self,
        container: &Container,
        to: &NodeName,
        (migration, settings): (MigrationId, Settings),
    ) -> Result<(Offer, Vec<Token>), Explained> {
        refuse_strangers(container)?;
        refuse_traced_threads(container)?;
        let (major, minor, _) = criu::version().map_err(|error| failure("cannot checkpoint on this node", &error))?;
        let usage = container.cgroup.stats().map_err(|error| failure("cannot measure the container", &error))?;
        let stored = container.stored();
        let mut files = container.volumes.files(&stored.spec);
        files.push(container.layout.upper());
        let tokens = container.volumes.mark(&stored.spec, &migration)?;
        let offer = Offer {
            migration,
            image: crossing::offer(&self.images, &stored.spec)?,
            spec: stored.spec,
            generation: stored.generation.saturating_add(1),
            restarts: stored.restarts,
            started_at: stored.started_at,
            settings,
            criu: format!("{major}.{minor}"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            memory: usage.memory,
            resident: resident(container),
            upper: files.iter().map(|tree| tree_size(tree)).sum(),
            shared: tokens.iter().map(|token| token.sighting.clone()).collect(),
        };
        let entry = Entry {
            migration: offer.migration.clone(),
            container: container.id.clone(),
            peer: to.clone(),
            mark: Mark::Began,
            decided: None,
            began_at: Some(now()),
        };
        self.journal().append(entry).map_err(|error| failure("cannot write the journal", &error))?;
        Ok((offer, tokens))
    }
}

/// What its processes hold of memory that is theirs alone, swapped out or not, in bytes. It changes all the time.
fn resident(container: &Container) -> u64 {
    let held = |pid: u32| held_in(&std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default());
    container.cgroup.pids().unwrap_or_default().into_iter().map(held).fold(0, u64::saturating_add)
}

/// From `/proc/PID/status` (`proc_pid_status(5)`).
fn held_in(status: &str) -> u64 {
    const KIB: u64 = 1024;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        line.and_then(|line| line.strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    field("RssAnon:").saturating_add(field("VmSwap:")).saturating_mul(KIB)
}

/// Refuses when a process of the container has its parent outside: it was executed there by an agent, which waits for it,
/// and cannot come along. Or when one is traced: CRIU would have to be its tracer.
pub(crate) fn refuse_strangers(container: &Container) -> Result<(), Explained> {
    let pids = container.cgroup.pids().map_err(|error| failure("cannot list the container's processes", &error))?;
    for pid in &pids {
        // A process that has just ended is no obstacle.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        if let Some(why) = objection(&status, &pids, Some(*pid) == container.pid()) {
            return Err(why);
        }
    }
    Ok(())
}

/// Refuses when a thread that is not the first of its process is traced. Of many threads that takes a while, and is left out
/// while the container is frozen.
pub(crate) fn refuse_traced_threads(container: &Container) -> Result<(), Explained> {
    for pid in container.cgroup.pids().unwrap_or_default() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            // Its parent was looked at with its process.
            if let Some(why) = objection(&status, &[], true) {
                return Err(why);
            }
        }
    }
    Ok(())
}

/// What a process's `/proc/PID/status` says against its move, among all processes of a container.
fn objection(status: &str, pids: &[u32], is_first: bool) -> Option<Explained> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let name = field("Name:").unwrap_or("?");
    if let Some(tracer) = field("TracerPid:").filter(|tracer| *tracer != "0") {
        let reason = format!("process {name} in it is traced by process {tracer}");
        return Some(Explained { reason, hint: Some("end the debugger or tracer first".into()) });
    }
    let parent: u32 = field("PPid:")?.parse().ok()?;
    if is_first || pids.contains(&parent) {
        return None;
    }
    let reason = format!("process {name} in it was started from outside");
    Some(Explained { reason, hint: Some("end running `drover exec` sessions first".into()) })
}

/// The bytes that the files of a tree take on the disk. What vanishes meanwhile does not count.
pub(crate) fn tree_size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    const BLOCK: u64 = 512;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let size = |entry: std::fs::DirEntry| {
        let Ok(metadata) = entry.metadata() else { return 0 };
        metadata.blocks() * BLOCK + if metadata.is_dir() { tree_size(&entry.path()) } else { 0 }
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_holds_is_what_is_its_own() {
        assert_eq!(held_in("Name:\tx\nRssAnon:\t    2048 kB\nRssFile:\t 9 kB\nVmSwap:\t       1 kB\n"), 2049 << 10);
        assert_eq!(held_in(""), 0);
    }

    /// CRIU waited for a tracer until the move was given up, with the container frozen.
    #[test]
    fn processes_that_are_traced_or_have_their_parent_outside_are_refused() {
        let status = |parent: u32, tracer: u32| format!("Name:\tbox\nPid:\t7\nPPid:\t{parent}\nTracerPid:\t{tracer}\n");
        let why = |status: String, is_first| objection(&status, &[6, 7], is_first).map(|why| why.reason);
        assert_eq!(why(status(6, 0), false), None);
        assert_eq!(why(status(1, 0), true), None);
        assert_eq!(why(status(1, 0), false).unwrap(), "process box in it was started from outside");
        assert_eq!(why(status(6, 9), false).unwrap(), "process box in it is traced by process 9");
    }
}
