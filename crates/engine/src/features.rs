//! What this machine can do for Drover, in words for people.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use drover_container::criu;
use drover_memory::Backend;
use drover_model::{Explained, Feature, NodeFeatures, NodeName};
use drover_sys::cgroup::{Hierarchies, Layout};
use drover_sys::probe;

/// The oldest CRIU that will do: older ones cannot dump connections on kernels since 6.16.
const CRIU: (u32, u32, u32) = (4, 2, 0);

/// Probes everything. Takes a few tens of milliseconds; starts a child, and CRIU, for a moment.
#[must_use]
pub(crate) fn features(node: NodeName, backend: Option<Backend>) -> NodeFeatures {
    let mut features = memory();
    features.extend([checkpoint(), runtime(), control_groups(), freezer()]);
    features.push(feature(
        "overlayfs",
        probe::file_system("overlay").map(|()| None),
        "the root of each container",
        "load it: `modprobe overlay`",
    ));
    NodeFeatures { node, tracking: backend.map(|backend| backend.name().to_owned()), features }
}

/// What this machine can do, asked by whoever is no node.
#[must_use]
pub fn features_here() -> NodeFeatures {
    let name = rustix::system::uname().nodename().to_string_lossy().parse();
    features(name.unwrap_or_else(|_| "localhost".parse().expect("a name")), Backend::probe())
}

fn memory() -> Vec<Feature> {
    let newer = "Linux 6.7 or newer has it; soft-dirty bits will do instead";
    let probed = |name, probed: io::Result<()>, purpose, hint| feature(name, probed.map(|()| None), purpose, hint);
    vec![
        probed(
            "userfaultfd",
            probe::userfaultfd(),
            "bringing pages to a container that runs already",
            "a kernel with CONFIG_USERFAULTFD, and an agent with all capabilities",
        ),
        probed(
            "userfaultfd events",
            probe::userfaultfd_events(),
            "post-copy: forks, and mappings that move or go meanwhile",
            "Linux 4.11 or newer, and an agent with CAP_SYS_PTRACE",
        ),
        probed("userfaultfd write protection", probe::write_protection(), "following what a container writes", newer),
        probed("pagemap scan", probe::page_scan(), "finding pages without looking at each", newer),
        probed(
            "soft-dirty bits",
            probe::soft_dirty(),
            "following what a container writes where write protection cannot",
            "not needed where write protection works; otherwise a kernel with CONFIG_MEM_SOFT_DIRTY (x86-64)",
        ),
        probed(
            "system calls by ptrace",
            probe::injection(),
            "making a userfaultfd inside a container",
            "x86-64 alone so far; nobody else may trace the container, and kernel.yama.ptrace_scope must be below 3",
        ),
    ]
}

fn checkpoint() -> Feature {
    let found = criu::version().map_err(|error| Explained::from_chain(&error).reason);
    let found = found.and_then(|version @ (major, minor, sublevel)| {
        let text = format!("{major}.{minor}.{sublevel}");
        if version >= CRIU { Ok(Some(text)) } else { Err(format!("{text} is too old")) }
    });
    feature("criu", found, "checkpoint and restore", "install criu 4.2 or newer where the agent finds it")
}

fn runtime() -> Feature {
    let output = Command::new("runc").arg("--version").stdin(Stdio::null()).output();
    let found = output.map_err(|error| error.to_string()).and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().and_then(|line| line.rsplit(' ').next()).map(str::to_owned);
        if output.status.success() { Ok(version) } else { Err(output.status.to_string()) }
    });
    feature("runc", found, "the sandbox of each container", "install runc where the agent finds it")
}

fn control_groups() -> Feature {
    let found = Hierarchies::detect(Path::new("/"), "/").map(|hierarchies| {
        Some(
            match hierarchies.layout() {
                Layout::V1 => "version 1",
                Layout::Hybrid => "versions 1 and 2",
                Layout::V2 => "version 2",
            }
            .to_owned(),
        )
    });
    let found = found.map_err(|error| Explained::from_chain(&error).reason);
    feature("control groups", found, "limits, and knowing a container's processes", "mount cgroup2 at /sys/fs/cgroup")
}

fn freezer() -> Feature {
    let found = Hierarchies::detect(Path::new("/"), "/").map_err(|error| Explained::from_chain(&error).reason);
    let found = found.and_then(|hierarchies| match hierarchies.layout() {
        Layout::V1 => Err("version 2 is not mounted".to_owned()),
        Layout::Hybrid | Layout::V2 => Ok(None),
    });
    feature("freezer", found, "holding a container while it is moved", "mount cgroup2, beside version 1 will do")
}

fn feature(name: &str, found: Result<Option<String>, impl Display>, purpose: &str, hint: &str) -> Feature {
    let (available, found) = match found {
        Ok(found) => (true, found),
        Err(why) => (false, Some(why.to_string())),
    };
    let hint = (!available).then(|| hint.to_owned());
    Feature { name: name.to_owned(), available, purpose: purpose.to_owned(), found, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_a_hint_and_what_is_there_without() {
        let features = features("n1".parse().unwrap(), Some(Backend::SoftDirty));
        assert_eq!(features.tracking.as_deref(), Some("soft-dirty"));
        assert!(features.features.len() > 10);
        for feature in features.features {
            assert_eq!(feature.available, feature.hint.is_none(), "{feature:?}");
            assert!(feature.available || feature.found.is_some(), "{feature:?}");
        }
    }
}
