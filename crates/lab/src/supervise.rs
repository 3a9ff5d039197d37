//! The watch of a host's first process: it keeps the agent running and reaps what others leave.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use drover_sys::launch::{Namespaces, spawn};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::cgroup;
use crate::host::protect;
use crate::root::PROGRAMS;

/// While this file exists in a host, its agent is not started.
pub(crate) const STOPPED: &str = "/run/drover-lab/agent.stopped";
/// The agent's pid as the host sees it, while the agent runs.
pub(crate) const RUNNING: &str = "/run/drover-lab/agent.pid";
/// How willingly the kernel ends the agent when memory runs out: as the agent's systemd unit has it.
const AGENT_SCORE: i32 = -500;
/// How long the agent has to end when the host is asked to.
const GRACE: Duration = Duration::from_secs(2);

/// How a host's agent is started.
pub(crate) struct Agent {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where its output goes.
    pub log: File,
    /// Its cgroup in every hierarchy.
    pub cgroups: Vec<PathBuf>,
}

/// The pause before the next start. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backoff(Duration);

impl Backoff {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(5);
    /// An agent that ran this long was well: the next pause is the shortest again.
    const WELL: Duration = Duration::from_secs(10);

    fn new() -> Self {
        Self(Self::SHORTEST)
    }

    /// The pause after an agent that ran for `ran`.
    fn pause(&mut self, ran: Duration) -> Duration {
        if ran >= Self::WELL {
            *self = Self::new();
        }
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        pause
    }
}

/// The agent as the watch sees it.
enum State {
    Running { pid: Pid, since: Instant },
    Waiting { until: Instant },
}

/// Watches until a SIGTERM arrives. SIGUSR1 means: look at the control file now.
pub(crate) fn supervise(agent: Option<Agent>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(agent))
}

async fn watch(agent: Option<Agent>) -> io::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let mut child = signal(SignalKind::child())?;
    let mut look = signal(SignalKind::user_defined1())?;
    let mut backoff = Backoff::new();
    let mut state = State::Waiting { until: Instant::now() };
    loop {
        if let Some(agent) = &agent {
            state = step(agent, state, &mut backoff);
        }
        let next = match &state {
            State::Waiting { until } if agent.is_some() => *until,
            _ => Instant::now() + Backoff::LONGEST,
        };
        tokio::select! {
            _ = end.recv() => break,
            _ = child.recv() => state = reap(state, &mut backoff),
            _ = look.recv() => if let State::Waiting { until } = &mut state { *until = Instant::now() },
            () = sleep_until(next) => {}
        }
    }
    if let State::Running { pid, .. } = state {
        let _ = kill_process(pid, Signal::TERM);
        let end = Instant::now() + GRACE;
        while matches!(state, State::Running { .. }) && Instant::now() < end {
            tokio::select! { _ = child.recv() => state = reap(state, &mut backoff), () = sleep_until(end) => {} }
        }
    }
    Ok(())
}

/// Starts the agent when it is time, ends it when it shall not run.
fn step(agent: &Agent, state: State, backoff: &mut Backoff) -> State {
    let stopped = Path::new(STOPPED).exists();
    match state {
        State::Running { pid, .. } if stopped => {
            let _ = kill_process(pid, Signal::KILL);
            state
        }
        State::Waiting { until } if until <= Instant::now() => {
            let now = Instant::now();
            if stopped {
                return State::Waiting { until: now + Backoff::SHORTEST };
            }
            match start(agent) {
                Ok(pid) => {
                    tracing::info!(pid = pid.as_raw_nonzero().get(), "agent started");
                    State::Running { pid, since: now }
                }
                Err(error) => {
                    tracing::error!(%error, program = agent.command.first(), "cannot start the agent");
                    State::Waiting { until: now + backoff.pause(Duration::ZERO) }
                }
            }
        }
        other => other,
    }
}

fn start(agent: &Agent) -> io::Result<Pid> {
    let [program, arguments @ ..] = agent.command.as_slice() else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", search_path()).env("HOME", "/root").current_dir("/");
    command.stdin(Stdio::null()).stdout(agent.log.try_clone()?).stderr(agent.log.try_clone()?);
    let cgroups = cgroup::entrances(agent.cgroups.iter().cloned()).map_err(io::Error::other)?;
    let child = spawn(command, Namespaces::Same, cgroups)?;
    protect(&child.id().to_string(), AGENT_SCORE);
    fs::write(RUNNING, child.id().to_string())?;
    Ok(Pid::from_child(&child))
}

/// Where programs of a host are looked for: its own before Drover's directory, which may be one of the machine's.
pub(crate) fn search_path() -> String {
    format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{PROGRAMS}")
}

/// Reaps every process that has ended, the agent among them.
fn reap(mut state: State, backoff: &mut Backoff) -> State {
    while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
        if let State::Running { pid, since } = state
            && pid == ended
        {
            tracing::info!(status = status.as_raw(), "agent ended");
            let _ = fs::remove_file(RUNNING);
            state = State::Waiting { until: Instant::now() + backoff.pause(since.elapsed()) };
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..5).map(|_| backoff.pause(Duration::ZERO).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        assert_eq!(backoff.pause(Backoff::WELL), Backoff::SHORTEST);
    }
}
