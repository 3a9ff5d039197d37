//! Programs that run beside a container's own, as children of the agent.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use drover_api::{ExecRequest, LogStream, SessionInput, SessionOutput};
use drover_container::{ExecSpec, RuncError, last_reason};
use drover_model::{Explained, ProcessSpec};
use drover_sys::process::new_terminal_session;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::{OwnedRwLockWriteGuard, mpsc};

use crate::container::Container;
use crate::error::NodeError;
use crate::node::{Inner, blocking};
use crate::request::resolve_user;
use crate::session::{Session, WAITING};

/// How long programs that are being executed in a container are waited for.
const EXECUTIONS: Duration = Duration::from_secs(5);

/// Waits until no program is being executed in a container; none is as long as what is given is held.
pub(crate) async fn alone(container: &Container) -> Result<OwnedRwLockWriteGuard<()>, Explained> {
    let alone = tokio::time::timeout(EXECUTIONS, Arc::clone(&container.executions).write_owned()).await;
    alone.map_err(|_| {
        let reason = "a program that was executed in the container still runs".to_owned();
        Explained { reason, hint: Some("end running `drover exec` sessions first".into()) }
    })
}

/// Numbers the files by which runc is told what to run.
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// How much is read at once, in bytes.
const GULP: usize = 32 << 10;

/// How long an execution waits for a container that is frozen for a move.
const MOVING: Duration = Duration::from_secs(30);
/// While it is held the container is not frozen for a move.
type Permit = tokio::sync::OwnedRwLockReadGuard<()>;
/// How long runc may take to start a program before what it prints is passed on as it comes: a container that is frozen
/// starts nothing.
const START: Duration = Duration::from_secs(20);
/// The pause between two looks at whether it has.
const START_PAUSE: Duration = Duration::from_millis(1);
/// How much of a refusal is read, in bytes.
const LONGEST_REFUSAL: u64 = 64 << 10;
/// The kind of terminal that a program is told of when nobody says another.
const TERMINAL: &str = "TERM=xterm";

impl Inner {
    pub(crate) async fn exec(self: &Arc<Self>, wanted: &str, request: ExecRequest) -> Result<Session, NodeError> {
        let container = self.running(wanted, "execute a program in")?;
        if request.args.is_empty() {
            let reason = format!("cannot execute a program in container {}: there is none", container.spec().name);
            return Err(NodeError::invalid(reason, "give a command"));
        }
        let permit = Arc::clone(&container.executions).read_owned();
        let Ok(permit) = tokio::time::timeout(MOVING, permit).await else {
            let reason = format!("cannot execute a program in container {}: it is moving", container.spec().name);
            return Err(NodeError::conflict(reason, "try again in a moment"));
        };
        // It may have left while this waited.
        let container = self.running(wanted, "execute a program in")?;
        let inner = Arc::clone(self);
        blocking(move || inner.exec_blocking(&container, &request, permit)).await
    }

    fn exec_blocking(
        &self,
        container: &Container,
        request: &ExecRequest,
        permit: Permit,
    ) -> Result<Session, NodeError> {
        let spec = container.spec();
        let attempt = format!("cannot execute a program in container {}", spec.name);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = process(&spec.process, request, &container.layout.rootfs())?;
        let exec = ExecSpec { process, file: container.layout.run.join(format!("exec-{number}.json")) };
        let command = self.runc.exec(&container.id, &exec).map_err(|error| NodeError::failed(&attempt, &error))?;
        let (output, outputs) = mpsc::channel(WAITING);
        let (input, inputs) = mpsc::channel(WAITING);
        let session = Session { input, output: outputs, closing: self.closing.subscribe() };
        let begun = if request.terminal {
            with_terminal(command, &exec, permit, inputs, output)
        } else {
            with_pipes(command, &exec, permit, request.stdin, inputs, output)
        };
        match begun {
            Ok(()) => Ok(session),
            Err(error) => {
                let refusal = std::fs::File::open(exec.log()).map(|log| log.take(LONGEST_REFUSAL));
                exec.clean_up();
                let Begin::Refused = error else { return Err(NodeError::failed(&attempt, &error)) };
                let mut text = String::new();
                let _ = refusal.and_then(|mut log| log.read_to_string(&mut text));
                let reason = last_reason(&text);
                let refused = NodeError::program(&request.args[0], &spec.name, &reason);
                Err(refused.unwrap_or_else(|| NodeError::failed(&attempt, &RuncError::Refused(reason))))
            }
        }
    }
}

/// A program that did not begin.
#[derive(Debug, thiserror::Error)]
enum Begin {
    /// runc says why in its log.
    #[error("runc refused")]
    Refused,
    /// Something around it.
    #[error("cannot start runc")]
    Io(#[from] std::io::Error),
    /// The kernel refused.
    #[error("cannot make a terminal")]
    Terminal(#[from] rustix::io::Errno),
}

fn process(own: &ProcessSpec, request: &ExecRequest, rootfs: &Path) -> Result<ProcessSpec, NodeError> {
    let mut process = own.clone();
    process.args.clone_from(&request.args);
    process.env.extend(request.env.iter().cloned());
    name_terminal(&mut process.env, request.terminal);
    process.terminal = request.terminal;
    if let Some(cwd) = &request.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &request.user {
        (process.uid, process.gid) = resolve_user(user, rootfs)?;
    }
    Ok(process)
}

/// Tells a program on a terminal of which kind it is, unless somebody has.
pub(crate) fn name_terminal(env: &mut Vec<String>, terminal: bool) {
    if terminal && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push(TERMINAL.to_owned());
    }
}

/// Waits until runc has started the program, which it says by a file.
fn await_start(child: &mut Child, exec: &ExecSpec) -> Result<(), Begin> {
    let end = Instant::now() + START;
    let started = exec.pid_file();
    while !started.exists() && Instant::now() < end {
        if child.try_wait()?.is_some() {
            return if started.exists() { Ok(()) } else { Err(Begin::Refused) };
        }
        std::thread::sleep(START_PAUSE);
    }
    Ok(())
}

fn with_pipes(
    mut command: Command,
    exec: &ExecSpec,
    permit: Permit,
    stdin: bool,
    mut inputs: mpsc::Receiver<SessionInput>,
    output: mpsc::Sender<SessionOutput>,
) -> Result<(), Begin> {
    command.stdin(if stdin { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    await_start(&mut child, exec)?;
    let mut theirs: Option<ChildStdin> = child.stdin.take();
    std::thread::spawn(move || {
        while let Some(input) = inputs.blocking_recv() {
            match input {
                SessionInput::Stdin(bytes) => {
                    let written = theirs.as_mut().map(|pipe| std::io::Write::write_all(pipe, &bytes));
                    if matches!(written, Some(Err(_))) {
                        theirs = None;
                    }
                }
                SessionInput::StdinClosed => theirs = None,
                SessionInput::Resize { .. } => {}
            }
        }
    });
    let readers = [
        child.stdout.take().map(|pipe| pass(LogStream::Stdout, pipe, output.clone())),
        child.stderr.take().map(|pipe| pass(LogStream::Stderr, pipe, output.clone())),
    ];
    let exec = exec.clone();
    std::thread::spawn(move || {
        for reader in readers.into_iter().flatten() {
            let _ = reader.join();
        }
        tell_end(child, &exec, permit, &output);
    });
    Ok(())
}

fn with_terminal(
    mut command: Command,
    exec: &ExecSpec,
    permit: Permit,
    mut inputs: mpsc::Receiver<SessionInput>,
    output: mpsc::Sender<SessionOutput>,
) -> Result<(), Begin> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    // runc makes the program's own terminal and copies between that and this one, sizes included.
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    let mut child = new_terminal_session(&mut command).spawn()?;
    drop(command);
    await_start(&mut child, exec)?;
    let writing: OwnedFd = master.try_clone()?;
    std::thread::spawn(move || {
        while let Some(input) = inputs.blocking_recv() {
            match input {
                SessionInput::Stdin(bytes) => {
                    let mut left = &bytes[..];
                    while let Ok(length @ 1..) = rustix::io::write(&writing, left) {
                        left = &left[length..];
                    }
                }
                // A terminal has no end of input; its user types ctrl-d.
                SessionInput::StdinClosed => {}
                SessionInput::Resize { rows, columns } => {
                    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                    let _ = tcsetwinsize(writing.as_fd(), size);
                }
            }
        }
    });
    let reader = pass(LogStream::Stdout, std::fs::File::from(master), output.clone());
    let exec = exec.clone();
    std::thread::spawn(move || {
        let _ = reader.join();
        tell_end(child, &exec, permit, &output);
    });
    Ok(())
}

/// Passes on what is printed until its end; a terminal's end is an error.
fn pass(
    stream: LogStream,
    mut from: impl Read + Send + 'static,
    output: mpsc::Sender<SessionOutput>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; GULP];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if output.blocking_send(SessionOutput::Output(stream, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    })
}

fn tell_end(mut child: Child, exec: &ExecSpec, permit: Permit, output: &mpsc::Sender<SessionOutput>) {
    use std::os::unix::process::ExitStatusExt;
    let message = match child.wait() {
        Ok(status) => {
            let signal = status.signal().map(|signal| 128 + signal);
            SessionOutput::Exited(status.code().or(signal).unwrap_or(128))
        }
        Err(error) => SessionOutput::Failed(error.to_string()),
    };
    exec.clean_up();
    drop(permit);
    let _ = output.blocking_send(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(env: &[&str]) -> ProcessSpec {
        let env = env.iter().map(|&variable| variable.to_owned()).collect();
        let (args, cwd) = (vec!["sh".to_owned()], "/".to_owned());
        ProcessSpec { args, env, cwd, uid: 0, gid: 0, terminal: false, stdin_open: false }
    }

    fn request(user: Option<&str>, terminal: bool) -> ExecRequest {
        let (args, user) = (vec!["id".to_owned()], user.map(str::to_owned));
        ExecRequest { args, env: Vec::new(), cwd: None, user, terminal, stdin: false }
    }

    #[test]
    fn exec_finds_users_by_name_with_their_group() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "nobody:x:65534:65533::/:/bin/sh\n").unwrap();
        let ids =
            |user| process(&own(&[]), &request(Some(user), false), root.path()).map(|found| (found.uid, found.gid));
        assert_eq!(ids("nobody"), Ok((65534, 65533)));
        assert_eq!(ids("5:6"), Ok((5, 6)));
        assert!(ids("no-such-user").is_err());
    }

    #[test]
    fn a_program_on_a_terminal_is_told_of_which_kind() {
        let env = |env: &[&str], terminal| process(&own(env), &request(None, terminal), Path::new("/")).unwrap().env;
        assert_eq!(env(&["A=1"], true), ["A=1", "TERM=xterm"]);
        assert_eq!(env(&["TERM=vt100"], true), ["TERM=vt100"]);
        assert_eq!(env(&["A=1"], false), ["A=1"]);
    }
}
