//! The first process of a host: it makes the host out of fresh namespaces and then watches over its agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use drover_sys::launch::own_cgroup_namespace;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid, umask};
use rustix::stdio::{dup2_stdout, stderr};
use rustix::system::sethostname;
use serde::{Deserialize, Serialize};

use crate::cgroup::{AGENT, EXEC, Hierarchy, INIT};
use crate::error::StepError;
use crate::root;
use crate::supervise::{Agent, supervise};

/// What it writes to its standard output when the host is made.
pub(crate) const READY: &str = "ready\n";

/// No machine loses its first process when memory runs out.
const FIRST_PROCESS_SCORE: i32 = -1000;

/// Everything that the first process of a host must know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostSpec {
    /// The host's name.
    pub name: String,
    /// The shared base.
    pub base: PathBuf,
    /// The overlay's own files.
    pub upper: PathBuf,
    /// The overlay's work directory.
    pub work: PathBuf,
    /// Where the overlay is mounted.
    pub root: PathBuf,
    /// What the host sees as `/var/lib/drover`.
    pub state: PathBuf,
    /// What the host sees as `/opt/drover`.
    pub programs: PathBuf,
    /// The hierarchies in which the host has a cgroup.
    pub cgroups: Vec<Hierarchy>,
    /// The agent's command, if the host has an agent.
    pub agent: Option<Vec<String>>,
    /// Where the agent's output goes.
    pub agent_log: PathBuf,
}

/// A host that cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// This is no fresh pid namespace.
    #[error("cannot be a host's first process: this process is not pid 1 of a lab's host")]
    NotFirst,
    /// The spec makes no sense.
    #[error("cannot parse {0}")]
    Spec(PathBuf, #[source] serde_json::Error),
    /// A step failed.
    #[error("cannot make the host")]
    Step(#[from] StepError),
    /// The watch over the agent failed.
    #[error("cannot watch over the host's processes")]
    Watch(#[source] io::Error),
}

impl HostError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        matches!(self, Self::NotFirst).then(|| "this command is `drover lab up`'s own; use that".into())
    }
}

/// The body of `drover lab-host --spec FILE`. It returns when the host is asked to end; its exit ends everything in
/// the host.
///
/// # Errors
/// When the host cannot be made. What was made of it is gone with the process.
pub fn host_main(spec: &Path) -> Result<(), HostError> {
    // The steps below take the machine's own root away; outside a fresh pid namespace that must never begin.
    if std::process::id() != 1 || !spec.is_absolute() {
        return Err(HostError::NotFirst);
    }
    let text = fs::read(spec).map_err(StepError::at("read", spec))?;
    let spec: HostSpec = serde_json::from_slice(&text).map_err(|error| HostError::Spec(spec.to_owned(), error))?;
    let agent = prepare(&spec)?;
    let _ = io::stdout().write_all(READY.as_bytes());
    // Whoever started the host may be gone; from here on there is only the log.
    dup2_stdout(stderr()).map_err(StepError::of("redirect", "standard output"))?;
    supervise(agent).map_err(HostError::Watch)
}

/// Makes the host around the calling process.
fn prepare(spec: &HostSpec) -> Result<Option<Agent>, StepError> {
    setsid().map_err(StepError::of("begin", "a session"))?;
    umask(Mode::from_raw_mode(0o022));
    own_cgroup_namespace().map_err(StepError::of("make", "a cgroup namespace"))?;
    let log = spec.agent.is_some().then(|| append(&spec.agent_log)).transpose()?;
    root::enter(spec)?;
    if let Some(program) = spec.agent.as_ref().and_then(|command| command.first()).map(Path::new)
        && program.is_absolute()
    {
        // Better told now than found out when nobody answers.
        fs::metadata(program).map_err(StepError::at("find the agent", program))?;
    }
    for directory in root::make_cgroups(&spec.cgroups, INIT)? {
        let procs = directory.join("cgroup.procs");
        fs::write(&procs, "0").map_err(StepError::at("enter cgroup", &directory))?;
    }
    root::delegate(&spec.cgroups);
    root::make_cgroups(&spec.cgroups, EXEC)?;
    let cgroups = root::make_cgroups(&spec.cgroups, AGENT)?;
    sethostname(spec.name.as_bytes()).map_err(StepError::of("set the host name", &spec.name))?;
    raise_descriptor_limit();
    protect("self", FIRST_PROCESS_SCORE);
    Ok(spec.agent.clone().zip(log).map(|(command, log)| Agent { command, log, cgroups }))
}

/// Says how willingly the kernel ends a process (`self` or a pid) when memory runs out: from 1000 to -1000, never.
/// Without CAP_SYS_RESOURCE it stays as it was.
pub(crate) fn protect(process: &str, score: i32) {
    let _ = fs::write(format!("/proc/{process}/oom_score_adj"), score.to_string());
}

fn append(path: &Path) -> Result<File, StepError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(StepError::at("open", path))
}

/// Raises the number of descriptors a process may have as far as the kernel lets.
fn raise_descriptor_limit() {
    let ceiling = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let wanted = Rlimit { current: ceiling, maximum: ceiling };
    if ceiling.is_none() || setrlimit(Resource::Nofile, wanted).is_err() {
        // Without CAP_SYS_RESOURCE the hard limit stands.
        let maximum = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}
