//! Leading a migration: the loop that does what the source's machine orders and tells it what happened.

use std::collections::VecDeque;
use std::error::Error;
use std::io::BufWriter;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_disk::Token;
use drover_memory::{FollowError, Sums};
use drover_model::{
    Bandwidth, Bytes, ContainerState, Explained, MigrationId, MigrationState, Outcome, PackedPages, PageCount, Phase,
    Prediction, Report, Round, Settings,
};
use drover_protocol::{Source, SourceInput, SourceOutput, SourceResult, Stream, ToTarget, decode, encode};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};

use crate::clock::{instant, moment};
use crate::container::{Container, lock};
use crate::departure::{Crossed, Departure, Reins};
use crate::error::failure;
use crate::exec::alone;
use crate::experience::Lesson;
use crate::journal::{Decided, Entry, Mark};
use crate::link::{self, Link, Traffic};
use crate::node::{Inner, Order, Peer, blocking, now};
use crate::sharing::Flow;

/// How often the machine hears of progress and watchers of bytes.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// How much of the answers to wishes is gathered for the link, in bytes.
const ANSWERS: usize = 128 << 10;
/// How long CRIU may take to end after its dump has become pointless.
const CRIU_ENDS: Duration = Duration::from_secs(5);

/// Everything about one migration that leaves this node.
#[derive(Debug)]
pub(crate) struct Lead {
    pub inner: Arc<Inner>,
    pub container: Arc<Container>,
    pub peer: Peer,
    pub id: MigrationId,
    pub state: watch::Sender<MigrationState>,
    pub orders: mpsc::Receiver<Order>,
    /// What has crossed.
    pub traffic: Arc<Traffic>,
    /// Its part of what the node sends.
    pub flow: Arc<Flow>,
    /// The link on which the target has granted a place, or why there is none.
    pub reserved: Option<Result<Link, Explained>>,
    /// The marks on shared volumes, until the target has seen them.
    pub tokens: Vec<Token>,
    /// What was expected of it.
    pub predicted: Option<Prediction>,
}

/// What had crossed when the container could run on the target.
#[derive(Debug, Clone, Copy)]
struct Frozen {
    /// What crossed while it was frozen.
    crossed: Crossed,
    /// All bytes of memory that crossed until then.
    memory: u64,
}

/// What a step gave.
type StepResult = SourceInput;

impl Lead {
    /// Leads until the machine is done. The container is free for others as soon as it is certain to stay.
    pub async fn run(mut self, mut machine: Source, operation: OwnedMutexGuard<()>) {
        let mut operation = Some(operation);
        let traffic = Arc::clone(&self.traffic);
        let settings = *machine.settings();
        let Settings { bandwidth, .. } = settings;
        let departure = Departure::new(Arc::clone(&self.inner), Arc::clone(&self.container), settings);
        let (reins, given_up, sums) = (departure.reins(), departure.given_up(), departure.sums());
        let told = departure.told();
        let departure = Arc::new(Mutex::new(departure));
        let last = Arc::new(Mutex::new(Crossed::default()));
        let (done, mut steps) = mpsc::channel::<StepResult>(1);
        let mut link: Option<Link> = None;
        let (linked, mut links) = mpsc::channel::<Link>(1);
        let (lose, mut losses) = mpsc::channel::<Explained>(1);
        let mut waiting: VecDeque<SourceOutput> = VecDeque::new();
        let mut busy = false;
        let mut crossed = 0;
        // What had crossed when the container could run on the target: what comes later follows it.
        let mut frozen = None;
        let mut tick = tokio::time::interval(TICK);
        tracing::debug!(migration = %self.id, phase = %machine.phase(), "phase begins");
        loop {
            while let Some(output) = machine.poll() {
                match output {
                    // Messages need not wait for the step that is under way.
                    SourceOutput::Send(message) => {
                        tracing::debug!(migration = %self.id, ?message, "send");
                        // A rollback must not wait for a link that is stuck: to the target a broken link says the same.
                        let patience =
                            if matches!(message, ToTarget::Abort { .. }) { Duration::ZERO } else { link::PATIENCE };
                        let sent = match &link {
                            Some(link) => link.send(encode(&message), patience).await,
                            None => true,
                        };
                        if !sent {
                            link = None;
                            machine.handle(moment(), SourceInput::LinkLost(broken()));
                        }
                    }
                    SourceOutput::Serve => {
                        if let Some(link) = &link {
                            self.serve(link, lose.clone());
                        }
                    }
                    SourceOutput::Conclude(result) => {
                        let stays = result.outcome.stays();
                        given_up.store(stays, Ordering::Relaxed);
                        let crossed = *lock(&last);
                        let sums = *lock(&sums);
                        if stays {
                            // Before anybody hears of it: an agent that stops waits no longer than that, and what is
                            // under way may be holding the container for a moment.
                            let departure = Arc::clone(&departure);
                            blocking(move || lock(&departure).clean_up()).await;
                        }
                        let frozen = frozen.unwrap_or_else(|| traffic.memory());
                        self.conclude(result, &traffic, Frozen { crossed, memory: frozen }, sums);
                        drop(operation.take_if(|_| stays));
                    }
                    SourceOutput::Finish => {
                        if let Some(link) = link.take() {
                            link.close().await;
                        }
                        return self.close();
                    }
                    step => {
                        if matches!(step, SourceOutput::RecordCommit(_)) {
                            frozen = Some(traffic.memory());
                        }
                        if step == SourceOutput::Thaw && busy {
                            given_up.store(true, Ordering::Relaxed);
                            end_in_time(Arc::clone(&reins), Arc::clone(&self.container));
                        }
                        waiting.push_back(step);
                    }
                }
            }
            if !busy && let Some(step) = waiting.pop_front() {
                busy = true;
                let reserved = if step == SourceOutput::Connect { self.reserved.take() } else { None };
                let linked = (linked.clone(), bandwidth, reserved);
                self.begin(step, &departure, link.as_ref(), &traffic, &last, done.clone(), linked);
            }
            if machine.phase() != Phase::Prepare {
                self.tokens.clear();
            }
            self.show(&machine, &traffic);
            let deadline = machine.deadline().map(instant);
            let input = tokio::select! {
                Some(result) = steps.recv() => {
                    busy = false;
                    if result == SourceInput::Connected {
                        link = links.try_recv().ok();
                        link.iter().for_each(|link| told.hear(link));
                    }
                    result
                }
                heard = hear(&mut link) => match heard {
                    Ok(input) => input,
                    Err(why) => {
                        link = None;
                        SourceInput::LinkLost(why)
                    }
                },
                Some(why) = losses.recv() => SourceInput::Lost(why),
                Some(order) = self.orders.recv() => match order {
                    Order::Cancel => SourceInput::Cancelled,
                    Order::Resolve(verdict) => SourceInput::Resolved(verdict),
                },
                () = sleep_until(deadline) => SourceInput::DeadlinePassed,
                _ = tick.tick() => {
                    if traffic.total() == crossed {
                        continue;
                    }
                    crossed = traffic.total();
                    SourceInput::Progressed
                }
            };
            tracing::debug!(migration = %self.id, ?input, "happened");
            machine.handle(moment(), input);
        }
    }

    /// Begins a step; its result comes over `done`.
    #[expect(clippy::too_many_arguments, reason = "the loop's own variables, used in one place")]
    fn begin(
        &self,
        step: SourceOutput,
        departure: &Arc<Mutex<Departure>>,
        link: Option<&Link>,
        traffic: &Arc<Traffic>,
        last: &Arc<Mutex<Crossed>>,
        done: mpsc::Sender<StepResult>,
        (linked, bandwidth, reserved): (mpsc::Sender<Link>, Option<Bandwidth>, Option<Result<Link, Explained>>),
    ) {
        let connect = |pause: Duration| {
            let (inner, peer, traffic) = (Arc::clone(&self.inner), self.peer.clone(), Arc::clone(traffic));
            let (done, flow) = (done.clone(), Arc::clone(&self.flow));
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let link = match reserved {
                    // The target waits for a while only: the container's memory may have taken longer to be in its place.
                    Some(reserved) if !reserved.as_ref().is_ok_and(Link::is_broken) => reserved,
                    _ => {
                        let connected = inner.connect(&peer).await;
                        connected.map(|connection| Link::shared(connection, traffic, bandwidth, Some(flow)))
                    }
                };
                let result = match link {
                    Ok(link) => {
                        // The loop takes it out before it hears that it is there.
                        let _ = linked.send(link).await;
                        SourceInput::Connected
                    }
                    Err(why) => SourceInput::LinkLost(why),
                };
                let _ = done.send(result).await;
            });
        };
        let departure = Arc::clone(departure);
        let work: Box<dyn FnOnce(&mut Departure) -> StepResult + Send> = match (step, link) {
            (SourceOutput::AwaitFilled, _) => {
                // Beside the departure: a move that is cancelled meanwhile does not wait for it.
                let container = Arc::clone(&self.container);
                tokio::spawn(async move {
                    let filled = blocking(move || container.shim().await_filled()).await;
                    let filled = filled.map_err(|error| failure("cannot wait for the rest of its memory", &error));
                    let _ = done.send(result(filled, SourceInput::Filled)).await;
                });
                return;
            }
            (SourceOutput::Connect, _) => {
                // Both at once: the container runs, but its users wait for the move.
                tokio::task::spawn_blocking(move || lock(&departure).prepare());
                return connect(Duration::ZERO);
            }
            (SourceOutput::Reconnect(pause), _) => return connect(pause),
            (SourceOutput::SendImage(layers), Some(link)) => {
                let out = link.sender(Stream::Image);
                Box::new(move |departure| result(departure.send_image(&layers, out), SourceInput::ImageSent))
            }
            (SourceOutput::SendRound { memory }, Some(link)) => {
                let (pages, files) = (memory.then(|| link.sender(Stream::Pages)), link.sender(Stream::Files));
                Box::new(move |departure| match departure.round(pages, files) {
                    Ok((round, refused)) => SourceInput::RoundSent { round, refused },
                    Err(why) => SourceInput::StepFailed(why),
                })
            }
            (SourceOutput::Survey, _) => return self.survey(departure, done),
            (SourceOutput::Slow(share), _) => {
                Box::new(move |departure| result(departure.slow(share), SourceInput::Slowed))
            }
            (SourceOutput::Freeze, _) => {
                let container = Arc::clone(&self.container);
                tokio::spawn(async move {
                    let frozen = match alone(&container).await {
                        Ok(alone) => {
                            blocking(move || result(lock(&departure).freeze(alone), SourceInput::Frozen)).await
                        }
                        Err(why) => SourceInput::StepFailed(why),
                    };
                    let _ = done.send(frozen).await;
                });
                return;
            }
            (SourceOutput::Checkpoint { follows }, Some(link)) => {
                let (out, last) = (link.sender(Stream::Memory), Arc::clone(last));
                let (pages_out, files_out) = (link.sender(Stream::Pages), link.sender(Stream::Files));
                Box::new(move |departure| match departure.checkpoint(out, pages_out, files_out, follows) {
                    Ok(crossed) => {
                        *lock(&last) = crossed;
                        SourceInput::Checkpointed
                    }
                    Err(why) => SourceInput::StepFailed(why),
                })
            }
            (SourceOutput::Transfer, Some(link)) => {
                let out = link.sender(Stream::Checkpoint);
                Box::new(move |departure| result(departure.transfer(out), SourceInput::Transferred))
            }
            (SourceOutput::RecordCommit(mode), _) => {
                let began_at = self.state.borrow().began_at.clone();
                let record = self.recorder(Mark::Commit, Some(Decided { mode, began_at, at: now() }));
                Box::new(move |departure| match departure.confirm().map(|()| record()) {
                    Ok(Ok(())) => SourceInput::CommitRecorded,
                    Ok(Err(why)) => SourceInput::CommitUnknown(why),
                    Err(why) => SourceInput::StepFailed(why),
                })
            }
            (SourceOutput::ReadCommit, _) => {
                let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
                Box::new(move |_| SourceInput::CommitRead(inner.journal().read_back(&id, Mark::Commit).ok()))
            }
            (SourceOutput::RecordReturned { heard }, _) => {
                // Unfinished as long as the target may still hold it: a restarted agent tells it, too.
                let record = self.recorder(if heard { Mark::Aborted } else { Mark::Began }, None);
                Box::new(move |_| result(record(), SourceInput::ReturnRecorded))
            }
            (SourceOutput::Thaw, _) => {
                let (inner, container) = (Arc::clone(&self.inner), Arc::clone(&self.container));
                tokio::spawn(async move {
                    let _ = done.send(inner.take_back(&container, departure).await).await;
                });
                return;
            }
            (SourceOutput::Destroy, _) => Box::new(|departure| result(departure.destroy(), SourceInput::Destroyed)),
            (SourceOutput::RecordSettled, _) => {
                let record = self.recorder(Mark::Settled, None);
                Box::new(move |_| result(record(), SourceInput::SettledRecorded))
            }
            // The link went while the step was waiting for its turn; the machine hears of that by itself.
            (step, _) => {
                tracing::debug!(?step, "no link for a step");
                Box::new(|_| SourceInput::Progressed)
            }
        };
        tokio::task::spawn_blocking(move || {
            let result = work(&mut lock(&departure));
            let _ = done.blocking_send(result);
        });
    }

    /// Has the container surveyed. Where it must stand still for that nobody executes anything in it meanwhile.
    fn survey(&self, departure: Arc<Mutex<Departure>>, done: mpsc::Sender<StepResult>) {
        let container = Arc::clone(&self.container);
        tokio::spawn(async move {
            let own = Arc::clone(&departure);
            let mut held = None;
            if blocking(move || lock(&own).needs_standstill()).await {
                match alone(&container).await {
                    Ok(alone) => held = Some(alone),
                    Err(why) => return drop(done.send(SourceInput::StepFailed(why)).await),
                }
            }
            let surveyed = blocking(move || {
                let _held = held;
                let surveyed = lock(&departure).survey();
                surveyed.map_or_else(SourceInput::StepFailed, |(pages, files)| SourceInput::Surveyed { pages, files })
            });
            let _ = done.send(surveyed.await).await;
        });
    }

    /// Answers the target's wishes for pages over this link, for as long as it stands.
    fn serve(&self, link: &Link, lose: mpsc::Sender<Explained>) {
        let Some(wishes) = link.take_stream(Stream::Wishes) else { return };
        let (container, following) = (Arc::clone(&self.container), link.sender(Stream::Following));
        tokio::task::spawn_blocking(move || {
            // Who is missing from an incomplete list is not gone.
            let pids = match container.cgroup.pids() {
                Ok(pids) => pids,
                Err(error) => return tracing::warn!(%error, "pages cannot follow over this link"),
            };
            let out = BufWriter::with_capacity(ANSWERS, following);
            if let Err(error) = drover_memory::answer(&pids, wishes, out) {
                if matches!(error, FollowError::Lost(_)) {
                    return drop(lose.blocking_send(Explained::from_chain(&error)));
                }
                tracing::warn!(%error, cause = error.source().map(tracing::field::display), "pages cannot follow over this link");
            }
        });
    }

    /// Writes a mark into the journal.
    fn recorder(
        &self,
        mark: Mark,
        decided: Option<Decided>,
    ) -> impl FnOnce() -> Result<(), Explained> + Send + 'static {
        let (inner, container, peer) = (Arc::clone(&self.inner), self.container.id.clone(), self.peer.name.clone());
        let entry = Entry { migration: self.id.clone(), container, peer, mark, decided, began_at: None };
        move || inner.journal().append(entry).map_err(|error| failure("cannot write the journal", &error))
    }

    /// Nothing is left to be done, which a restart need not find out again.
    fn close(&self) {
        let stays = self.state.borrow().report.as_ref().is_some_and(|report| report.outcome.stays());
        if stays && let Err(why) = self.recorder(Mark::Aborted, None)() {
            tracing::warn!(%why, "rollback is not in the journal");
        }
    }

    fn show(&self, machine: &Source, traffic: &Traffic) {
        self.flow.follow(machine.phase());
        let (phase, in_doubt, bytes) = (machine.phase(), machine.in_doubt(), Bytes(traffic.total()));
        let delayed = machine.delayed().map(|why| why.reason.clone());
        self.state.send_if_modified(|state| {
            if state.report.is_some() {
                // What is still said on the link counts for nobody: state and report tell the same.
                return false;
            }
            let changed = state.phase != phase || state.in_doubt != in_doubt || state.bytes_sent != bytes;
            let changed = changed || state.delayed != delayed;
            if state.phase != phase {
                tracing::debug!(migration = %self.id, %phase, "phase begins");
            }
            state.phase = phase;
            state.in_doubt = in_doubt;
            state.delayed = delayed;
            state.bytes_sent = bytes;
            changed
        });
    }

    fn conclude(&self, result: SourceResult, traffic: &Traffic, frozen: Frozen, sums: Sums) {
        let Frozen { crossed: Crossed { pages, files }, memory } = frozen;
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let frozen = [drover_model::Phase::Checkpoint, drover_model::Phase::Transfer];
        let last = frozen.iter().filter_map(|phase| result.phases.get(phase)).sum::<Duration>();
        if let (Outcome::Moved, Some(downtime)) = (result.outcome, result.downtime) {
            let crossed = Round { pages, files, ..Round::default() }.load();
            lock(&self.inner.experience).learn(Lesson {
                container: &self.container.id,
                peer: &self.peer.name,
                rounds: &result.rounds,
                last: crossed,
                pause: downtime,
                total: result.total,
            });
        }
        let before_freeze: u64 = result.rounds.iter().map(|round| round.bytes.0 - round.files.0).sum();
        let bytes = Bytes(memory.saturating_sub(before_freeze) + files.0);
        let mut rounds = result.rounds;
        // What crossed while it was frozen.
        let round = Round { pages, bytes, ms: ms(last), files, ..Round::default() };
        rounds.extend((pages.0 > 0 || files.0 > 0).then_some(round));
        let before = self.state.borrow().clone();
        let report = Report {
            id: self.id.clone(),
            container: before.container,
            from: before.from,
            to: before.to,
            outcome: result.outcome,
            downtime_ms: result.downtime.map(ms),
            total_ms: ms(result.total),
            phases: result.phases.into_iter().map(|(phase, time)| (phase, ms(time))).collect(),
            rounds,
            bytes_sent: Bytes(traffic.total()),
            bytes_memory: Bytes(traffic.memory()),
            bytes_disk: Bytes(traffic.files()),
            bytes_image: Bytes(traffic.image()),
            packed: packed_pages(sums),
            mode: result.mode,
            exposure_ms: result.exposure.map(ms),
            files_frozen_ms: result.files_frozen.map(ms),
            predicted: self.predicted,
            reason: result.reason.reason,
            hint: result.reason.hint,
        };
        tracing::info!(
            migration = %report.id, container = %report.container, to = %report.to, outcome = ?report.outcome,
            downtime_ms = report.downtime_ms, reason = %report.reason, "migration ended"
        );
        if report.outcome == Outcome::Failed && self.inner.registry.has(&self.container) {
            self.container.show(ContainerState::Frozen);
        }
        self.state.send_modify(|state| {
            state.bytes_sent = report.bytes_sent;
            state.report = Some(report);
        });
    }
}

/// CRIU must not keep a container frozen that is to go on: it gets a moment to end by itself, which is what it does when
/// nobody takes its pages any more.
fn end_in_time(reins: Reins, container: Arc<Container>) {
    tokio::spawn(async move {
        tokio::time::sleep(CRIU_ENDS).await;
        if let Some(criu) = &*lock(&reins) {
            tracing::warn!("criu hangs and is killed");
            // Nobody must run on before CRIU's work at connections is undone, and CRIU has thawed the group for its own
            // work. Held by CRIU, the processes cannot follow the order yet.
            if let Err(error) = container.cgroup.freeze(Duration::ZERO)
                && error.kind() != std::io::ErrorKind::TimedOut
            {
                tracing::warn!(%error, "cannot freeze a container that criu lets go");
            }
            let _ = pidfd_send_signal(criu, Signal::KILL);
        }
    });
}

fn packed_pages(sums: Sums) -> PackedPages {
    let [none, lz4, zstd] = sums.packed.map(PageCount);
    PackedPages { none, lz4, zstd }
}

fn result(result: Result<(), Explained>, well: StepResult) -> StepResult {
    result.map_or_else(SourceInput::StepFailed, |()| well)
}

fn broken() -> Explained {
    Explained { reason: "the link to the target broke".into(), hint: Some("is the target's agent running?".into()) }
}

/// The next message; without a link, never.
async fn hear(link: &mut Option<Link>) -> Result<SourceInput, Explained> {
    match link {
        None => std::future::pending().await,
        Some(link) => {
            let payload = link.receive().await.ok_or_else(broken)?;
            let message = decode(&payload).map_err(|error| failure("the link to the target broke", &error))?;
            Ok(SourceInput::Heard(message))
        }
    }
}

pub(crate) async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
