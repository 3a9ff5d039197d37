//! The shim's own side.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use drover_model::{Explained, LogStream};
use drover_sys::cgroup::{Cgroup, Hierarchies};
use drover_sys::durable;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
use rustix::termios::{Winsize, tcsetwinsize};

use super::output::{Event, Output};
use super::restore::{Armed, arm, restore};
use super::{Channel, Control, Exit, Packet, Reply, Request, ShimSpec};
use crate::Notes;
use crate::log::LogWriter;
use crate::runc::Runc;

/// Why a shim could not do something.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the agent's connections share.
#[derive(Debug)]
struct Server {
    spec: ShimSpec,
    /// The inode of the socket that it listens at.
    socket: Option<u64>,
    runc: Runc,
    container: Cgroup,
    shims: Cgroup,
    output: Arc<Output>,
    /// The first process, once there is one.
    child: Mutex<Option<u32>>,
    exit: Mutex<Option<i32>>,
    /// Told when the program has ended, discarded or not.
    over: (Mutex<bool>, Condvar),
    /// The shim's end of standard input, or the terminal's master.
    input: Mutex<Option<OwnedFd>>,
    discarded: AtomicBool,
    /// What waits for something to restore.
    armed: Mutex<Option<Armed>>,
    fill: Fill,
    /// Told when no page is missing.
    filled: (Mutex<bool>, Condvar),
}

/// How long the streams of a dead container may stay open.
const STREAMS_END: Duration = Duration::from_secs(2);
/// How long connections may go on after the end, to tell of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// Brings a restored container the pages that are in a store, over the socket that CRIU connects to, and those that follow
/// from the source, over agents that connect to `agents`; `pids` lists the container's processes. Tells `filled` when none
/// is missing; what it has not brought by then is zero. It goes on to tell agents so.
pub type Fill = fn(
    store: &Path,
    criu: &UnixListener,
    agents: &Path,
    pids: &(dyn Fn() -> Vec<u32> + Sync),
    filled: &dyn Fn(),
) -> Result<(), Failure>;

/// The whole life of a shim; returns when the container has ended or was discarded.
///
/// # Errors
/// When it cannot be set up.
pub fn serve(spec: &Path, fill: Fill) -> Result<(), Failure> {
    let spec: ShimSpec = serde_json::from_slice(&fs::read(spec)?)?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let hierarchies = Hierarchies::detect(Path::new("/"), &spec.cgroup_base)?;
    let shims = Cgroup::at(&hierarchies, &spec.shims_cgroup)?;
    shims.join_self()?;
    let socket = spec.layout.socket();
    let listener = Channel::listen(&socket)?;
    let server = Arc::new(Server {
        socket: inode(&socket),
        runc: Runc::new(&spec.run),
        container: Cgroup::at(&hierarchies, spec.cgroup.trim_start_matches('/'))?,
        shims,
        output: Output::new(LogWriter::open(&spec.layout.log())?),
        child: Mutex::default(),
        exit: Mutex::default(),
        over: Default::default(),
        input: Mutex::default(),
        discarded: AtomicBool::new(false),
        armed: Mutex::default(),
        fill,
        filled: (Mutex::new(true), Condvar::new()),
        spec,
    });
    loop {
        let channel = Channel::accept(&listener)?;
        let server = Arc::clone(&server);
        std::thread::Builder::new().name("connection".into()).spawn(move || server.converse(&channel))?;
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn converse(self: &Arc<Self>, channel: &Channel) {
        // A connection that breaks concerns nobody but its agent, who will come again.
        let Ok(Some(Packet::Word(request))) = channel.receive::<Request>() else { return };
        let reply = match request {
            Request::Attach => return drop(self.attach(channel)),
            Request::Follow => return drop(self.follow(channel)),
            Request::Wait => {
                self.wait();
                Ok(Reply::Done)
            }
            Request::AwaitFilled => {
                drop(self.filled.1.wait_while(lock(&self.filled.0), |filled| !*filled));
                Ok(Reply::Done)
            }
            Request::Create => self.create().map(|()| Reply::Done),
            Request::Start => self.start().map(|()| Reply::Done),
            Request::Arm => self.arm().map(|()| Reply::Done),
            Request::Restore => self.restore().map(Reply::Restored),
            Request::State => Ok(Reply::State { pid: *lock(&self.child), exit: *lock(&self.exit) }),
            Request::Signal(number) => self.signal(number).map(|()| Reply::Done),
            Request::Drain => self.drain().map(Reply::Drained),
            Request::Discard => {
                self.discarded.store(true, Ordering::SeqCst);
                Ok(Reply::Done)
            }
        };
        let ended = matches!((&request, lock(&self.child).is_none()), (Request::Discard, true));
        let reply = reply.unwrap_or_else(|error| Reply::Failed(Explained::from_chain(error.as_ref())));
        let _ = channel.send(&reply);
        if ended {
            self.leave();
        }
    }

    /// Makes the standard streams: the container's ends, and reading from ours.
    fn streams(&self) -> Result<[OwnedFd; 3], Failure> {
        let (stdin, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        // Without a writer its end is read at once. The node's `/dev/null` would be a file outside of the container,
        // which CRIU does not dump.
        if self.spec.stdin_open {
            *lock(&self.input) = Some(ours);
        }
        let (stdout, stdout_theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        self.output.pump(vec![(LogStream::Stdout, stdout), (LogStream::Stderr, stderr)])?;
        Ok([stdin, stdout_theirs, stderr_theirs])
    }

    fn take_terminal(&self, master: OwnedFd) -> Result<(), Failure> {
        let reading = master.try_clone()?;
        *lock(&self.input) = Some(master);
        Ok(self.output.pump(vec![(LogStream::Stdout, reading)])?)
    }

    fn create(self: &Arc<Self>) -> Result<(), Failure> {
        let layout = &self.spec.layout;
        let pid_file = layout.run.join("init.pid");
        let console = layout.run.join("console.sock");
        let create = |console: Option<&Path>| self.runc.create(&self.spec.id, layout, console, &pid_file);
        let errors = layout.run.join("runc.stderr");
        if self.spec.terminal {
            let _ = fs::remove_file(&console);
            let listener = UnixListener::bind(&console)?;
            let mut child = create(Some(&console)).stdout(Stdio::null()).stderr(File::create(&errors)?).spawn()?;
            // runc connects before it reports success; if it fails it never does, so its end is awaited first.
            let status = child.wait()?;
            self.check(status, &errors)?;
            listener.set_nonblocking(true)?;
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(false)?;
            self.take_terminal(super::channel::receive_descriptor(&stream)?)?;
        } else {
            let [stdin, stdout, stderr] = self.streams()?;
            let status = create(None).stdin(stdin).stdout(stdout).stderr(stderr).status()?;
            self.check(status, &layout.run.join("runc.log"))?;
        }
        let pid: u32 = fs::read_to_string(&pid_file)?.trim().parse()?;
        self.watch(pid)
    }

    /// runc's reason is the last line of what it wrote.
    fn check(&self, status: std::process::ExitStatus, errors: &Path) -> Result<(), Failure> {
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(errors).unwrap_or_default();
        Err(crate::runc::RuncError::Refused(crate::runc::last_reason(&text)).into())
    }

    fn start(&self) -> Result<(), Failure> {
        Ok(self.runc.start(&self.spec.id)?)
    }

    /// Starts what a restore needs before there is anything to restore.
    fn arm(&self) -> Result<(), Failure> {
        let mut armed = lock(&self.armed);
        if armed.is_none() {
            let stdio = if self.spec.terminal { [None, None, None] } else { self.streams()?.map(Some) };
            *armed = Some(arm(&self.spec, stdio, &self.container)?);
        }
        Ok(())
    }

    fn restore(self: &Arc<Self>) -> Result<u32, Failure> {
        self.arm()?;
        let armed = lock(&self.armed).take().ok_or("nothing to restore with")?;
        // The log that was opened at the start has been replaced by the one that travelled.
        self.output.continue_in(LogWriter::open(&self.spec.layout.log())?);
        let unread = Notes::read(&self.spec.layout.images())?.unread_stdin;
        if let Some(input) = lock(&self.input).as_ref().filter(|_| !unread.is_empty()) {
            // It came out of a pipe that may have been made larger: all of it must fit, for nobody reads yet.
            if unread.len() > rustix::pipe::fcntl_getpipe_size(input)? {
                rustix::pipe::fcntl_setpipe_size(input, unread.len())?;
            }
            rustix::io::write(input, &unread)?;
        }
        let lazy_pages = self.begin_filling()?;
        let (pid, master) = restore(&self.spec, armed, &self.container, &self.shims, lazy_pages)?;
        if let Some(master) = master {
            self.take_terminal(master)?;
        }
        self.watch(pid)?;
        Ok(pid)
    }

    /// When pages came before the images did, somebody must bring them. It is done here, for the agent may end meanwhile.
    fn begin_filling(self: &Arc<Self>) -> Result<bool, Failure> {
        /// The name that CRIU connects to, in its working directory.
        const SOCKET: &str = "lazy-pages.socket";
        let layout = &self.spec.layout;
        if !layout.store().exists() {
            return Ok(false);
        }
        let listener = UnixListener::bind(layout.criu_work().join(SOCKET))?;
        *lock(&self.filled.0) = false;
        let server = Arc::clone(self);
        std::thread::Builder::new().name("fill".into()).spawn(move || {
            let filled = || {
                *lock(&server.filled.0) = true;
                server.filled.1.notify_all();
            };
            let layout = &server.spec.layout;
            // What cannot be listed has gone.
            let pids = || server.container.pids().unwrap_or_default();
            if let Err(error) = (server.fill)(&layout.store(), &listener, &layout.relays(), &pids, &filled) {
                // What is missing would be zero from now on. Better no program than one whose memory is wrong; a restore
                // that was broken off has none.
                eprintln!("cannot bring the pages that are missing: {}", Explained::from_chain(error.as_ref()));
                let _ = server.container.kill();
            }
            filled();
        })?;
        Ok(true)
    }

    /// Waits for the first process to end, on a thread of its own.
    fn watch(self: &Arc<Self>, pid: u32) -> Result<(), Failure> {
        *lock(&self.child) = Some(pid);
        let server = Arc::clone(self);
        let child = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            let status = loop {
                match waitpid(Some(child), WaitOptions::empty()) {
                    Ok(Some((_, status))) => break status,
                    Ok(None) | Err(rustix::io::Errno::INTR) => {}
                    // Somebody else took note of its end, which must not keep the shim for ever.
                    Err(_) => return server.ended(128),
                }
            };
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            server.ended(signal.or(status.exit_status()).unwrap_or(128));
        })?;
        Ok(())
    }

    /// The first process has ended; with it, by the rule of process id namespaces, every other one.
    fn ended(&self, status: i32) {
        self.output.wait_ended(STREAMS_END);
        let discarded = self.discarded.load(Ordering::SeqCst);
        if !discarded {
            // Without the record the agent finds neither shim nor status, and says so.
            let _ = self.write_exit(Exit { status });
            *lock(&self.exit) = Some(status);
        }
        self.output.exited((!discarded).then_some(status));
        *lock(&self.over.0) = true;
        self.over.1.notify_all();
        // Those who wait for the status get it from here; those who come later from the file.
        std::thread::sleep(FAREWELL);
        self.leave();
    }

    fn wait(&self) {
        let over = self.over.1.wait_while(lock(&self.over.0), |over| !*over);
        drop(over);
    }

    fn write_exit(&self, exit: Exit) -> io::Result<()> {
        durable::replace(&self.spec.layout.exit(), &serde_json::to_vec(&exit)?)
    }

    fn leave(&self) -> ! {
        // A container that has come back meanwhile has a new shim, which listens at the same path.
        let socket = self.spec.layout.socket();
        if inode(&socket).is_some_and(|found| Some(found) == self.socket) {
            let _ = fs::remove_file(socket);
        }
        std::process::exit(0)
    }

    fn signal(&self, number: i32) -> Result<(), Failure> {
        let child = lock(&self.child);
        if lock(&self.exit).is_some() {
            return Err("the program has ended".into());
        }
        let pid = child.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).ok_or("nothing runs")?;
        let signal = Signal::from_named_raw(number).ok_or("no such signal")?;
        Ok(kill_process(pid, signal)?)
    }

    fn drain(&self) -> Result<Vec<u8>, Failure> {
        self.output.drain();
        let input = lock(&self.input);
        let Some(input) = input.as_ref().filter(|_| !self.spec.terminal) else { return Ok(Vec::new()) };
        // A copy is read: should the move fail, the program shall still find what it has not read.
        let own = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(input)))?;
        let unread = usize::try_from(rustix::io::ioctl_fionread(&own)?)?;
        if unread == 0 {
            return Ok(Vec::new());
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::pipe::fcntl_setpipe_size(&write, unread)?;
        let copied = rustix::pipe::tee(&own, &write, unread, rustix::pipe::SpliceFlags::NONBLOCK)?;
        let mut bytes = vec![0; copied];
        let length = rustix::io::read(&read, &mut bytes[..])?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Tells the connection what is printed, and takes what it sends, until either ends.
    fn attach(self: &Arc<Self>, channel: &Channel) -> io::Result<()> {
        let (backlog, events) = self.output.attach();
        channel.send(&Reply::Done)?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.take_input(channel);
                channel.close();
            });
            let tell = || -> io::Result<()> {
                for (stream, bytes) in backlog {
                    channel.send_bytes(number(stream), &bytes)?;
                }
                for event in events {
                    match event {
                        Event::Printed(stream, bytes) => channel.send_bytes(number(stream), &bytes)?,
                        Event::Exited(status) => channel.send(&Reply::Exited(status))?,
                        Event::Logged(_) => {}
                    }
                }
                Ok(())
            };
            let told = tell();
            channel.close();
            told
        })
    }

    fn take_input(&self, channel: &Channel) {
        while let Ok(Some(packet)) = channel.receive::<Control>() {
            match packet {
                Packet::Bytes(0, bytes) => self.write_input(&bytes),
                Packet::Bytes(..) => {}
                Packet::Word(Control::StdinClosed) if !self.spec.terminal => *lock(&self.input) = None,
                Packet::Word(Control::StdinClosed) => {}
                Packet::Word(Control::Resize { rows, columns }) => {
                    if let Some(input) = lock(&self.input).as_ref().filter(|_| self.spec.terminal) {
                        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                        // A terminal that is just going away has no size.
                        let _ = tcsetwinsize(input, size);
                    }
                }
            }
        }
    }

    fn write_input(&self, mut bytes: &[u8]) {
        // Written outside the lock: a program that reads nothing must not stop a drain.
        let Some(Ok(input)) = lock(&self.input).as_ref().map(|input| input.as_fd().try_clone_to_owned()) else {
            return;
        };
        while !bytes.is_empty() {
            match rustix::io::write(&input, bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(rustix::io::Errno::INTR) => {}
                // A terminal's master is non-blocking, as it is read so.
                Err(rustix::io::Errno::AGAIN) => {
                    let mut waiting = [rustix::event::PollFd::new(&input, rustix::event::PollFlags::OUT)];
                    if rustix::event::poll(&mut waiting, None).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Tells the connection all that is in the log and all that comes.
    fn follow(&self, channel: &Channel) -> io::Result<()> {
        let (reader, events) = self.output.follow(&self.spec.layout.log())?;
        channel.send(&Reply::Done)?;
        for record in reader {
            channel.send(&Reply::Record(record))?;
        }
        for event in events {
            match event {
                Event::Logged(record) => channel.send(&Reply::Record(record))?,
                Event::Exited(status) => channel.send(&Reply::Exited(status))?,
                Event::Printed(..) => {}
            }
        }
        Ok(())
    }
}

fn number(stream: LogStream) -> u8 {
    match stream {
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
    }
}
