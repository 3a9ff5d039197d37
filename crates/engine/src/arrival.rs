//! What the target does at each step of a migration. Everything here blocks.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use drover_container::shim::{Request, Shim};
use drover_container::{Notes, RuncError, prepare_dev, prepare_template};
use drover_disk::delta::{self, Place};
use drover_disk::{Claim, Fetch, layer};
use drover_memory::{Arrived, Inflow, MachineMemory, Placed, Room};
use drover_model::{ContainerState, Explained, objection};
use drover_network::Gate;
use drover_protocol::{Offer, Part, Stream, TargetInput, WantedLayer};
use tokio::sync::OwnedMutexGuard;

use crate::allowance::{Allowance, hinted};
use crate::container::{Container, Stored, cgroup_path, lock};
use crate::crossing;
use crate::error::failure;
use crate::following::Relay;
use crate::link::{ChannelReader, Link};
use crate::node::Inner;
use crate::place;
use crate::trees;
use crate::volumes::Fate;

/// How long an arrival waits for one of the same container that is being discarded, and the pause between two looks.
const DISCARD: Duration = Duration::from_secs(5);
const DISCARD_PAUSE: Duration = Duration::from_millis(20);
/// What runc says when the first process of a sandbox has ended before runc was done with it.
const LOST_INIT: &str = "read init-p: connection reset by peer";
/// How much of a stream is read at once, in bytes.
const GULP: usize = 1 << 20;

type Receiving = JoinHandle<Result<(), Explained>>;

/// A container that is about to arrive.
#[derive(Debug)]
pub(crate) struct Arrival {
    inner: Arc<Inner>,
    container: Arc<Container>,
    /// The image, while layers of it are missing, with the sizes of all of its layers.
    fetch: Option<(Fetch, Vec<u64>)>,
    /// What may arrive; nothing more of one that has arrived before.
    allowance: Option<Allowance>,
    receiving: Vec<(Stream, Receiving)>,
    /// The shared memory that has come, until the container has it.
    shared: Arc<Mutex<Arrived>>,
    /// Whether runc knows the process that was restored.
    adopted: bool,
    /// Whether a restarted agent has found it.
    recovered: bool,
    /// Nobody else may touch it before it has arrived.
    held: Option<OwnedMutexGuard<()>>,
}

impl Arrival {
    /// Checks the offer and makes the container's place; the network gate stays closed.
    pub fn prepare(inner: &Arc<Inner>, offer: &Offer) -> Result<(Self, Vec<WantedLayer>), Explained> {
        // It may have been drained since it granted a place, or the source does not ask for one.
        objection(&inner.examine(offer, 0)).map_or(Ok(()), Err)?;
        let fetch = crossing::begin(inner, offer)?;
        inner.make_room(offer, fetch.as_ref().map_or(0, |fetch| crossing::room(fetch, &offer.image)))?;
        let stored = Stored {
            spec: offer.spec.clone(),
            state: ContainerState::Arriving,
            generation: offer.generation,
            restarts: offer.restarts,
            started_at: offer.started_at.clone(),
            stopped: false,
        };
        let failed = |reason: &str| Explained { reason: reason.to_owned(), hint: None };
        let container = inner.new_container(stored).map_err(|error| error.explained().clone())?;
        let held = container.operation.clone().try_lock_owned().map_err(|_| failed("it is held"))?;
        make_known(inner, &container)?;
        let mut arrival = Self::new(inner, container, Some(held));
        arrival.fetch = fetch.map(|fetch| (fetch, offer.image.layers.clone()));
        let available = MachineMemory::look().map_err(|error| failure("cannot see how much memory is left", &error))?;
        arrival.allowance = Some(Allowance::of(offer, available.available, &inner.config.state));
        let recognise = || arrival.container.volumes.recognise(&offer.spec, &offer.shared, &offer.migration);
        match arrival.make().and_then(|()| recognise()) {
            Ok(()) => {
                let missing = arrival.missing();
                Ok((arrival, missing))
            }
            Err(why) => {
                arrival.discard();
                Err(why)
            }
        }
    }

    /// The arrival that a restarted agent found promised.
    pub fn recovered(inner: &Arc<Inner>, container: Arc<Container>) -> Self {
        let held = container.operation.clone().try_lock_owned().ok();
        Self { recovered: true, ..Self::new(inner, container, held) }
    }

    fn new(inner: &Arc<Inner>, container: Arc<Container>, held: Option<OwnedMutexGuard<()>>) -> Self {
        let (inner, shared) = (Arc::clone(inner), Arc::default());
        let (fetch, allowance, receiving) = (None, None, Vec::new());
        Self { inner, container, fetch, allowance, receiving, shared, adopted: false, recovered: false, held }
    }

    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    fn make(&self) -> Result<(), Explained> {
        let (container, layout) = (&self.container, &self.container.layout);
        std::fs::create_dir_all(&layout.state)
            .and_then(|()| container.change(|_| ()))
            .map_err(|error| failure("cannot write the container's record", &error))?;
        container.volumes.claim(&container.spec(), Claim::Arrives)?;
        self.inner.copies.give_back(container);
        place::make(container, &self.inner.config.uplink, Gate::Closed)?;
        place::make_checkpoint(layout)?;
        let attempt = "cannot set up the container's sandbox";
        prepare_template(layout).and_then(|()| prepare_dev(layout)).map_err(|error| failure(attempt, &error))?;
        let template = || self.inner.runc.create_template(&container.spec(), layout, &cgroup_path(&container.id));
        match template() {
            // Seen on busy machines: the first process of the sandbox ended before it was asked for anything. What runc
            // has removed is made again, and then it is believed.
            Err(RuncError::Refused(reason)) if reason.contains(LOST_INIT) => {
                tracing::warn!(container = %container.name(), %reason, "a sandbox broke off and is made once more");
                self.inner.runc.delete(&container.id).map_err(|error| failure(attempt, &error))?;
                place::make(container, &self.inner.config.uplink, Gate::Closed)?;
                template()
            }
            made => made,
        }
        .map_err(|error| failure(attempt, &error))?;
        // The container brings its own.
        place::renew_dev(layout)?;
        Shim::start(&self.inner.config.program, &self.inner.shim_spec(container))
            .map_err(|error| failure(attempt, &error))?;
        container.shim().order(&Request::Arm).map(drop).map_err(|error| failure(attempt, &error))
    }

    /// The layers of the image that are missing.
    fn missing(&self) -> Vec<WantedLayer> {
        self.fetch.as_ref().map(|(fetch, _)| crossing::missing(fetch)).unwrap_or_default()
    }

    /// Receives what is missing of the image.
    pub fn receive_image(&mut self, input: ChannelReader) -> Result<(), Explained> {
        let Some((fetch, sizes)) = self.fetch.take() else { return Ok(()) };
        crossing::receive(&self.inner.images, fetch, &sizes, &self.container.spec(), input)
    }

    /// Begins to receive all that crosses: each stream by a thread of its own. `happened` is called when all of a round has
    /// arrived, and when nothing more can be taken.
    pub fn begin_receiving(
        &mut self,
        link: &Link,
        happened: impl Fn(TargetInput) + Clone + Send + 'static,
    ) -> Result<(), Explained> {
        let layout = &self.container.layout;
        let trees = trees::places(&self.container)?;
        let nothing = || Explained { reason: "nothing was offered".into(), hint: None };
        let allowance = self.allowance.take().ok_or_else(nothing)?;
        tell(trees.clone(), link, happened.clone())?;
        let place = |path| vec![Place { path, aside: None }];
        let places = [
            (Stream::Files, trees),
            (Stream::Checkpoint, place(layout.images())),
            (Stream::Memory, place(layout.images())),
            (Stream::Pages, place(layout.store())),
        ];
        for (stream, places) in places {
            let again = || Explained { reason: format!("the stream {stream:?} came twice"), hint: None };
            let input = link.take_stream(stream).ok_or_else(again)?;
            let (shared, happened, allowance) = (Arc::clone(&self.shared), happened.clone(), allowance.clone());
            let (inner, digest) = (Arc::clone(&self.inner), self.container.spec().image_digest);
            let receive = move || {
                // It may not be here yet; it is once files come.
                let layers = || inner.images.find(digest.as_str()).map(|image| image.trees).unwrap_or_default();
                let stored = |part| happened(TargetInput::RoundStored(part));
                let received = receive(stream, &places, layers, input, &allowance, &shared, stored);
                if let Err(why) = &received {
                    happened(TargetInput::ReceiveFailed(why.clone()));
                }
                received
            };
            let thread = std::thread::Builder::new().name("receive".into()).spawn(receive);
            let thread = thread.map_err(|error| failure("cannot receive the container", &error))?;
            self.receiving.push((stream, thread));
        }
        Ok(())
    }

    /// Restores the container and leaves it frozen, behind its closed gate. Pages may follow over the relay.
    pub fn restore(&mut self, relay: Option<Relay>) -> Result<(), Explained> {
        for (_, receiving) in self.receiving.drain(..) {
            receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        if let Some(relay) = relay {
            relay.begin();
        }
        let layout = &self.container.layout;
        let digest = self.container.spec().image_digest;
        let image = self.inner.images.find(digest.as_str());
        let image = image.map_err(|error| failure("cannot find the container's image", &error))?;
        place::mount_root(layout, &image.trees)?;
        let notes = Notes::read(&layout.images()).map_err(|error| failure("cannot read the checkpoint", &error))?;
        let wire = self.container.wire().map_err(|error| error.explained().clone())?;
        wire.add_neighbours(&notes.neighbours).map_err(|error| failure("cannot restore the network", &error))?;
        let shared = std::mem::take(&mut *lock(&self.shared));
        shared.offer(&layout.images()).map_err(|error| failure("cannot restore the container", &error))?;
        let pid = self.container.shim().restore();
        let hint = "see whether both nodes have the same criu, and the target the whole image";
        let pid = pid.map_err(|error| {
            // A known cause has a better one.
            let Explained { reason, hint: known } = failure("cannot restore the container", &error);
            Explained { reason, hint: known.or_else(|| Some(hint.into())) }
        })?;
        self.container.set_pid(Some(pid));
        self.place(&shared)
    }

    /// Nobody runs yet: what CRIU has not taken is written now.
    fn place(&self, shared: &Arrived) -> Result<(), Explained> {
        let attempt = "cannot restore shared memory";
        let pids = self.container.cgroup.pids().map_err(|error| failure(attempt, &error))?;
        let Placed { taken, written } = shared.place(&pids).map_err(|error| failure(attempt, &error))?;
        if taken + written > 0 {
            tracing::info!(taken, written, "shared memory is in its place");
        }
        Ok(())
    }

    /// Whether its processes are gone and have never run here: an agent that was started anew does not know, but for the
    /// shim, which tells of a program that has ended.
    pub fn is_gone(&self) -> bool {
        let ended = self.recovered && self.container.exit().is_some();
        !self.container.lives() && !ended
    }

    /// Lets it run here: the gate opens first, so that its first packet passes.
    pub fn resume(&self) -> Result<(), Explained> {
        if !self.container.lives() {
            // It ran before, and its program has ended since: nothing is left to be let go.
            return Ok(());
        }
        let wire = self.container.wire().map_err(|error| error.explained().clone())?;
        wire.set_gate(Gate::Open).map_err(|error| failure("cannot open the container's gate", &error))?;
        self.container.cgroup.thaw().map_err(|error| failure("cannot thaw the container", &error))?;
        self.container.show(ContainerState::Running);
        if let Some(interface) = &self.container.spec().interface
            && let Err(error) = wire.announce(interface)
        {
            // Its own packets will tell the network as well, later.
            tracing::warn!(%error, "cannot announce the container's address");
        }
        Ok(())
    }

    /// Ends the container, which cannot go on.
    pub fn kill(&self, why: &Explained) -> Result<(), Explained> {
        tracing::error!(container = %self.container.spec().name, %why, "the container's memory is lost; it is ended");
        place::end(&self.container, false)
    }

    /// Makes the container that runs known to runc, so that programs can be executed in it while its memory follows.
    fn adopt(&mut self) -> Result<(), Explained> {
        if self.adopted {
            return Ok(());
        }
        let attempt = "cannot adopt the container";
        let container = &self.container;
        let pid = match container.pid() {
            Some(pid) => pid,
            // It ended, or its node went down.
            None if container.exit().is_some() || !self.container.lives() => return Ok(()),
            None => return Err(Explained { reason: format!("{attempt}: it has no process"), hint: None }),
        };
        match self.inner.runc.adopt(&container.spec(), &container.layout, &cgroup_path(&container.id), pid) {
            // A program may end at any time; whoever watches it next sees to its end.
            Ok(()) | Err(RuncError::Gone(_)) => {}
            Err(error) => return Err(failure(attempt, &error)),
        }
        self.adopted = true;
        Ok(())
    }

    /// Makes its files durable: the source destroys its own once all is settled, and ours must survive a loss of power by
    /// then. Programs can be executed in it from now on.
    pub fn secure(&mut self) -> Result<(), Explained> {
        if let Err(why) = self.adopt() {
            tracing::warn!(%why, "programs cannot be executed in the container yet");
        }
        let container = &self.container;
        for files in container.volumes.files(&container.spec()).into_iter().chain([container.layout.upper()]) {
            let synced = std::fs::File::open(files).and_then(|files| Ok(rustix::fs::syncfs(files)?));
            synced.map_err(|error| failure("cannot make the container's files durable", &error))?;
        }
        Ok(())
    }

    /// Makes it a container like any other on this node: watched, its checkpoint gone.
    pub fn settle(&mut self) -> Result<(), Explained> {
        // If it could not be done before.
        self.adopt()?;
        let container = &self.container;
        container
            .change(|stored| stored.state = ContainerState::Running)
            .map_err(|error| failure("cannot write the container's record", &error))?;
        place::remove_checkpoint(&container.layout);
        trees::clear(container);
        self.held = None;
        Ok(())
    }

    /// Removes everything of it. The streams have been cut, or their link is gone.
    pub fn discard(&mut self) {
        // Whoever still writes into files would write into those of the next arrival, which takes them up.
        for (stream, receiving) in self.receiving.drain(..) {
            if let Err(why) = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                tracing::debug!(?stream, %why, "a stream ended early");
            }
        }
        let removed =
            place::end(&self.container, true).and_then(|()| place::unmake(&self.container, &self.inner, Fate::Go));
        if let Err(error) = removed {
            tracing::warn!(container = %self.container.spec().name, %error, "leftovers of a refused container");
        }
        // A shim without a process waits for its first; it ends when told.
        let _ = self.container.shim().order(&Request::Discard);
        self.inner.registry.remove(&self.container.id);
    }
}

/// Tells the source what is in the trees already, beside whatever comes next.
fn tell(trees: Vec<Place>, link: &Link, happened: impl Fn(TargetInput) + Send + 'static) -> Result<(), Explained> {
    let attempt = "cannot tell the source what is here of the container's files";
    let mut out = link.sender(Stream::Having);
    let tell = move || {
        let told = delta::tell(&trees, &mut out).map_err(|error| failure(attempt, &error));
        let told = told.and_then(|()| out.finish().map_err(|error| failure(attempt, &error)));
        told.unwrap_or_else(|why| happened(TargetInput::ReceiveFailed(why)));
    };
    std::thread::Builder::new().name("tell".into()).spawn(tell).map(drop).map_err(|error| failure(attempt, &error))
}

/// Receives a stream to its end. `stored` is called when all of a part of a round has arrived.
fn receive(
    stream: Stream,
    places: &[Place],
    layers: impl Fn() -> Vec<PathBuf>,
    input: ChannelReader,
    allowance: &Allowance,
    shared: &Mutex<Arrived>,
    stored: impl Fn(Part),
) -> Result<(), Explained> {
    let attempt = "cannot receive the container";
    let mut input = BufReader::with_capacity(GULP, input);
    match (stream, places) {
        (Stream::Pages, [place]) => {
            return receive_pages(&place.path, input.into_inner(), allowance.room(), shared, || stored(Part::Memory));
        }
        (Stream::Memory, [place]) => {
            let received = drover_memory::receive(&place.path, &mut input, allowance.room());
            received.map(drop).map_err(|error| hinted(failure("cannot receive memory", &error), &error))?;
        }
        (Stream::Files, places) => {
            let mut rest = allowance.files();
            let room = |place: &Place, bytes| rest.take(bytes, place.aside.is_none());
            let received = delta::receive(places, layers, &mut input, room, || stored(Part::Files));
            let attempt = "cannot receive the container's files";
            received.map(drop).map_err(|error| hinted(failure(attempt, &error), &error))?;
            stored(Part::Files);
        }
        (_, [place]) => {
            let received = layer::apply(&place.path, &mut allowance.checkpoint(&mut input));
            received.map(drop).map_err(|error| hinted(failure("cannot receive the checkpoint", &error), &error))?;
        }
        _ => {}
    }
    // What stands behind the end of a stream is read over, or its sender would wait for ever.
    let read = std::io::copy(&mut input.by_ref(), &mut std::io::sink());
    read.map(drop).map_err(|error| failure(attempt, &error))
}

/// Receives the pages that cross in rounds.
fn receive_pages(
    place: &Path,
    input: ChannelReader,
    room: Room,
    shared: &Mutex<Arrived>,
    stored: impl FnMut(),
) -> Result<(), Explained> {
    let attempt = "cannot receive memory";
    let mut input = Inflow::new(input);
    // Nothing comes when there were no rounds.
    if !input.is_over() {
        std::fs::create_dir(place).map_err(|error| failure(attempt, &error))?;
        let arrived = drover_memory::store(place, &mut input, room, stored);
        *lock(shared) = arrived.map_err(|error| hinted(failure(attempt, &error), &error))?;
    }
    input.drain();
    Ok(())
}

/// Waits for the place of a container that is being discarded: its move may be ordered again before the last one is cleaned
/// up after.
fn make_known(inner: &Inner, container: &Arc<Container>) -> Result<(), Explained> {
    let begun = Instant::now();
    loop {
        let Err(error) = inner.registry.insert(container) else { return Ok(()) };
        let known = inner.registry.of_id(&container.id);
        let leaves = known.is_some_and(|known| known.state() == ContainerState::Arriving);
        if !leaves || begun.elapsed() > DISCARD {
            return Err(error.explained().clone());
        }
        std::thread::sleep(DISCARD_PAUSE);
    }
}
