//! What the source does at each step of a migration. Everything here blocks.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use drover_container::criu::{Coverage, Mappings, Sleepers, Unconfirmed, Worker, is_starting};
use drover_container::{DumpRequest, PAGE_SERVER, dump};
use drover_disk::delta::{self, Having};
use drover_disk::layer;
use drover_memory::{Last, Rest, Rounds, Sums, Tracker};
use drover_model::{Bytes, ContainerState, Explained, Neighbour, PageCount, Settings};
use drover_network::Gate;
use drover_protocol::WantedLayer;
use drover_sys::repair::end_repair;
use tokio::sync::OwnedRwLockWriteGuard;

use crate::container::{Container, lock};
use crate::crossing;
use crate::error::failure;
use crate::link::StreamSender;
use crate::node::Inner;
use crate::offer::refuse_strangers;
use crate::place;
use crate::volumes::Fate;

mod copy;
mod told;

use copy::Revocable;
pub(crate) use told::Told;

/// How long the last process may take to stand still.
const FREEZE: Duration = Duration::from_secs(5);
/// How often a container is frozen anew that cannot be dumped as it stands, and how long it goes on in between.
const ATTEMPTS: u32 = 200;
const MOMENT: Duration = Duration::from_millis(3);

/// What is ready for the dump.
#[derive(Debug)]
struct Ready {
    worker: Worker,
    pages: OwnedFd,
    neighbours: Vec<Neighbour>,
    unread_stdin: Vec<u8>,
    sleepers: Sleepers,
}

/// A container that is about to leave.
#[derive(Debug)]
pub(crate) struct Departure {
    inner: Arc<Inner>,
    container: Arc<Container>,
    ready: Option<Ready>,
    /// Why it cannot be made ready for the dump.
    unprepared: Option<Explained>,
    reins: Reins,
    /// What is followed and sent while it runs.
    rounds: Option<Rounds<Revocable>>,
    /// The trees of files that travel, once a round has begun.
    files: Option<delta::Source<Revocable>>,
    /// Set when the rounds have become pointless: nobody shall wait for the rest of one.
    given_up: Arc<AtomicBool>,
    settings: Settings,
    /// Whether the target has had what it wanted of the image.
    image_sent: bool,
    /// What the target has of the files already, once it has been heard.
    told: Told,
    /// The same, when the container is frozen without a round: nobody shall wait for it then.
    having: Option<Having>,
    /// What has been sent in rounds.
    sums: Arc<Mutex<Sums>>,
    /// What was followed until it was frozen.
    trackers: Vec<Tracker>,
    /// The flags of its mappings, for the dump.
    mappings: Mappings,
    /// What the dump relied on, to be confirmed before the target may run what was dumped.
    confirmation: Option<JoinHandle<Result<(), Unconfirmed>>>,
    /// When it was looked at last, and how much processor time had been used by then, in nanoseconds.
    used: Option<(Instant, u64)>,
    /// How much of a processor it used before that, in thousandths.
    uses: Option<u32>,
    /// The same before it was slowed.
    unslowed: Option<u32>,
    /// Held from the freeze until the container runs again, here or elsewhere: nobody executes anything in it.
    alone: Option<OwnedRwLockWriteGuard<()>>,
}

/// Freezes a container in a moment in which no program is being started in it. Gives what its threads were doing.
fn freeze_where_it_can_be_dumped(container: &Container) -> Result<Sleepers, Explained> {
    let attempt = "cannot freeze the container";
    for _ in 0..ATTEMPTS {
        let sleepers = container.look_at_sleepers();
        container.cgroup.freeze(FREEZE).map_err(|error| failure(attempt, &error))?;
        if !is_starting(&container.cgroup.pids().map_err(|error| failure(attempt, &error))?) {
            return Ok(sleepers);
        }
        container.cgroup.thaw().map_err(|error| failure(attempt, &error))?;
        std::thread::sleep(MOMENT);
    }
    let reason = format!("{attempt}: a process in it is starting a program that does not begin (vfork)");
    Err(Explained { reason, hint: Some("it goes on here as before; move it again".to_owned()) })
}

/// What crossed while the container was frozen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Crossed {
    /// Pages.
    pub pages: PageCount,
    /// Bytes of its files.
    pub files: Bytes,
}

/// What is left of the rounds when the dump begins.
type Remaining = Option<Rest<Revocable>>;

/// Sends the rest, and ends the stream. Gives what was sent in all rounds.
fn finish_rounds(rest: Rest<Revocable>) -> Result<Sums, Explained> {
    let attempt = "cannot send shared memory";
    let (sums, out) = rest.send().map_err(|error| failure(attempt, &error))?;
    out.out.finish().map_err(|error| failure(attempt, &error))?;
    Ok(sums)
}

/// The CRIU process that dumps, for whoever must end it while it dumps.
pub(crate) type Reins = Arc<Mutex<Option<OwnedFd>>>;

impl Departure {
    pub fn new(inner: Arc<Inner>, container: Arc<Container>, settings: Settings) -> Self {
        Self {
            inner,
            container,
            ready: None,
            unprepared: None,
            reins: Arc::default(),
            rounds: None,
            files: None,
            image_sent: false,
            given_up: Arc::default(),
            settings,
            told: Told::default(),
            having: None,
            sums: Arc::default(),
            trackers: Vec::new(),
            mappings: Mappings::default(),
            confirmation: None,
            used: None,
            uses: None,
            unslowed: None,
            alone: None,
        }
    }

    /// To be set when the migration is given up while it copies.
    pub fn given_up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.given_up)
    }

    /// What has been sent in rounds by now.
    pub fn sums(&self) -> Arc<Mutex<Sums>> {
        Arc::clone(&self.sums)
    }

    /// Where the target is heard.
    pub fn told(&self) -> Told {
        self.told.clone()
    }

    pub fn reins(&self) -> Reins {
        Arc::clone(&self.reins)
    }

    /// Sends layers of the image.
    pub fn send_image(&mut self, layers: &[WantedLayer], out: StreamSender) -> Result<(), Explained> {
        if std::mem::replace(&mut self.image_sent, true) {
            let reason = "cannot send the image: the target wants layers of it again and again";
            return Err(Explained { reason: reason.into(), hint: None });
        }
        crossing::send(
            &self.inner.images,
            &self.container.spec().image_digest,
            layers,
            self.settings.compression,
            &self.given_up,
            out,
        )
    }

    /// Makes ready what the dump needs while the container still runs: CRIU starts, and waits. Whoever needs it next is told
    /// if that fails.
    pub fn prepare(&mut self) {
        if !self.settings.sync {
            self.unprepared = self.make_ready().err();
        }
    }

    fn make_ready(&mut self) -> Result<(), Explained> {
        let attempt = "cannot prepare the checkpoint";
        place::make_checkpoint(&self.container.layout)?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| failure(attempt, &error))?;
        let worker = Worker::start_for_dump(vec![(theirs.into(), PAGE_SERVER)]);
        let worker = worker.map_err(|error| failure(attempt, &error))?;
        *lock(&self.reins) = Some(worker.handle().map_err(|error| failure(attempt, &error))?);
        // Opened now, for that takes longer than to use it.
        self.container.wire().map_err(|error| error.explained().clone())?;
        self.look_at_mappings();
        let (neighbours, unread_stdin, sleepers) = Default::default();
        self.ready = Some(Ready { worker, pages: ours.into(), neighbours, unread_stdin, sleepers });
        Ok(())
    }

    /// Freezes the container. Its gate is closed later, when CRIU is about to look at the sockets: a request that comes
    /// until then waits in its socket and is dumped with it; one that comes later finds nobody and is sent again.
    pub fn freeze(&mut self, alone: OwnedRwLockWriteGuard<()>) -> Result<(), Explained> {
        let attempt = "cannot freeze the container";
        if self.files.is_none() {
            self.having = Some(self.told.take()?);
        }
        self.alone = Some(alone);
        let unprepared = || Explained { reason: format!("{attempt}: it is not prepared"), hint: None };
        let ready = self.ready.as_mut().ok_or_else(|| self.unprepared.take().unwrap_or_else(unprepared))?;
        let wire = self.container.wire().map_err(|error| error.explained().clone())?;
        ready.neighbours = wire.neighbours().map_err(|error| failure(attempt, &error))?;
        self.container.show(ContainerState::Frozen);
        ready.sleepers = freeze_where_it_can_be_dumped(&self.container)?;
        refuse_strangers(&self.container)?;
        ready.unread_stdin = self.container.shim().drain().map_err(|error| failure(attempt, &error))?;
        Ok(())
    }

    /// Dumps the processes; meanwhile their memory crosses, or is only named when it `follows`, and what was changed in
    /// their files. Gives what crossed.
    pub fn checkpoint(
        &mut self,
        out: StreamSender,
        pages_out: StreamSender,
        files_out: StreamSender,
        follows: bool,
    ) -> Result<Crossed, Explained> {
        // They set out first: behind the last pages they would wait for the link.
        let mut files = self.take_files(files_out)?;
        let (memory, files, sent) = std::thread::scope(|scope| {
            let sending = scope.spawn(move || {
                let sent = copy::end_files(&mut files);
                (files, sent)
            });
            let memory = self.dump_processes(out, pages_out, follows);
            if memory.is_err() {
                // The container waits to go on: the rest is pointless.
                self.given_up.store(true, Ordering::Relaxed);
            }
            let (files, sent) = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (memory, files, sent)
        });
        // Whatever has become of them: to drop them takes a while.
        self.files = Some(files);
        Ok(Crossed { pages: memory?, files: sent? })
    }

    /// Dumps the processes; meanwhile their memory crosses, or is only named when it `follows`. Gives how much crossed.
    fn dump_processes(
        &mut self,
        out: StreamSender,
        pages_out: StreamSender,
        follows: bool,
    ) -> Result<PageCount, Explained> {
        let attempt = "cannot checkpoint the container";
        let missing = || Explained { reason: format!("{attempt}: it is not frozen"), hint: None };
        let Ready { worker, pages, neighbours, unread_stdin, sleepers } = self.ready.take().ok_or_else(missing)?;
        let layout = self.container.layout.clone();
        let pid = self.container.pid().ok_or_else(missing)?;
        let wire = self.container.wire().map_err(|error| error.explained().clone())?;
        let freezer = self.container.cgroup.freezer_path().ok_or_else(missing)?;
        let processes = self.container.cgroup.pids().map_err(|error| failure(attempt, &error))?;
        let (coverage, sent, rest) = self.end_rounds(pages_out, &processes, follows)?;
        std::thread::scope(|scope| {
            let finishing = scope.spawn(move || rest.map(finish_rounds).transpose());
            let serving = scope.spawn(move || {
                let mut out = out;
                let served = drover_memory::serve(pages, &mut out);
                let served = served.map_err(|error| failure("cannot send memory", &error))?;
                out.finish().map_err(|error| failure("cannot send memory", &error))?;
                Ok::<_, Explained>(served.pages)
            });
            let terminal = self.container.spec().process.terminal;
            let request = DumpRequest {
                layout,
                pid,
                processes,
                freezer,
                terminal,
                unread_stdin,
                neighbours,
                sleepers,
                coverage,
                deleted_files: self.settings.deleted_files(),
                mappings: std::mem::take(&mut self.mappings),
                worker,
            };
            let mut uncut = None;
            let dumped = dump(request, || match wire.set_gate(Gate::Closed) {
                Ok(()) => true,
                Err(error) => {
                    uncut = Some(failure("cannot close the container's gate", &error));
                    false
                }
            });
            // When the dump fails its socket closes, and serving ends; when serving fails the dump does. The cause is
            // whichever came first, which is the link's if it broke.
            let served = serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if dumped.is_err() {
                // The container waits to go on: the rest is pointless.
                self.given_up.store(true, Ordering::Relaxed);
            }
            if let Some(why) = uncut {
                return Err(why);
            }
            *lock(&self.reins) = None;
            let told = dumped.map_err(|error| failure(attempt, &error))?;
            let confirming = std::thread::Builder::new().name("confirm".into()).spawn(move || told.confirm());
            self.confirmation = Some(confirming.map_err(|error| failure(attempt, &error))?);
            let rest = finishing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let mut crossed = served?.0 + sent.0;
            if let Some(all) = rest {
                let before = std::mem::replace(&mut *lock(&self.sums), all);
                crossed += all.since(before).pages;
            }
            Ok(PageCount(crossed))
        })
    }

    /// Sends what was written since the last round, or names it when it `follows`; gives what CRIU need not dump, and what
    /// may cross while it dumps.
    fn end_rounds(
        &mut self,
        pages_out: StreamSender,
        pids: &[u32],
        follows: bool,
    ) -> Result<(Coverage, PageCount, Remaining), Explained> {
        let attempt = "cannot send memory";
        if self.rounds.is_none() && !follows {
            pages_out.finish().map_err(|error| failure(attempt, &error))?;
            return Ok((Coverage::default(), PageCount(0), None));
        }
        let rounds = self.rounds(pages_out).map_err(|error| failure(attempt, &error))?;
        let last = if follows { rounds.last_follows(pids) } else { rounds.last(pids) };
        let Last { covered, shared, pages, sums, following, rest, trackers } =
            last.map_err(|error| failure(attempt, &error))?;
        *lock(&self.sums) = sums;
        tracing::debug!(pages = pages.0, following = following.0, "last pages");
        self.trackers = trackers;
        Ok((Coverage { pages: covered, shared }, pages, Some(rest)))
    }

    /// Sends what is left: CRIU's images.
    pub fn transfer(&self, out: StreamSender) -> Result<(), Explained> {
        self.container.volumes.sync(&self.container.spec())?;
        let attempt = "cannot send the checkpoint";
        let mut out = io::BufWriter::with_capacity(1 << 20, out);
        layer::pack(&self.container.layout.images(), &mut out).map_err(|error| failure(attempt, &error))?;
        let out = out.into_inner().map_err(|error| failure(attempt, error.error()))?;
        out.finish().map_err(|error| failure(attempt, &error))
    }

    /// Confirms what the dump relied on, which has been looked at since: the target must not run it otherwise.
    pub fn confirm(&mut self) -> Result<(), Explained> {
        let Some(confirmation) = self.confirmation.take() else { return Ok(()) };
        let confirmed = confirmation.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        confirmed.map_err(|error| {
            let hint = Some("it goes on here as before; move it again".to_owned());
            Explained { hint, ..failure("the checkpoint cannot be relied on", &error) }
        })
    }

    /// Undoes the freeze. The gate opens first, so that the first packet passes.
    pub fn thaw(&mut self) -> Result<(), Explained> {
        // Whoever watches over CRIU freezes nothing any more.
        *lock(&self.reins) = None;
        self.ready = None;
        self.rounds = None;
        let wire = self.container.wire().map_err(|error| error.explained().clone())?;
        wire.set_gate(Gate::Open).map_err(|error| failure("cannot open the container's gate", &error))?;
        self.end_repair();
        self.container.cgroup.thaw().map_err(|error| failure("cannot thaw the container", &error))?;
        self.hasten();
        self.container.show(ContainerState::Running);
        self.alone = None;
        self.trackers = Vec::new();
        Ok(())
    }

    /// A CRIU that was killed has left connections that carry nothing.
    fn end_repair(&self) {
        for pid in self.container.cgroup.pids().unwrap_or_default() {
            match end_repair(pid) {
                Ok(0) => {}
                Ok(connections) => {
                    tracing::warn!(pid, connections, "criu was killed: its work at connections is ended")
                }
                Err(error) => tracing::warn!(pid, %error, "cannot see whether connections are in repair"),
            }
        }
    }

    /// Removes what was prepared, when the container stays.
    pub fn clean_up(&mut self) {
        self.hasten();
        self.ready = None;
        self.rounds = None;
        // The kernel takes its time to end what told us of pages.
        let files = self.files.take();
        std::thread::spawn(move || drop(files));
        if self.inner.registry.has(&self.container) {
            place::remove_checkpoint(&self.container.layout);
        }
    }

    /// Destroys what is left here. The gate is closed: no connection is told of the end.
    pub fn destroy(&self) -> Result<(), Explained> {
        place::end(&self.container, true).and_then(|()| place::unmake(&self.container, &self.inner, Fate::Go))?;
        // Not before: what is left of it must not be taken for the place of one that comes back.
        self.inner.registry.remove(&self.container.id);
        self.container.show(ContainerState::Exited { status: 0 });
        Ok(())
    }
}
