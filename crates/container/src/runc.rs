//! runc, the sandbox: it makes namespaces, mounts, limits, seccomp filter and capabilities, and runs further programs
//! inside. It never checkpoints or restores.
//!
//! A container that was restored by CRIU is made known to runc by adoption: before the restore runc creates, from a
//! template root, a container of the same name, limits and control group, whose first process is killed before it runs
//! anything. That leaves runc's own state file, of its own version; adoption puts the restored process in the place of
//! the dead one. See `docs/decisions/0002-runc-as-sandbox.md`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use drover_model::{ContainerId, ContainerSpec, ProcessSpec};
use serde_json::{Value, json};

use crate::layout::Layout;
use crate::spec::{nothing, oci_spec, process};

/// runc with the directory of its states.
#[derive(Debug, Clone)]
pub struct Runc {
    root: PathBuf,
}

/// Why runc did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuncError {
    /// The process has ended.
    #[error("process {0} has ended")]
    Gone(u32),
    /// There is no runc.
    #[error("cannot start runc")]
    Start(#[source] io::Error),
    /// It refused, for this reason in its own words.
    #[error("runc refused: {0}")]
    Refused(String),
    /// A file around it.
    #[error("cannot write {0}")]
    File(PathBuf, #[source] io::Error),
    /// Its state file is not as expected.
    #[error("cannot adopt the container: runc's state has no {0}")]
    State(&'static str),
}

/// A program to run beside the container's own.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// The program.
    pub process: ProcessSpec,
    /// Where its description is written for runc.
    pub file: PathBuf,
}

impl ExecSpec {
    /// The file that runc writes once the program has been started.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.file.with_extension("pid")
    }

    /// Where runc says why it was not.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.file.with_extension("log")
    }

    /// Removes the files; those that are not there do not matter.
    pub fn clean_up(&self) {
        for file in [&self.file, &self.pid_file(), &self.log()] {
            let _ = fs::remove_file(file);
        }
    }
}

impl Runc {
    /// runc with its states below `run`, the node's directory for what does not survive a reboot.
    #[must_use]
    pub fn new(run: &Path) -> Self {
        Self { root: run.join("runc") }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.root).stdin(Stdio::null());
        command
    }

    /// Writes the bundle of a container with its root mounted.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_bundle(&self, spec: &ContainerSpec, layout: &Layout, cgroup: &str) -> Result<(), RuncError> {
        write_config(layout, &oci_spec(spec, layout, &layout.rootfs(), cgroup, process(&spec.process)))
    }

    /// The command that creates a container from its bundle; the caller gives it the standard streams.
    #[must_use]
    pub fn create(&self, id: &ContainerId, layout: &Layout, console: Option<&Path>, pid_file: &Path) -> Command {
        let mut command = self.command();
        command.arg("--log").arg(layout.run.join("runc.log"));
        command.args(["create", "--bundle"]).arg(layout.bundle()).arg("--pid-file").arg(pid_file);
        if let Some(console) = console {
            command.arg("--console-socket").arg(console);
        }
        command.arg(id.as_str());
        command
    }

    /// Starts the program of a created container.
    ///
    /// # Errors
    /// When runc refuses.
    pub fn start(&self, id: &ContainerId) -> Result<(), RuncError> {
        run(self.command().args(["start", id.as_str()]))
    }

    /// Forgets a container, killing what is left of it; one that is unknown is no error.
    ///
    /// # Errors
    /// When runc refuses.
    pub fn delete(&self, id: &ContainerId) -> Result<(), RuncError> {
        if !self.root.join(id.as_str()).exists() {
            return Ok(());
        }
        run(self.command().args(["delete", "--force", id.as_str()]))
    }

    /// Sets up the sandbox of a container that arrives: limits, device rules and state, but no process.
    ///
    /// # Errors
    /// When runc refuses, which is the answer to "could it run here?".
    pub fn create_template(&self, spec: &ContainerSpec, layout: &Layout, cgroup: &str) -> Result<(), RuncError> {
        write_config(layout, &oci_spec(spec, layout, &layout.template(), cgroup, process(&nothing())))?;
        let pid_file = layout.run.join("template.pid");
        // Its streams stay open in the process that waits, so nobody may wait for their end; the log has the reason.
        let mut create = self.create(&spec.id, layout, None, &pid_file);
        let status = create.stdout(Stdio::null()).stderr(Stdio::null()).status().map_err(RuncError::Start)?;
        if !status.success() {
            let text = fs::read_to_string(layout.run.join("runc.log")).unwrap_or_default();
            return Err(RuncError::Refused(last_reason(&text)));
        }
        let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).ok_or(RuncError::State("process id"))?;
        // It waits to execute the program that does nothing. Its parent has gone; the system's first process, or the
        // agent, takes note of its end.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            .map_err(|error| RuncError::File(pid_file, error.into()))
    }

    /// Puts the restored process `pid` in the place of the template's.
    ///
    /// # Errors
    /// When runc's state file is not as expected, as with a runc that is too new.
    pub fn adopt(&self, spec: &ContainerSpec, layout: &Layout, cgroup: &str, pid: u32) -> Result<(), RuncError> {
        self.write_bundle(spec, layout, cgroup)?;
        let directory = self.root.join(spec.id.as_str());
        let path = directory.join("state.json");
        let failed = |error| RuncError::File(path.clone(), error);
        let mut state: Value = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?)).map_err(failed)?;
        let started = match start_time(pid) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RuncError::Gone(pid)),
            started => started.map_err(failed)?,
        };
        replace(&mut state, "init_process_pid", json!(pid))?;
        replace(&mut state, "init_process_start", json!(started))?;
        let paths = state.get_mut("namespace_paths").and_then(Value::as_object_mut);
        for path in paths.ok_or(RuncError::State("namespace_paths"))?.values_mut() {
            let name = path.as_str().and_then(|path| path.rsplit_once('/')).map(|(_, name)| name.to_owned());
            *path = json!(format!("/proc/{pid}/ns/{}", name.ok_or(RuncError::State("namespace_paths"))?));
        }
        let temporary = directory.join("state.json.new");
        fs::write(&temporary, state.to_string()).and_then(|()| fs::rename(&temporary, &path)).map_err(failed)?;
        // The file by which runc knows that a container was created but not started.
        match fs::remove_file(directory.join("exec.fifo")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// The command that runs a program inside; the caller gives it the standard streams, a terminal's slave if the
    /// program is to have a terminal.
    ///
    /// # Errors
    /// When the description cannot be written.
    pub fn exec(&self, id: &ContainerId, exec: &ExecSpec) -> Result<Command, RuncError> {
        let description = process(&exec.process).to_string();
        fs::write(&exec.file, description).map_err(|error| RuncError::File(exec.file.clone(), error))?;
        let mut command = self.command();
        command.arg("--log").arg(exec.log());
        command.args(["exec", "--process"]).arg(&exec.file).arg("--pid-file").arg(exec.pid_file()).arg(id.as_str());
        Ok(command)
    }
}

fn write_config(layout: &Layout, config: &Value) -> Result<(), RuncError> {
    let path = layout.bundle().join("config.json");
    fs::create_dir_all(layout.bundle())
        .and_then(|()| fs::write(&path, config.to_string()))
        .map_err(|error| RuncError::File(path, error))
}

fn replace(state: &mut Value, key: &'static str, value: Value) -> Result<(), RuncError> {
    let place = state.get_mut(key).ok_or(RuncError::State(key))?;
    *place = value;
    Ok(())
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/PID/stat`, by which runc tells processes of
/// the same number apart.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields are counted from behind it, the first being field 3.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let started = fields.and_then(|mut fields| fields.nth(19)).and_then(|field| field.parse().ok());
    started.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

pub(crate) fn run(command: &mut Command) -> Result<(), RuncError> {
    refusal(&command.output().map_err(RuncError::Start)?)
}

fn refusal(output: &Output) -> Result<(), RuncError> {
    if output.status.success() {
        return Ok(());
    }
    Err(RuncError::Refused(last_reason(&String::from_utf8_lossy(&output.stderr))))
}

/// runc's reason, without its log prefix and the quoting of its log: the last line that it wrote.
#[must_use]
pub fn last_reason(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it gave no reason");
    let Some((_, message)) = line.rsplit_once("msg=") else { return line.to_owned() };
    match serde_json::from_str(message.trim_end()) {
        Ok(unquoted) => unquoted,
        Err(_) => message.trim_matches('"').to_owned(),
    }
}
