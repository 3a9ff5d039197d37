//! A CRIU process that waits for one request.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use drover_sys::interpose::{Answer, Calls, Question, hand_out_shared, interpose};
use drover_sys::process::{new_session, pass_descriptors};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType, recvmsg,
    send, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::conntrack;
use super::coverage::Coverage;
use super::mappings::{Mappings, Teller, Told};
use super::rlimits;
use super::rpc::{Features, Options, Request, Response};
use super::yard;

/// What is asked of CRIU; the numbers are `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum RequestKind {
    /// Dump a tree of processes.
    Dump = 1,
    /// Restore one.
    Restore = 2,
}

const NOTIFY: i32 = 6;
const FEATURE_CHECK: i32 = 9;
const VERSION: i32 = 10;

/// A step that CRIU has come to; it waits until it is answered.
#[derive(Debug)]
pub struct Notification {
    /// The step's name, as for an action script: `post-dump`, `pre-resume`, ...
    pub step: String,
    /// The process concerned, where there is one.
    pub pid: Option<i32>,
    /// What came with it: the master of a restored terminal (`orphan-pts-master`).
    pub descriptor: Option<OwnedFd>,
}

/// Why CRIU did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// There is no CRIU, or it does not start.
    #[error("cannot start criu")]
    Start(#[source] io::Error),
    /// The socket broke: CRIU died.
    #[error("criu died")]
    Died(#[source] io::Error),
    /// It did not answer within the time allowed.
    #[error("criu did not answer within {0:?}")]
    Silent(Duration),
    /// An answer that is none of CRIU's.
    #[error("cannot decode criu's answer")]
    Decode(#[source] prost::DecodeError),
    /// It refused, for this reason in its own words.
    #[error("criu refused: {0}")]
    Refused(String),
}

/// A CRIU process that waits for its request. Dropping it ends it.
#[derive(Debug)]
pub struct Worker {
    socket: OwnedFd,
    child: Child,
    known: Arc<OnceLock<Known>>,
}

/// What we know better, or quicker, than the kernel tells CRIU.
#[derive(Debug)]
pub(crate) struct Known {
    coverage: Coverage,
    mappings: Teller,
}

impl Known {
    /// What CRIU was told of mappings; it has ended.
    pub fn told(&self) -> Told {
        self.mappings.told()
    }
}

/// The number at which the worker finds its end of the socket pair.
const SOCKET: RawFd = 3;
/// How willingly the kernel ends a process when memory runs out.
const NEVER: &str = "-1000";
/// The longest message: responses are small, error messages included.
const LONGEST: usize = 64 << 10;

impl Worker {
    /// Starts CRIU; it finds each descriptor at the number beside it (4 to 99).
    ///
    /// # Errors
    /// When there is none.
    pub fn start(descriptors: Vec<(OwnedFd, RawFd)>) -> Result<Self, CriuError> {
        Self::spawn(Command::new("criu"), descriptors)
    }

    /// Starts CRIU as `start` does; what it needs for a dump and the kernel keeps from it, we tell it.
    ///
    /// # Errors
    /// When there is none.
    pub fn start_for_dump(mut descriptors: Vec<(OwnedFd, RawFd)>) -> Result<Self, CriuError> {
        let mut command = Command::new("criu");
        let (calls, passed) = interpose(&mut command).map_err(CriuError::Start)?;
        descriptors.extend(passed);
        let worker = Self::spawn(command, descriptors)?;
        let (criu, known) = (worker.pid(), Arc::clone(&worker.known));
        // What it dumps runs code of CRIU's for a while, and not all of that comes to an end without it. Without CAP_SYS_RESOURCE
        // it is as likely to be chosen as the agent is.
        let _ = fs::write(format!("/proc/{criu}/oom_score_adj"), NEVER);
        // It ends with CRIU: then nobody is left to ask.
        let answering =
            std::thread::Builder::new().name("criu-calls".into()).spawn(move || answer(&calls, criu, &known));
        answering.map_err(CriuError::Start)?;
        worker.warm_up()?;
        Ok(worker)
    }

    /// Starts CRIU as `start` does; shared memory that is there already it takes as it is.
    ///
    /// # Errors
    /// When there is none.
    pub fn start_for_restore(mut descriptors: Vec<(OwnedFd, RawFd)>) -> Result<Self, CriuError> {
        let mut command = Command::new("criu");
        descriptors.push(hand_out_shared(&mut command).map_err(CriuError::Start)?);
        let worker = Self::spawn(command, descriptors)?;
        worker.warm_up()?;
        Ok(worker)
    }

    /// Has CRIU find out now what the kernel can do. It keeps that in a file until the next boot; the first time it takes
    /// 50 ms, which would be a part of somebody's pause. The answer is left to `request`.
    fn warm_up(&self) -> Result<(), CriuError> {
        let (keep_open, features) = (Some(true), Some(Features {}));
        self.send(&Request { kind: FEATURE_CHECK, keep_open, features, ..Request::default() })
    }

    /// What a dump is to leave out, and what is known of the mappings. Before the request.
    pub(crate) fn know(&self, coverage: Coverage, mappings: Mappings) -> Arc<OnceLock<Known>> {
        let _ = self.known.set(Known { coverage, mappings: Teller::new(mappings) });
        Arc::clone(&self.known)
    }

    fn spawn(mut command: Command, mut descriptors: Vec<(OwnedFd, RawFd)>) -> Result<Self, CriuError> {
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| CriuError::Start(error.into()))?;
        descriptors.push((theirs, SOCKET));
        command.args(["swrk", &SOCKET.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        new_session(&mut command);
        pass_descriptors(&mut command, descriptors);
        let child = command.spawn().map_err(CriuError::Start)?;
        Ok(Self { socket, child, known: Arc::default() })
    }

    /// CRIU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A handle by which it can be killed while its request is under way.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Makes the request and sees it through: `answer` hears each step and says whether CRIU shall go on. Gives the
    /// process id of a restored tree.
    ///
    /// # Errors
    /// When CRIU refuses, dies, or says nothing for as long as `patience`. A refusal carries the first errors of the
    /// log file that the options name in `work`.
    pub fn request(
        mut self,
        kind: RequestKind,
        options: Options,
        work: &Path,
        patience: Duration,
        mut answer: impl FnMut(Notification) -> bool,
    ) -> Result<Option<i32>, CriuError> {
        let log = work.join(options.log_file.as_deref().unwrap_or_default());
        self.send(&Request { kind: kind as i32, options: Some(options), ..Request::default() })?;
        loop {
            let (response, descriptor) = self.receive(patience)?;
            if response.kind == FEATURE_CHECK {
                continue;
            }
            if response.kind == NOTIFY {
                let notify = response.notify.unwrap_or_default();
                let step = notify.script.unwrap_or_default();
                let go_on = answer(Notification { step, pid: notify.pid, descriptor });
                self.send(&Request { kind: NOTIFY, notify_success: Some(go_on), ..Request::default() })?;
            } else if response.success {
                // It ends by itself; waiting for that here leaves no zombie.
                let _ = self.child.wait();
                return Ok(response.restore.map(|restored| restored.pid));
            } else {
                return Err(CriuError::Refused(explain(&response, &log)));
            }
        }
    }

    fn send(&self, request: &Request) -> Result<(), CriuError> {
        let sent = send(&self.socket, &request.encode_to_vec(), SendFlags::NOSIGNAL);
        sent.map(drop).map_err(|error| CriuError::Died(error.into()))
    }

    fn receive(&self, patience: Duration) -> Result<(Response, Option<OwnedFd>), CriuError> {
        let ended = self.handle().map_err(CriuError::Died)?;
        await_readable(&self.socket, &ended, patience)?;
        let mut buffer = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
                .map_err(|error| CriuError::Died(error.into()))?;
        if received.bytes == 0 {
            return Err(CriuError::Died(io::ErrorKind::UnexpectedEof.into()));
        }
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let response = Response::decode(&buffer[..received.bytes]).map_err(CriuError::Decode)?;
        Ok((response, descriptor))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail once it has ended and been waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        yard::remove(self.child.id());
    }
}

fn answer(calls: &Calls, criu: u32, known: &OnceLock<Known>) {
    let limits_hidden = rlimits::hidden();
    let answered = calls.answer(|question| match *question {
        Question::Limit { .. } if !limits_hidden => Answer::Pass,
        // When we do not know either, the kernel says why.
        Question::Limit { pid, resource } => {
            rlimits::limit(pid, resource).map_or(Answer::Pass, |(soft, hard)| Answer::Limit { soft, hard })
        }
        Question::Tracked { pid } if conntrack::tracks_nothing(pid) => Answer::None,
        Question::Tracked { .. } => Answer::Pass,
        Question::Scan { descriptor, start, end } => {
            known.get().map_or(Answer::Pass, |known| known.coverage.answer(criu, descriptor, start, end))
        }
        Question::Entries { pid, descriptor, start, end } => {
            known.get().map_or(Answer::Pass, |known| known.coverage.answer(pid, descriptor, start, end))
        }
        Question::Data { pid, descriptor } => {
            known.get().map_or(Answer::Pass, |known| known.coverage.answer_data(pid, descriptor))
        }
        Question::Mappings { pid, directory } => {
            known.get().map_or(Answer::Pass, |known| known.mappings.answer(pid, directory))
        }
    });
    if let Err(error) = answered {
        tracing::warn!(%error, "cannot answer criu's questions");
    }
}

/// Waits for a message. Whether CRIU has `ended` counts, too: the processes that it makes have its end of the socket, and
/// live on without it.
fn await_readable(socket: impl AsFd, ended: impl AsFd, patience: Duration) -> Result<(), CriuError> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut waiting = [PollFd::new(&socket, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        match poll(&mut waiting, Some(&left)) {
            Ok(0) => return Err(CriuError::Silent(patience)),
            Ok(_) if !waiting[0].revents().is_empty() => return Ok(()),
            // Nothing is said after its end; what it said just before that was there already.
            Ok(_) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                return match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&now)) {
                    Ok(1) => Ok(()),
                    _ => Err(CriuError::Died(io::ErrorKind::UnexpectedEof.into())),
                };
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(CriuError::Died(error.into())),
        }
    }
}

/// CRIU's reason: its message and the first errors of its log, which name the process, descriptor or mount.
fn explain(response: &Response, log: &Path) -> String {
    const MOST: usize = 3;
    /// It says so wherever root lacks CAP_SYS_RESOURCE, and goes on.
    const HARMLESS: &str = "Can't setup RLIMIT_NOFILE for self";
    let mut reasons: Vec<String> = Vec::new();
    if let Ok(text) = fs::read(log) {
        let text = String::from_utf8_lossy(&text);
        let errors = text.lines().filter_map(|line| line.split_once("Error (").map(|(_, rest)| rest));
        let errors = errors.map(|rest| rest.split_once("): ").map_or(rest, |(_, why)| why));
        reasons.extend(errors.filter(|why| !why.contains(HARMLESS)).take(MOST).map(str::to_owned));
    }
    if reasons.is_empty() {
        reasons.extend(response.message.clone());
    }
    if reasons.is_empty() {
        let errno = response.errno.filter(|errno| *errno != 0);
        let errno = errno.map(|errno| io::Error::from_raw_os_error(errno).to_string());
        reasons.push(errno.unwrap_or_else(|| "it gave no reason".to_owned()));
    }
    reasons.join("; ")
}

/// CRIU's version, `major.minor.sublevel`.
///
/// # Errors
/// When there is no CRIU that answers.
pub fn version() -> Result<(u32, u32, u32), CriuError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let worker = Worker::start(Vec::new())?;
    worker.send(&Request { kind: VERSION, ..Request::default() })?;
    let version = worker.receive(PATIENCE)?.0.version.unwrap_or_default();
    let part = |number: i32| u32::try_from(number).unwrap_or(0);
    Ok((part(version.major), part(version.minor), part(version.sublevel.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A restore whose CRIU was killed while processes that it had made lived on was waited for to the end of all patience,
    /// and the container stood still as long.
    #[test]
    fn a_criu_that_has_died_is_noticed_though_what_it_has_made_lives_on() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("criu");
        fs::write(&script, "#!/bin/sh\ncat <&3 >/dev/null &\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let worker = Worker::spawn(Command::new(&script), Vec::new()).unwrap();
        let begin = Instant::now();
        let patience = Duration::from_secs(60);
        assert!(matches!(worker.receive(patience), Err(CriuError::Died(_))));
        assert!(begin.elapsed() < patience / 2);
    }
}
