//! Programs that run beside a container's own, as children of the agent.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drover_api::{ExecRequest, LogStream, SessionInput, SessionOutput};
use drover_container::ExecSpec;
use drover_model::ProcessSpec;
use drover_sys::process::new_terminal_session;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::mpsc;

use crate::container::Container;
use crate::error::NodeError;
use crate::node::{Inner, blocking};
use crate::session::{Session, WAITING};

/// Numbers the files by which runc is told what to run.
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// How much is read at once, in bytes.
const GULP: usize = 32 << 10;

/// How long an execution waits for a container that is frozen for a move.
const MOVING: Duration = Duration::from_secs(30);

/// While it is held the container is not frozen for a move.
type Permit = tokio::sync::OwnedRwLockReadGuard<()>;

/// What ends with the program.
#[derive(Debug)]
struct Execution {
    /// What runc was told to run.
    file: std::path::PathBuf,
    permit: Permit,
}

impl Inner {
    pub(crate) async fn exec(self: &Arc<Self>, wanted: &str, request: ExecRequest) -> Result<Session, NodeError> {
        let container = self.running(wanted, "execute a program in")?;
        let attempt = format!("cannot execute a program in container {}", container.spec().name);
        if request.args.is_empty() {
            return Err(NodeError::invalid(format!("{attempt}: there is none"), "give a command"));
        }
        let permit = Arc::clone(&container.executions).read_owned();
        let Ok(permit) = tokio::time::timeout(MOVING, permit).await else {
            let reason = format!("{attempt}: it is moving to another node");
            return Err(NodeError::conflict(reason, "try again in a moment"));
        };
        // It may have left while this waited.
        let container = self.running(wanted, "execute a program in")?;
        let inner = Arc::clone(self);
        blocking(move || inner.exec_blocking(&container, &request, permit))
            .await
            .map_err(|error| NodeError::failed(&attempt, error.as_ref()))
    }

    fn exec_blocking(
        &self,
        container: &Container,
        request: &ExecRequest,
        permit: Permit,
    ) -> Result<Session, Box<dyn std::error::Error + Send + Sync>> {
        let process = process(&container.spec().process, request)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = container.layout.run.join(format!("exec-{number}.json"));
        let command = self.runc.exec(&container.id, &ExecSpec { process, file: file.clone() })?;
        let (output, outputs) = mpsc::channel(WAITING);
        let (input, inputs) = mpsc::channel(WAITING);
        let session = Session { input, output: outputs };
        if request.terminal {
            with_terminal(command, Execution { file, permit }, inputs, output)?
        } else {
            with_pipes(command, Execution { file, permit }, request.stdin, inputs, output)?
        }
        Ok(session)
    }
}

fn process(own: &ProcessSpec, request: &ExecRequest) -> Result<ProcessSpec, &'static str> {
    let mut process = own.clone();
    process.args.clone_from(&request.args);
    process.env.extend(request.env.iter().cloned());
    process.terminal = request.terminal;
    if let Some(cwd) = &request.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &request.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        process.uid = uid.parse().map_err(|_| "the user must be a number, or two with a colon between")?;
        process.gid = gid.parse().map_err(|_| "the group must be a number")?;
    }
    Ok(process)
}

fn with_pipes(
    mut command: Command,
    execution: Execution,
    stdin: bool,
    mut inputs: mpsc::Receiver<SessionInput>,
    output: mpsc::Sender<SessionOutput>,
) -> std::io::Result<()> {
    command.stdin(if stdin { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
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
    std::thread::spawn(move || {
        for reader in readers.into_iter().flatten() {
            let _ = reader.join();
        }
        tell_end(child, execution, &output);
    });
    Ok(())
}

fn with_terminal(
    mut command: Command,
    execution: Execution,
    mut inputs: mpsc::Receiver<SessionInput>,
    output: mpsc::Sender<SessionOutput>,
) -> std::io::Result<()> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    // runc makes the program's own terminal and copies between that and this one, sizes included.
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    let child = new_terminal_session(&mut command).spawn()?;
    drop(command);
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
    std::thread::spawn(move || {
        let _ = reader.join();
        tell_end(child, execution, &output);
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

fn tell_end(mut child: Child, execution: Execution, output: &mpsc::Sender<SessionOutput>) {
    use std::os::unix::process::ExitStatusExt;
    let message = match child.wait() {
        Ok(status) => {
            let signal = status.signal().map(|signal| 128 + signal);
            SessionOutput::Exited(status.code().or(signal).unwrap_or(128))
        }
        Err(error) => SessionOutput::Failed(error.to_string()),
    };
    let _ = std::fs::remove_file(execution.file);
    drop(execution.permit);
    let _ = output.blocking_send(message);
}
