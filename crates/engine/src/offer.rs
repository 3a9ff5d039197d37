//! Beginning a migration: what is looked at on the source, and what is offered to the target.

use std::path::Path;

use drover_container::{External, preflight};
use drover_disk::Token;
use drover_model::{Explained, Finding, MigrationId, Mode, NodeName, Settings, Severity, objection};
use drover_protocol::Offer;

use crate::container::Container;
use crate::crossing;
use crate::error::failure;
use crate::examination::{processor, usable_criu};
use crate::journal::{Entry, Mark};
use crate::node::{Inner, now};

/// What CRIU is wanted for here.
const CHECKPOINT: &str = "cannot checkpoint on this node";

impl Inner {
    /// What is offered to the target, with the beginning in the journal, and the marks on shared volumes.
    pub(crate) fn offer(
        &self,
        container: &Container,
        to: &NodeName,
        (migration, settings): (MigrationId, Settings),
    ) -> Result<(Offer, Vec<Token>), Explained> {
        let candidate = self.candidate(container, migration, settings)?;
        let tokens = container.volumes.mark(&candidate.spec, &candidate.migration)?;
        let offer = Offer { shared: tokens.iter().map(|token| token.sighting.clone()).collect(), ..candidate };
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

    /// What would be offered. Nothing is changed.
    pub(crate) fn candidate(
        &self,
        container: &Container,
        migration: MigrationId,
        settings: Settings,
    ) -> Result<Offer, Explained> {
        let (major, minor) = usable_criu(CHECKPOINT)?;
        let usage = container.cgroup.stats().map_err(|error| failure("cannot measure the container", &error))?;
        let stored = container.stored();
        let mut files = container.volumes.files(&stored.spec);
        files.push(container.layout.upper());
        Ok(Offer {
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
            processor: processor(),
            shared: Vec::new(),
        })
    }

    /// What on this node speaks against a move of a container.
    pub(crate) fn look(&self, container: &Container, settings: Settings) -> Vec<Finding> {
        let mut findings = Vec::new();
        let general = |kind: &str, why| Finding::general(Severity::Blocks, kind, why);
        findings.extend(usable_criu(CHECKPOINT).err().map(|why| general("criu", why)));
        if settings.sync {
            return findings;
        }
        let (Some(first), Ok(pids)) = (container.pid(), container.cgroup.pids()) else { return findings };
        if let Err(error) = External::of(first, &container.layout) {
            findings.push(general("mount", failure("a mount in it is in the way", &error)));
        }
        let deleted_files = settings.deleted_files();
        findings.extend(preflight::examine(&preflight::Subject { pids, first, deleted_files }));
        if self.backend.is_none() && matches!(settings.mode, Mode::PreCopy) {
            let reason =
                "this node's kernel cannot follow what a container writes: its memory crosses while it is frozen";
            let hint = Some("`drover node features` shows what is missing".to_owned());
            findings.push(Finding::general(Severity::Warns, "mode", Explained { reason: reason.to_owned(), hint }));
        }
        findings
    }
}

/// What its processes hold of memory that is theirs alone, swapped out or not, in bytes. It changes all the time.
pub(crate) fn resident(container: &Container) -> u64 {
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

/// Refuses what is quickly seen while nothing in the container moves: a program that was executed in it just before, by an
/// agent, which waits for it, so that it cannot come along; or a tracer, for CRIU would have to be that.
pub(crate) fn refuse_strangers(container: &Container) -> Result<(), Explained> {
    let pids = container.cgroup.pids().map_err(|error| failure("cannot list the container's processes", &error))?;
    objection(&preflight::strangers(&pids, container.pid().unwrap_or(0))).map_or(Ok(()), Err)
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
}
