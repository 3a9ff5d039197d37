//! `drover lab exec`: runs a program in a host.

use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use drover_model::NodeName;
use drover_sys::launch::{Namespaces, spawn};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::signal::unix::{SignalKind, signal};

use crate::cgroup::{self, EXEC};
use crate::error::StepError;
use crate::place::{Place, PlaceError};
use crate::record::Record;
use crate::supervise::search_path;

/// A program that cannot be run in a host.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The environment names no place.
    #[error("cannot find the lab's place")]
    Place(#[from] PlaceError),
    /// There is no lab.
    #[error("cannot find a lab")]
    NoLab,
    /// The lab has no such host.
    #[error("cannot find host {name}: the lab has {hosts}")]
    NoHost {
        /// What was asked for.
        name: String,
        /// What there is.
        hosts: String,
    },
    /// The host is dead.
    #[error("cannot enter host {0}: it is dead")]
    Dead(String),
    /// A step failed.
    #[error("cannot enter host {0}")]
    Enter(String, #[source] StepError),
    /// The program cannot be started.
    #[error("cannot run {program:?} in host {host}")]
    Run {
        /// What was to be run.
        program: String,
        /// Where.
        host: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl ExecError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Place(error) => error.hint(),
            Self::NoLab => Some("make one with: drover lab up".into()),
            Self::Dead(_) => Some("make the lab anew: drover lab down, drover lab up".into()),
            _ => None,
        }
    }
}

/// A host that runs.
pub(crate) struct RunningHost {
    /// Its first process.
    pub pid: i32,
    place: Place,
    record: Record,
    name: NodeName,
}

impl RunningHost {
    /// Whether it is a node, with an agent to keep.
    pub(crate) fn has_agent(&self) -> bool {
        let plan = self.record.plan();
        self.record.wanted.agent.is_some() && plan.host(self.name.as_str()).is_some_and(|host| host.number.is_some())
    }
}

/// Finds the host called `name`.
pub(crate) fn running_host(name: &str) -> Result<RunningHost, ExecError> {
    let place = Place::from_environment()?;
    let record = Record::read(&place).map_err(|error| ExecError::Enter(name.into(), error))?;
    let record = record.ok_or(ExecError::NoLab)?;
    let plan = record.plan();
    let Some(host) = plan.host(name) else {
        let hosts: Vec<_> = plan.hosts.iter().map(|host| host.name.as_str()).collect();
        return Err(ExecError::NoHost { name: name.into(), hosts: hosts.join(", ") });
    };
    let pid = record.first_process(&place, &host.name).ok_or_else(|| ExecError::Dead(name.into()))?;
    Ok(RunningHost { pid, place, record, name: host.name.clone() })
}

/// Runs a program in `host` with the caller's standard streams, a terminal among them, and waits for it. While it runs
/// the terminal's interrupts are its alone.
///
/// # Errors
/// When the host does not run or has no such program.
pub fn exec(host: &str, arguments: &[String]) -> Result<ExitStatus, ExecError> {
    let failed = |source| ExecError::Run { program: program(arguments), host: host.into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let _context = runtime.enter();
    // A handler instead of the default action: the program decides what Ctrl-C means.
    let _handled = [SignalKind::interrupt(), SignalKind::quit()].map(signal);
    start(host, arguments, |_| {})?.wait().map_err(failed)
}

/// Runs a program in `host` with nothing to read, and gives what it wrote.
///
/// # Errors
/// As for [`exec`].
pub fn output(host: &str, arguments: &[String]) -> Result<Output, ExecError> {
    let streams = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    };
    let failed = |source| ExecError::Run { program: program(arguments), host: host.into(), source };
    start(host, arguments, streams)?.wait_with_output().map_err(failed)
}

fn program(arguments: &[String]) -> String {
    arguments.first().cloned().unwrap_or_default()
}

fn start(host: &str, arguments: &[String], streams: impl FnOnce(&mut Command)) -> Result<Child, ExecError> {
    let failed = |source| ExecError::Run { program: program(arguments), host: host.into(), source };
    let enter = |error| ExecError::Enter(host.into(), error);
    let [name, rest @ ..] = arguments else { return Err(failed(std::io::ErrorKind::InvalidInput.into())) };
    let running = running_host(host)?;
    let pid = Pid::from_raw(running.pid).expect("a process has a positive number");
    let process =
        pidfd_open(pid, PidfdFlags::empty()).map_err(StepError::of("open", "its first process")).map_err(enter)?;
    let directories = running.record.host_cgroups(&running.place, &running.name, EXEC);
    let cgroups = cgroup::entrances(directories.into_iter()).map_err(enter)?;
    let mut command = Command::new(name);
    command.args(rest).env_clear().current_dir("/root");
    command.env("PATH", search_path()).env("HOME", "/root").env("LANG", "C.UTF-8");
    if let Some(terminal) = std::env::var_os("TERM") {
        command.env("TERM", terminal);
    }
    streams(&mut command);
    spawn(command, Namespaces::Of(process.as_fd()), cgroups).map_err(failed)
}
