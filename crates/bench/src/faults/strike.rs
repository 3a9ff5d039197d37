//! How each fault is brought in, and how it is mended.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::ground::{DISK, Ground, GroundError, LOOK, STATE};
use super::moment::{AFTER, Log};
use super::plan::{Fault, Side};
use super::processes::{NodeProcesses, is_criu, signal};
use crate::command::Running;
use crate::lab::{SHORT, SOURCE, TARGET, TARGET_ADDRESS, script};

/// Where the one listens that turns a bit over, and where the target's agent does.
const CROOKED_PORT: u16 = 7781;
const PORT: u16 = 7780;
/// Files that say when.
const FORTH: &str = "/run/flip.forth";
const BACK: &str = "/run/flip.back";
/// A file that says that what was told to a shell is done.
const DONE: &str = "/run/strike.done";
/// One step to a limit of memory that the kernel accepts, in bytes.
const STEP: u64 = 1 << 20;
/// How long a CRIU is looked for, and the dying of a node's processes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A fault that is ready to be brought in.
#[derive(Debug)]
pub struct Strike {
    fault: Fault,
    agents: [Option<u32>; 2],
    shell: Option<Shell>,
    crooked: Option<Running>,
    search: Option<Search>,
}

impl Strike {
    /// Makes it ready.
    pub fn prepare(ground: &Ground, fault: Fault) -> Result<Self, GroundError> {
        let agents = ground.nodes.each_ref().map(NodeProcesses::agent);
        let mut strike = Self { fault, agents, shell: None, crooked: None, search: None };
        match fault {
            Fault::Cut(_) | Fault::CutForEver => strike.shell = Some(Shell::on(ground, TARGET)?),
            Fault::Node(side) => strike.shell = Some(Shell::on(ground, side.node())?),
            Fault::Flip(_) => {
                strike.crooked = Some(begin_flip(ground)?);
                strike.agents = ground.nodes.each_ref().map(NodeProcesses::agent);
            }
            Fault::Disk => strike.shell = Some(Shell::on(ground, TARGET)?),
            Fault::Memory => {
                // What the kernel can take back it takes now: then the limit comes at once.
                let path = memory(&ground.nodes[1])?.join("memory.force_empty");
                fs::write(&path, "0").map_err(|error| GroundError::File(path, error))?;
            }
            Fault::Criu(side) => strike.search = Some(Search::begin(ground.nodes[side as usize].clone())),
            Fault::Agent(_) | Fault::Stall(_) => {}
        }
        Ok(strike)
    }

    /// Brings it in, now; in which phase that was, if there was something for it to hit.
    pub fn bring_in(&mut self, ground: &Ground, log: &mut Log) -> Result<Option<String>, GroundError> {
        match self.fault {
            Fault::Agent(side) => self.signal_agent(side, Signal::KILL),
            Fault::Stall(side) => self.signal_agent(side, Signal::STOP),
            Fault::Criu(_) => return self.kill_criu(ground, log),
            Fault::Node(side) => {
                // So that nobody hears of it.
                self.signal_agent(side, Signal::STOP);
                let came = came(ground, log)?;
                self.tell(&format!("ip link set eth0 down; touch {DONE}"))?;
                await_file(&ground.nodes[side as usize].file(DONE));
                self.cut_power(ground, side)?;
                return Ok(Some(came));
            }
            Fault::Cut(_) | Fault::CutForEver => self.tell("ip link set eth0 down")?,
            Fault::Flip(side) => {
                let path = ground.on_target(if side == Side::Target { FORTH } else { BACK });
                fs::write(&path, "").map_err(|error| GroundError::File(path, error))?;
            }
            Fault::Disk => {
                self.tell(&format!(
                    "mount -o remount,size=$(df --output=used -k {STATE} | tail -n 1)k {STATE}; touch {DONE}"
                ))?;
                await_file(&ground.on_target(DONE));
            }
            Fault::Memory => limit_memory(&ground.nodes[1])?,
        }
        came(ground, log).map(Some)
    }

    /// Mends what can be mended.
    pub fn mend(&mut self, ground: &Ground) -> Result<(), GroundError> {
        match self.fault {
            Fault::Agent(_) | Fault::Criu(_) | Fault::Flip(_) => {}
            Fault::Stall(side) => self.signal_agent(side, Signal::CONT),
            Fault::Node(side) => {
                ground.lab.exec(side.node(), &["ip", "link", "set", "eth0", "up"], SHORT)?;
                ground.lab.run(&["lab", "agent", side.node(), "start"], SHORT)?;
            }
            Fault::Cut(_) | Fault::CutForEver => self.tell("ip link set eth0 up")?,
            Fault::Disk => self.tell(&format!("mount -o remount,size={DISK} {STATE}"))?,
            Fault::Memory => free_memory(&ground.nodes[1])?,
        }
        Ok(())
    }

    /// Takes away what was made for it.
    pub fn clear(mut self, ground: &Ground) -> Result<(), GroundError> {
        drop(self.shell.take());
        if self.crooked.take().is_some() {
            let remove = format!("rm -f {FORTH} {BACK}");
            ground.lab.exec(TARGET, &["sh", "-c", &remove], SHORT)?;
            // Killed with its own end alone: what it was started through does not pass that on.
            for pid in ground.nodes[1].all() {
                if fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.windows(5).any(|word| word == b"flip\0"))
                {
                    signal(pid, Signal::KILL);
                }
            }
            lead_past(ground, CROOKED_PORT, PORT)?;
        }
        Ok(())
    }

    /// Kills every CRIU of a node as soon as there is one in this phase.
    fn kill_criu(&mut self, ground: &Ground, log: &mut Log) -> Result<Option<String>, GroundError> {
        let phase = came(ground, log)?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && phase != AFTER {
            if self.search.as_ref().is_some_and(Search::kill) {
                let came = came(ground, log)?;
                // Those that it has just made.
                thread::sleep(LOOK);
                let _ = self.search.take().map(|search| search.kill());
                return Ok(Some(came));
            }
            if came(ground, log)? != phase {
                break;
            }
        }
        self.search = None;
        Ok(None)
    }

    fn signal_agent(&self, side: Side, what: Signal) {
        if let Some(pid) = self.agents[side as usize] {
            signal(pid, what);
        }
    }

    fn tell(&mut self, line: &str) -> Result<(), GroundError> {
        self.shell.as_mut().map_or(Ok(()), |shell| shell.tell(line))
    }

    /// Kills every process of a node, and takes away what a loss of power does.
    fn cut_power(&mut self, ground: &Ground, side: Side) -> Result<(), GroundError> {
        let node = &ground.nodes[side as usize];
        node.all().into_iter().for_each(|pid| signal(pid, Signal::KILL));
        drop(self.shell.take());
        // Killed already; now it stays away.
        ground.lab.run(&["lab", "agent", side.node(), "stop"], SHORT)?;
        node.all().into_iter().for_each(|pid| signal(pid, Signal::KILL));
        ground.lab.run_script(side.node(), &script!("power-loss.sh"), None)?;
        let begin = Instant::now();
        while !node.all().is_empty() {
            if begin.elapsed() >= PATIENCE {
                return Err(GroundError::Late("the end of a node's processes", PATIENCE));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// The phase that the move is in.
fn came(ground: &Ground, log: &mut Log) -> Result<String, GroundError> {
    let phase = log.phase().map_err(|error| GroundError::File(ground.log.clone(), error))?;
    Ok(phase.unwrap_or("before the beginning").to_owned())
}

/// Waits for a file, and removes it.
fn await_file(path: &Path) {
    let begin = Instant::now();
    while fs::remove_file(path).is_err() && begin.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Somebody who looks for the CRIUs of a node all the time, so that they are known when they are to be killed.
#[derive(Debug)]
struct Search {
    found: Arc<Mutex<Vec<u32>>>,
    ended: Arc<AtomicBool>,
}

impl Search {
    fn begin(node: NodeProcesses) -> Self {
        let search = Self { found: Arc::default(), ended: Arc::default() };
        let (found, ended) = (Arc::clone(&search.found), Arc::clone(&search.ended));
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let now = node.criu();
                *found.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
        });
        search
    }

    fn kill(&self) -> bool {
        // A process of the container has CRIU's name while it is being made, and its own from then on.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        found.retain(|pid| is_criu(*pid));
        found.iter().for_each(|pid| signal(*pid, Signal::KILL));
        !found.is_empty()
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// A shell on a host that waits for lines: faster than a program that has to be started first.
#[derive(Debug)]
struct Shell {
    child: Child,
    input: ChildStdin,
}

impl Shell {
    fn on(ground: &Ground, host: &str) -> Result<Self, GroundError> {
        let failed = |error| GroundError::File(PathBuf::from("sh"), error);
        let mut command = Command::new(&ground.lab.drover);
        command.args(["lab", "exec", host, "--", "sh"]).env("DROVER_LAB", &ground.lab.name);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let input = child.stdin.take().ok_or(GroundError::Host("sh"))?;
        let mut shell = Self { child, input };
        shell.tell("true")?;
        Ok(shell)
    }

    fn tell(&mut self, line: &str) -> Result<(), GroundError> {
        let written = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        written.map_err(|error| GroundError::File(PathBuf::from("sh"), error))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "exit");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets the source reach the target through the one that turns a bit over.
fn begin_flip(ground: &Ground) -> Result<Running, GroundError> {
    let (listen, to) = (format!("{TARGET_ADDRESS}:{CROOKED_PORT}"), format!("{TARGET_ADDRESS}:{PORT}"));
    let program = ["lab", "exec", TARGET, "--", "/opt/drover/drover-bench", "flip", "--listen", &listen, "--to", &to];
    let running = ground.lab.start(&[&program[..], &["--forth", FORTH, "--back", BACK]].concat(), None)?;
    lead_past(ground, PORT, CROOKED_PORT)?;
    Ok(running)
}

/// Changes the port at which the source reaches the target.
fn lead_past(ground: &Ground, from: u16, to: u16) -> Result<(), GroundError> {
    let change = format!("sed -i 's/{TARGET_ADDRESS}:{from}/{TARGET_ADDRESS}:{to}/' /etc/drover/agent.toml");
    ground.lab.exec(SOURCE, &["sh", "-c", &change], SHORT)?;
    ground.lab.run(&["lab", "agent", SOURCE, "stop"], SHORT)?;
    ground.lab.run(&["lab", "agent", SOURCE, "start"], SHORT)?;
    ground.await_answers()
}

/// The control group by which a node's memory is limited.
fn memory(node: &NodeProcesses) -> Result<PathBuf, GroundError> {
    node.group("memory").ok_or(GroundError::Host("a control group for memory"))
}

/// Lets a node have as much memory as it has, but for what the kernel can take back.
fn limit_memory(node: &NodeProcesses) -> Result<(), GroundError> {
    let group = memory(node)?;
    let usage = group.join("memory.stat");
    let text = fs::read_to_string(&usage).map_err(|error| GroundError::File(usage, error))?;
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    let mut limit = field("total_rss ") + field("total_shmem ");
    let path = group.join("memory.limit_in_bytes");
    // The kernel refuses a limit that it cannot come down to.
    for _ in 0..64 {
        limit += STEP;
        match fs::write(&path, limit.to_string()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(GroundError::File(path, error)),
        }
    }
    Err(GroundError::Late("a limit of memory", Duration::ZERO))
}

/// Takes the limit away.
fn free_memory(node: &NodeProcesses) -> Result<(), GroundError> {
    let group = memory(node)?;
    let path = group.join("memory.limit_in_bytes");
    fs::write(&path, "-1").map_err(|error| GroundError::File(path, error))
}
