//! `drover lab up`.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use drover_model::NodeName;
use drover_sys::launch::{Namespaces, spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::geteuid;
use time::OffsetDateTime;

use crate::cgroup;
use crate::down::{DownError, remove};
use crate::error::{LogTail, StepError};
use crate::host::READY;
use crate::lock::Lock;
use crate::network::{self, NetworkError, SWITCH};
use crate::place::{Place, PlaceError};
use crate::plan::{HostPlan, LARGEST, Plan};
use crate::prepare::write_files;
use crate::record::{Record, Wanted, make_directory};
use crate::request::UpRequest;

/// How long a host has to make itself.
const HOST_PATIENCE: Duration = Duration::from_secs(15);
/// How long an agent has until it accepts connections.
const AGENT_PATIENCE: Duration = Duration::from_secs(15);
/// How long one attempt to connect may take, and the pause after it.
const ATTEMPT: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(50);

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Its hosts.
    pub plan: Plan,
    /// Whether it was up before, with the same parameters.
    pub already: bool,
    /// How long it took.
    pub took: Duration,
    /// What does not work in it, in words for people.
    pub warnings: Vec<String>,
}

/// A lab that cannot be made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The caller is not root.
    #[error("cannot make a lab: it needs root")]
    NotRoot,
    /// The number of nodes is out of range.
    #[error("cannot make a lab of {0} nodes")]
    Nodes(u8),
    /// A program is meant for a node that there is not.
    #[error("cannot give {0} a program: the lab has no such node")]
    NoNode(NodeName),
    /// The environment names no place.
    #[error("cannot place the lab")]
    Place(#[from] PlaceError),
    /// The shared base is missing.
    #[error("cannot find the lab's base in {0}")]
    NoBase(PathBuf),
    /// A lab with other parameters is up.
    #[error("cannot make the lab: one with other parameters is up")]
    Other,
    /// A host of the lab that is up has died.
    #[error("cannot use the lab that is up: its host {0} is dead")]
    Dead(NodeName),
    /// A step failed.
    #[error("cannot make the lab")]
    Step(#[from] StepError),
    /// The remains of another lab cannot be removed.
    #[error("cannot make room for the lab")]
    Remains(#[from] DownError),
    /// A cgroup cannot be made.
    #[error("cannot make the lab's cgroups")]
    Cgroup(#[source] StepError),
    /// A certificate cannot be made.
    #[error("cannot make the lab's certificates")]
    Certificate(#[source] rcgen::Error),
    /// The network cannot be made.
    #[error("cannot make the lab's network")]
    Network(#[from] NetworkError),
    /// A host cannot be started at all.
    #[error("cannot start host {0}")]
    Spawn(NodeName, #[source] std::io::Error),
    /// A host ended or was not ready in time.
    #[error("cannot start host {0}")]
    Host(NodeName, #[source] LogTail),
    /// An agent was not ready in time.
    #[error("cannot reach the agent of {0}")]
    Agent(NodeName, #[source] LogTail),
}

impl UpError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot => Some("run it with sudo".into()),
            Self::NoNode(_) => Some("its nodes are n1, n2, …; --nodes says how many".into()),
            Self::Nodes(_) => Some(format!("use 1 to {LARGEST} nodes")),
            Self::Place(error) => error.hint(),
            Self::NoBase(_) => Some("run scripts/install-base.sh (make lab-base)".into()),
            Self::Other | Self::Dead(_) => Some("remove it with: drover lab down".into()),
            Self::Network(error) => error.hint(),
            Self::Cgroup(_) => Some(
                "the cgroup of this shell must be writable: run it under \
                 `systemd-run --scope -p Delegate=yes`, or in a container with its cgroups mounted read-write"
                    .into(),
            ),
            Self::Remains(error) => error.hint(),
            Self::Step(_) | Self::Certificate(_) | Self::Spawn(..) | Self::Host(..) | Self::Agent(..) => None,
        }
    }
}

/// Makes the lab, and returns when every host is made and every agent accepts connections.
///
/// # Errors
/// When it cannot be made; then nothing of it is left. When another lab is up, that one stays.
pub fn up(request: &UpRequest) -> Result<Lab, UpError> {
    let start = Instant::now();
    if !geteuid().is_root() {
        return Err(UpError::NotRoot);
    }
    if !(1..=LARGEST).contains(&request.nodes) {
        return Err(UpError::Nodes(request.nodes));
    }
    let place = Place::from_environment()?;
    let _lock = Lock::take()?;
    let wanted = Wanted {
        nodes: request.nodes,
        link: request.link,
        agent: request.agent.clone(),
        programs: request.programs.clone(),
        base: request.base.clone(),
        others: request.others.clone(),
    };
    let plan = Plan::of(request.nodes);
    if let Some(stranger) = wanted.others.keys().find(|name| plan.nodes().all(|node| node.name != **name)) {
        return Err(UpError::NoNode(stranger.clone()));
    }
    if let Some(lab) = existing(&place, &wanted, start)? {
        return Ok(lab);
    }
    let base = wanted.base.clone().unwrap_or_else(|| place.base());
    if !base.join(".drover-base").exists() {
        return Err(UpError::NoBase(base));
    }
    // Whatever an interrupted `up` or `down` left is taken away first.
    remove(&place)?;
    match make(&place, request, wanted) {
        Ok(warnings) => Ok(Lab { plan: Plan::of(request.nodes), already: false, took: start.elapsed(), warnings }),
        Err(error) => {
            if let Err(remains) = remove(&place) {
                tracing::error!(error = %remains, "cannot remove the unfinished lab");
            }
            Err(error)
        }
    }
}

/// The lab that is up already, if it is what was wanted.
fn existing(place: &Place, wanted: &Wanted, start: Instant) -> Result<Option<Lab>, UpError> {
    let Some(record) = Record::read(place)?.filter(|record| record.complete) else { return Ok(None) };
    if record.wanted != *wanted {
        return Err(UpError::Other);
    }
    let plan = record.plan();
    if let Some(dead) = plan.hosts.iter().find(|host| record.first_process(place, &host.name).is_none()) {
        return Err(UpError::Dead(dead.name.clone()));
    }
    Ok(Some(Lab { plan, already: true, took: start.elapsed(), warnings: Vec::new() }))
}

fn make(place: &Place, request: &UpRequest, wanted: Wanted) -> Result<Vec<String>, UpError> {
    let mut warnings = Vec::new();
    let mut cgroups = cgroup::own().map_err(UpError::Cgroup)?;
    if !cgroup::find_delegating(&mut cgroups) {
        warnings.push("containers cannot be limited: no cgroup here can hand on cpu, memory and pids".to_owned());
    }
    let mut record = Record { link: wanted.link, wanted, cgroups, complete: false };
    make_directory(place.run())?;
    record.write(place)?;
    write_files(place, &record, OffsetDateTime::now_utc())?;
    make_network(place, &record)?;
    let mut hosts = Vec::new();
    for host in record.plan().hosts {
        let child = start_host(place, request, &record, &host)?;
        hosts.push((host, child));
    }
    let end = Instant::now() + HOST_PATIENCE;
    for (host, child) in &mut hosts {
        if !is_ready(child, end) {
            let logs = LogTail::read(&[&place.host_log(&host.name)]);
            return Err(UpError::Host(host.name.clone(), logs));
        }
    }
    if record.wanted.agent.is_some() {
        await_agents(place, &record.plan())?;
    }
    record.complete = true;
    record.write(place)?;
    Ok(warnings)
}

fn make_network(place: &Place, record: &Record) -> Result<(), UpError> {
    let switch = place.namespace(SWITCH);
    network::make_namespace(&switch)?;
    network::make_switch(&switch)?;
    for host in &record.plan().hosts {
        let namespace = place.namespace(host.name.as_str());
        network::make_namespace(&namespace)?;
        network::plug(&switch, &namespace, host)?;
        if host.number.is_some() && record.link.is_some() {
            network::set_rate(&switch, &namespace, host, record.link)?;
        }
    }
    Ok(())
}

fn start_host(place: &Place, request: &UpRequest, record: &Record, host: &HostPlan) -> Result<Child, UpError> {
    let inside = Path::new(place.cgroup()).join(host.name.as_str());
    for hierarchy in &record.cgroups {
        hierarchy.create(&inside).map_err(UpError::Cgroup)?;
    }
    let entrances = record.cgroups.iter().map(|hierarchy| hierarchy.parent.join(&inside));
    let entrances = cgroup::entrances(entrances).map_err(UpError::Cgroup)?;
    let namespace = place.namespace(host.name.as_str());
    let network = File::open(&namespace).map_err(StepError::at("open", &namespace))?;
    let path = place.host_log(&host.name);
    let log = File::create(&path).map_err(StepError::at("create", &path))?;
    let [program, arguments @ ..] = request.host_command.as_slice() else {
        return Err(UpError::Spawn(host.name.clone(), std::io::ErrorKind::InvalidInput.into()));
    };
    let mut command = Command::new(program);
    command.args(arguments).arg("--spec").arg(place.spec(&host.name)).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    spawn(command, Namespaces::Fresh(network.as_fd()), entrances)
        .map_err(|error| UpError::Spawn(host.name.clone(), error))
}

/// Waits until a host says that it is made; false when it ends or says nothing in time.
fn is_ready(host: &mut Child, end: Instant) -> bool {
    let Some(output) = &mut host.stdout else { return false };
    let left = end.saturating_duration_since(Instant::now());
    let Ok(timeout) = Timespec::try_from(left) else { return false };
    match poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&timeout)) {
        Ok(1) => {}
        _ => return false,
    }
    let mut said = [0; READY.len()];
    output.read_exact(&mut said).is_ok() && said == *READY.as_bytes()
}

fn await_agents(place: &Place, plan: &Plan) -> Result<(), UpError> {
    let from = place.namespace(plan.client().name.as_str());
    let end = Instant::now() + AGENT_PATIENCE;
    for node in plan.nodes() {
        while !network::reaches(&from, node.agent_address(), ATTEMPT) {
            if Instant::now() >= end {
                let logs = [place.agent_log(&node.name), place.host_log(&node.name)];
                return Err(UpError::Agent(node.name.clone(), LogTail::read(&[&logs[0], &logs[1]])));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}
