//! The agent's side of a shim.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drover_model::Explained;
use drover_sys::process::new_session;

use super::{Channel, Packet, Reply, Request, ShimSpec};

/// A shim that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shim {
    socket: PathBuf,
}

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It cannot be started.
    #[error("cannot start the container's shim")]
    Start(#[source] io::Error),
    /// It cannot be reached: it has ended, and the container with it.
    #[error("cannot reach the container's shim")]
    Gone(#[source] io::Error),
    /// It answered something else.
    #[error("the container's shim gave an unexpected answer")]
    Unexpected,
    /// It tried and failed.
    #[error("{0}")]
    Failed(Explained),
}

/// How long a shim may take to listen once it was started.
const START: Duration = Duration::from_secs(10);
/// How long a shim may take to answer; a restore has CRIU's own bounds below this.
const ANSWER: Duration = Duration::from_secs(150);

/// The stack of a thread that does nothing but wait; there is one for each container.
const REAP_STACK: usize = 64 << 10;

impl Shim {
    /// The shim that listens at `socket`.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Starts a shim: `program shim FILE`, in a session of its own.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub fn start(program: &Path, spec: &ShimSpec) -> Result<Self, ShimError> {
        let failed = ShimError::Start;
        let socket = spec.layout.socket();
        let file = spec.layout.run.join("shim.json");
        std::fs::write(&file, serde_json::to_vec(spec).map_err(|error| failed(error.into()))?).map_err(failed)?;
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let errors = std::fs::File::create(spec.layout.run.join("shim.log")).map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("shim").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let mut child = new_session(&mut command).spawn().map_err(failed)?;
        let until = Instant::now() + START;
        loop {
            if Channel::connect(&socket).is_ok() {
                // The agent is its parent for now and must reap it; after a restart of the agent the system does.
                let reaping = std::thread::Builder::new().name("reap".into()).stack_size(REAP_STACK);
                reaping.spawn(move || child.wait()).map(drop).map_err(failed)?;
                return Ok(Self { socket });
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(failed(io::Error::other(format!("it ended at once with {status}"))));
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks, and gives the answer with the connection, on which more may come.
    ///
    /// # Errors
    /// When the shim is gone or failed.
    pub fn ask(&self, request: &Request) -> Result<(Reply, Channel), ShimError> {
        let channel = Channel::connect(&self.socket).map_err(ShimError::Gone)?;
        // Those take as long as they take.
        let patience = (!matches!(request, Request::Wait | Request::AwaitFilled)).then_some(ANSWER);
        channel.set_patience(patience).map_err(ShimError::Gone)?;
        channel.send(request).map_err(ShimError::Gone)?;
        let reply = match channel.receive().map_err(ShimError::Gone)? {
            Some(Packet::Word(Reply::Failed(why))) => return Err(ShimError::Failed(why)),
            Some(Packet::Word(reply)) => reply,
            Some(Packet::Bytes(..)) => return Err(ShimError::Unexpected),
            None => return Err(ShimError::Gone(io::ErrorKind::UnexpectedEof.into())),
        };
        channel.set_patience(None).map_err(ShimError::Gone)?;
        Ok((reply, channel))
    }

    /// Asks for something that is answered by `Done`.
    ///
    /// # Errors
    /// As `ask`.
    pub fn order(&self, request: &Request) -> Result<Channel, ShimError> {
        match self.ask(request)? {
            (Reply::Done, channel) => Ok(channel),
            _ => Err(ShimError::Unexpected),
        }
    }

    /// The first process and, once the program has ended, its status.
    ///
    /// # Errors
    /// As `ask`.
    pub fn state(&self) -> Result<(Option<u32>, Option<i32>), ShimError> {
        match self.ask(&Request::State)?.0 {
            Reply::State { pid, exit } => Ok((pid, exit)),
            _ => Err(ShimError::Unexpected),
        }
    }

    /// Logs all that the frozen container has printed; gives what it has not read.
    ///
    /// # Errors
    /// As `ask`.
    pub fn drain(&self) -> Result<Vec<u8>, ShimError> {
        match self.ask(&Request::Drain)?.0 {
            Reply::Drained(unread) => Ok(unread),
            _ => Err(ShimError::Unexpected),
        }
    }

    /// Waits until no page of a restored container is missing any more: before that nobody sees which pages it has.
    ///
    /// # Errors
    /// As `ask`.
    pub fn await_filled(&self) -> Result<(), ShimError> {
        self.ask(&Request::AwaitFilled).map(drop)
    }

    /// Restores the container; gives its first process.
    ///
    /// # Errors
    /// As `ask`.
    pub fn restore(&self) -> Result<u32, ShimError> {
        match self.ask(&Request::Restore)?.0 {
            Reply::Restored(pid) => Ok(pid),
            _ => Err(ShimError::Unexpected),
        }
    }
}
