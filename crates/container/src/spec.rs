//! The OCI runtime specification of a container, and of the template that sets up the sandbox of one that arrives.

use std::path::Path;

use drover_model::{ContainerSpec, ProcessSpec};
use serde_json::{Value, json};

use crate::{Layout, seccomp};

/// Capabilities that a container keeps: what programs that change user, bind low ports or own files need, nothing
/// that reaches beyond the container.
const CAPABILITIES: [&str; 13] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
    "CAP_AUDIT_WRITE",
];

/// Kernel files that tell about, or change, more than the container.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/sys/firmware",
];

/// Kernel files that may be read but not written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The specification of a container with its root mounted at `root`; `cgroup` is its path in every hierarchy.
///
/// `/dev`, `/dev/shm` and volumes are bound from mounts of the node, so that they can travel without CRIU's help. There is
/// no control group namespace: CRIU need not know of control groups at all.
#[must_use]
pub fn oci_spec(container: &ContainerSpec, layout: &Layout, root: &Path, cgroup: &str, process: Value) -> Value {
    let bind = |source: &Path, destination: &str, options: Value| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    let kernel = |kind: &str, destination: &str, options: Value| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        kernel("proc", "/proc", json!(["nosuid", "noexec", "nodev"])),
        bind(&layout.dev(), "/dev", json!(["bind", "nosuid", "noexec"])),
        kernel("devpts", "/dev/pts", json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"])),
        bind(&layout.shm(), "/dev/shm", json!(["bind", "nosuid", "noexec", "nodev"])),
        kernel("mqueue", "/dev/mqueue", json!(["nosuid", "noexec", "nodev"])),
        kernel("sysfs", "/sys", json!(["nosuid", "noexec", "nodev", "ro"])),
    ];
    mounts.extend(container.volumes.iter().enumerate().map(|(index, mount)| {
        let options = ["bind", "nosuid", "nodev", if mount.read_only { "ro" } else { "rw" }];
        bind(&layout.volume(index), mount.destination.as_str(), json!(options))
    }));
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": root, "readonly": false},
        "hostname": container.hostname,
        "mounts": mounts,
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network", "path": layout.netns()},
            ],
            "resources": resources(container),
            "cgroupsPath": cgroup,
            "seccomp": seccomp::default_profile(),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "rootfsPropagation": "private",
        },
    })
}

/// The `process` object, for the container's own program and for programs executed beside it.
#[must_use]
pub(crate) fn process(process: &ProcessSpec) -> Value {
    // A program of another user gets no capability; set-id bits give none either (no_new_privs).
    let held: &[&str] = if process.uid == 0 { &CAPABILITIES } else { &[] };
    json!({
        "terminal": process.terminal,
        "user": {"uid": process.uid, "gid": process.gid, "umask": 0o022},
        "args": process.args,
        "env": process.env,
        "cwd": process.cwd,
        "capabilities": {"bounding": CAPABILITIES, "effective": held, "permitted": held},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 16384, "soft": 1024}],
        "noNewPrivileges": true,
        // Not the agent's, which is protected.
        "oomScoreAdj": 0,
    })
}

/// A process that does nothing, for the template.
#[must_use]
pub(crate) fn nothing() -> ProcessSpec {
    ProcessSpec {
        args: vec!["/nothing".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        uid: 0,
        gid: 0,
        terminal: false,
        stdin_open: false,
    }
}

fn resources(container: &ContainerSpec) -> Value {
    const PERIOD_US: u64 = 100_000;
    let device = |kind: &str, major: i64, minor: i64| json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm"});
    let mut resources = json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "b", "access": "m"},
            device("c", 1, 3), device("c", 1, 5), device("c", 1, 7), device("c", 1, 8), device("c", 1, 9),
            device("c", 5, 0), device("c", 5, 1), device("c", 5, 2),
            {"allow": true, "type": "c", "major": 136, "access": "rwm"},
        ],
    });
    let limits = &container.limits;
    if let Some(memory) = limits.memory {
        resources["memory"] = json!({"limit": memory.0});
    }
    if let Some(millis) = limits.cpu_millis {
        resources["cpu"] = json!({"quota": u64::from(millis) * PERIOD_US / 1000, "period": PERIOD_US});
    }
    if let Some(pids) = limits.pids {
        resources["pids"] = json!({"limit": pids});
    }
    resources
}
