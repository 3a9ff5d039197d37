//! Receiving a container: the loop that does what the target's machine orders and tells it what happened.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drover_model::{Explained, MigrationId, MigrationState, NodeName};
use drover_protocol::{
    Answer, Ownership, Question, Stream, Target, TargetInput, TargetOutput, ToSource, ToTarget, Verdict, WantedLayer,
    answer, decode, encode,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use crate::arrival::Arrival;
use crate::clock::{instant, moment};
use crate::error::failure;
use crate::following::Following;
use crate::journal::{Entry, Journal, Mark};
use crate::lead::{TICK, sleep_until};
use crate::link::{Link, PATIENCE, Traffic};
use crate::node::{Arrivals, Coming, Inner, blocking, now};
use crate::turns::Taken;

/// How long a place is kept for a source that was granted it and says nothing.
const HELLO: Duration = Duration::from_secs(30);
/// How much may be sent on a link to learn its rate, in messages.
const MOST_WEIGHED: usize = 16;

/// A step, done in a thread of its own, with the arrival if there is one.
type Work = Box<dyn FnOnce(Option<&mut Arrival>) -> TargetInput + Send>;

/// What reaches a migration that is under way from outside of its link.
#[derive(Debug)]
pub(crate) enum Word {
    /// A link that continues it.
    Resumed { link: Link, traffic: Arc<Traffic>, verdict: Verdict },
    /// What an operator says.
    Resolved(Verdict),
}

/// What is known of a migration towards this node while it is under way.
#[derive(Debug)]
struct Session {
    inner: Arc<Inner>,
    peer: NodeName,
    migration: Option<MigrationId>,
    arrival: Option<Arc<Mutex<Arrival>>>,
    link: Option<Link>,
    traffic: Arc<Traffic>,
    following: Following,
    words: mpsc::Receiver<Word>,
    word: mpsc::Sender<Word>,
    /// As it is seen from here.
    state: watch::Sender<Option<MigrationState>>,
    /// What happens of itself, beside the steps.
    events: mpsc::Sender<TargetInput>,
    happened: mpsc::Receiver<TargetInput>,
}

/// Serves a link from `peer` to its end: a new migration, or the rest of one whose link broke.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    peer: NodeName,
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) {
    let traffic = Arc::new(Traffic::default());
    let mut link = Link::new(connection, Arc::clone(&traffic));
    let Some(mut first) = link.receive().await else { return };
    let mut place = None;
    for _ in 0..MOST_WEIGHED {
        if !matches!(decode::<Question>(&first), Ok(Question::Weigh { .. })) {
            break;
        }
        link.send(encode(&Answer::Weighed), PATIENCE).await;
        let Ok(Some(next)) = tokio::time::timeout(HELLO, link.receive()).await else { return link.close().await };
        first = next;
    }
    if let Ok(question) = decode::<Question>(&first) {
        (place, first) = match consider(&inner, &question, &mut link).await {
            Some((place, next)) => (Some(place), next),
            None => return link.close().await,
        };
    }
    match decode(&first) {
        Ok(ToTarget::Resume { migration, verdict }) => {
            resume(&inner, &peer, migration, Word::Resumed { link, traffic, verdict }).await;
        }
        Ok(hello @ ToTarget::Hello { .. }) => {
            let machine = Target::new(moment(), inner.config.name.clone());
            let _place = place.unwrap_or_else(|| inner.places.take());
            let session = Session::new(inner, peer, Some(link), traffic);
            session.run(machine, Some(TargetInput::Heard(hello))).await;
        }
        Ok(_) | Err(_) => tracing::warn!(%peer, "peer began a link with something else than hello"),
    }
}

/// Answers what is asked before a migration; the place and the first message of the migration that follows, if one does.
async fn consider(inner: &Arc<Inner>, question: &Question, link: &mut Link) -> Option<(Taken, Bytes)> {
    let (answer, place) = match (question, inner.drain.refusal(&inner.config.name)) {
        (Question::Room, closed) => (Answer::Room(inner.room(closed)), None),
        (Question::Check(offer), _) => {
            let (inner, offer) = (Arc::clone(inner), offer.clone());
            let (findings, room) = blocking(move || (inner.answer_check(&offer), inner.room_for(&offer))).await;
            (Answer::Checked { findings, room: Some(room) }, None)
        }
        (Question::Weigh { .. }, _) => (Answer::Weighed, None),
        (Question::Reserve { .. }, Some(why)) => (Answer::Closed(why), None),
        (Question::Reserve { migration }, None) => match inner.places.reserve() {
            Some(place) => (Answer::Granted, Some(place)),
            None => {
                tracing::debug!(%migration, "no place for another container now");
                (Answer::Busy, None)
            }
        },
    };
    link.send(encode(&answer), PATIENCE).await;
    let next = tokio::time::timeout(HELLO, link.receive());
    let place = place?;
    Some((place, next.await.ok().flatten()?))
}

/// Hands the link to the migration it belongs to, or answers from the journal.
async fn resume(inner: &Arc<Inner>, peer: &NodeName, migration: MigrationId, resumed: Word) {
    let session = inner.arrivals().get(&migration).filter(|own| &own.peer == peer).map(|own| own.word.clone());
    let resumed = match session {
        Some(session) => session.send(resumed).await,
        None => Err(mpsc::error::SendError(resumed)),
    };
    let Err(mpsc::error::SendError(Word::Resumed { link, verdict, .. })) = resumed else { return };
    let entry = inner.journal().latest(&migration).filter(|entry| &entry.peer == peer).cloned();
    // If it is not here any more, only the last line was not written.
    let mark = entry.map(|entry| {
        let (mark, gone) = (entry.mark, !entry.mark.is_last() && !inner.has_files(&entry.container));
        if gone && inner.close_entry(entry) { mark.closed() } else { mark }
    });
    let Some(answer) = answer(mark, verdict) else {
        // It is here, and nobody deals with it: its record could not be read. To say that it is not here would have it
        // thawed on the other side.
        tracing::error!(%migration, "a promised container cannot be taken up");
        return link.close().await;
    };
    link.send(encode(&answer), PATIENCE).await;
    link.close().await;
}

/// Goes on with a container that a restarted agent found promised or accepted.
pub(crate) async fn take_up_arrival(inner: Arc<Inner>, entry: Entry, arrival: Arrival, ownership: Ownership) {
    let mut session = Session::new(Arc::clone(&inner), entry.peer, None, Arc::default());
    session.following.of(arrival.container());
    session.arrival = Some(Arc::new(Mutex::new(arrival)));
    session.take_up(&mut inner.arrivals(), entry.migration);
    session.run(Target::recovered(inner.config.name.clone(), ownership), None).await;
}

impl Session {
    fn new(inner: Arc<Inner>, peer: NodeName, link: Option<Link>, traffic: Arc<Traffic>) -> Self {
        let (word, words) = mpsc::channel(1);
        let (events, happened) = mpsc::channel(1);
        let following = Following::default();
        Self {
            inner,
            peer,
            migration: None,
            arrival: None,
            link,
            traffic,
            following,
            words,
            word,
            state: watch::Sender::new(None),
            events,
            happened,
        }
    }

    /// Begins a migration that nobody knows yet: the peer chooses its id, and might choose that of another one, whose verdict
    /// it would then be told, or whose record it would overwrite.
    fn begin_migration(&mut self, migration: &MigrationId) -> Result<(), Explained> {
        let inner = Arc::clone(&self.inner);
        let mut arrivals = inner.arrivals();
        if is_known(&arrivals, &inner.journal(), migration) {
            let reason = format!("cannot take part in migration {migration}: there was one of that id already");
            return Err(Explained { reason, hint: None });
        }
        self.take_up(&mut arrivals, migration.clone());
        Ok(())
    }

    fn take_up(&mut self, arrivals: &mut Arrivals, migration: MigrationId) {
        let (peer, word, state) = (self.peer.clone(), self.word.clone(), self.state.subscribe());
        arrivals.insert(migration.clone(), Coming { peer, word, state });
        self.migration = Some(migration);
    }

    async fn run(mut self, mut machine: Target, first: Option<TargetInput>) {
        if let Some(first) = first {
            machine.handle(moment(), first);
        }
        let (done, mut steps) = mpsc::channel::<TargetInput>(1);
        let mut busy = false;
        let mut crossed = 0;
        let mut tick = tokio::time::interval(TICK);
        let mut queue = std::collections::VecDeque::new();
        loop {
            while let Some(output) = machine.poll() {
                if output == TargetOutput::Discard {
                    // What was still to be done is pointless, and whoever waits for streams of this link must hear its
                    // end, above all the step that is under way.
                    queue.retain(|waiting| matches!(waiting, TargetOutput::Send(_)));
                    self.link.iter().for_each(Link::cut_streams);
                }
                queue.push_back(output);
            }
            // In order: what is said must not overtake what is done. What is stored was done by others.
            let stored = |output: &TargetOutput| matches!(output, TargetOutput::Send(ToSource::Stored { .. }));
            while (!busy || queue.front().is_some_and(stored))
                && let Some(output) = queue.pop_front()
            {
                match output {
                    TargetOutput::Send(message) => {
                        if let Some(link) = &self.link {
                            tracing::debug!(?message, "send");
                            link.send(encode(&message), PATIENCE).await;
                        }
                    }
                    TargetOutput::AwaitArrival => {
                        self.following.await_arrival(&self.peer, self.events.clone());
                    }
                    TargetOutput::Finish(runs) => return self.finish(runs).await,
                    step => busy = self.begin(step, &mut machine, done.clone()).await,
                }
                while let Some(output) = machine.poll() {
                    queue.push_back(output);
                }
            }
            self.following.show(self.link.is_some());
            self.show(&machine);
            let deadline = machine.deadline().map(instant);
            let input = tokio::select! {
                Some(result) = steps.recv() => {
                    busy = false;
                    result
                }
                Some(event) = self.happened.recv() => event,
                heard = hear(&mut self.link) => {
                    if heard == TargetInput::LinkLost {
                        // Whoever waits for bytes of a stream hears its end with the link's.
                        self.link = None;
                    }
                    heard
                }
                Some(word) = self.words.recv() => match word {
                    Word::Resolved(verdict) => resolved(&machine, verdict),
                    Word::Resumed { link, traffic, verdict } => {
                        self.link = Some(link);
                        self.traffic = traffic;
                        if machine.may_follow()
                            && let Some(relay) = self.following.relay(self.link.as_ref())
                        {
                            relay.begin();
                        }
                        TargetInput::Reconnected(verdict)
                    }
                },
                () = sleep_until(deadline) => TargetInput::DeadlinePassed,
                _ = tick.tick() => {
                    if self.traffic.total() == crossed {
                        continue;
                    }
                    crossed = self.traffic.total();
                    TargetInput::Progressed
                }
            };
            tracing::debug!(?input, "happened");
            machine.handle(moment(), input);
        }
    }

    /// Begins a step; its result comes over `done`. Gives whether one is under way.
    async fn begin(&mut self, step: TargetOutput, machine: &mut Target, done: mpsc::Sender<TargetInput>) -> bool {
        let work: Work = match step {
            TargetOutput::Prepare(offer) => {
                let inner = Arc::clone(&self.inner);
                if let Err(why) = self.begin_migration(&offer.migration) {
                    machine.handle(moment(), TargetInput::StepFailed(why));
                    return false;
                }
                let prepared = tokio::task::spawn_blocking(move || Arrival::prepare(&inner, &offer)).await;
                let input = match prepared {
                    Ok(Ok((arrival, missing))) => self.take(arrival, missing),
                    Ok(Err(why)) => TargetInput::StepFailed(why),
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                };
                machine.handle(moment(), input);
                return false;
            }
            TargetOutput::ReceiveImage => {
                let input = self.link.as_ref().and_then(|link| link.take_stream(Stream::Image));
                let gone = Explained { reason: "the link to the source broke".into(), hint: None };
                Box::new(move |arrival| match (arrival, input) {
                    (Some(arrival), Some(input)) => result(arrival.receive_image(input), TargetInput::ImageReceived),
                    _ => TargetInput::StepFailed(gone),
                })
            }
            TargetOutput::Restore => {
                let relay = self.following.relay(self.link.as_ref());
                Box::new(on(move |arrival| arrival.restore(relay), TargetInput::Restored))
            }
            TargetOutput::RecordPromise => {
                let record = self.recorder(Mark::Promised);
                Box::new(move |_| result(record(), TargetInput::PromiseRecorded))
            }
            TargetOutput::RecordAccepted => {
                let record = self.recorder(Mark::Accepted);
                let secure = on(|arrival| arrival.secure(), TargetInput::AcceptRecorded);
                Box::new(move |arrival| match secure(arrival) {
                    TargetInput::AcceptRecorded => result(record(), TargetInput::AcceptRecorded),
                    failed => failed,
                })
            }
            TargetOutput::RecordReturned => {
                let record = self.recorder(Mark::Discarded);
                Box::new(move |_| result(record(), TargetInput::ReturnRecorded))
            }
            TargetOutput::Resume => Box::new(|arrival| match arrival {
                Some(arrival) if arrival.is_gone() => TargetInput::Gone,
                arrival => on(|arrival| arrival.resume(), TargetInput::Resumed)(arrival),
            }),
            TargetOutput::Kill(why) => Box::new(on(move |arrival| arrival.kill(&why), TargetInput::Killed)),
            TargetOutput::RecordOwned => {
                let record = self.recorder(Mark::Owned);
                let settle = on(|arrival| arrival.settle(), TargetInput::OwnedRecorded);
                // Settled first: with "owned" in the journal the source destroys its copy, so nothing may be left to do.
                Box::new(move |arrival| match settle(arrival) {
                    TargetInput::OwnedRecorded => result(record(), TargetInput::OwnedRecorded),
                    failed => failed,
                })
            }
            TargetOutput::Discard => {
                let record = self.recorder(Mark::Discarded);
                Box::new(move |arrival| {
                    if let Some(arrival) = arrival {
                        arrival.discard();
                        let _ = record();
                    }
                    TargetInput::Discarded
                })
            }
            TargetOutput::Send(_) | TargetOutput::AwaitArrival | TargetOutput::Finish(_) => return false,
        };
        let arrival = self.arrival.clone();
        tokio::task::spawn_blocking(move || {
            let result = match &arrival {
                Some(arrival) => work(Some(&mut arrival.lock().unwrap_or_else(PoisonError::into_inner))),
                None => work(None),
            };
            let _ = done.blocking_send(result);
        });
        true
    }

    /// Takes up an arrival whose place is ready, and begins to receive it.
    fn take(&mut self, mut arrival: Arrival, missing: Vec<WantedLayer>) -> TargetInput {
        let events = self.events.clone();
        let happened = move |event| drop(events.blocking_send(event));
        let begun = self.link.as_ref().map_or(Ok(()), |link| arrival.begin_receiving(link, happened));
        self.following.of(arrival.container());
        self.arrival = Some(Arc::new(Mutex::new(arrival)));
        result(begun, TargetInput::Prepared { missing })
    }

    fn recorder(&self, mark: Mark) -> impl FnOnce() -> Result<(), Explained> + Send + use<> {
        let container = self
            .arrival
            .as_ref()
            .map(|arrival| arrival.lock().unwrap_or_else(PoisonError::into_inner).container().id.clone());
        let (inner, peer, migration) = (Arc::clone(&self.inner), self.peer.clone(), self.migration.clone());
        move || {
            let nothing = || Explained { reason: "nothing has arrived".into(), hint: None };
            let (migration, container) = (migration.ok_or_else(nothing)?, container.ok_or_else(nothing)?);
            let appended =
                inner.journal().append(Entry { migration, container, peer, mark, decided: None, began_at: None });
            appended.map_err(|error| failure("cannot write the journal", &error))
        }
    }

    fn show(&self, machine: &Target) {
        // Without a link nobody knows when the source will say more.
        let in_doubt = machine.promised() || machine.may_follow() && self.link.is_none();
        let phase = machine.phase();
        if self.state.borrow().as_ref().is_some_and(|shown| (shown.phase, shown.in_doubt) == (phase, in_doubt)) {
            return;
        }
        self.state.send_modify(|shown| {
            if shown.is_none() {
                *shown = self.begun();
            }
            if let Some(shown) = shown {
                (shown.phase, shown.in_doubt) = (phase, in_doubt);
            }
        });
    }

    /// The migration as it is when the container's place has just been made, or found.
    fn begun(&self) -> Option<MigrationState> {
        // Whoever holds it is at work: it is shown later.
        let arrival = self.arrival.as_ref()?.try_lock().ok()?;
        let (container, to) = (arrival.container().spec(), self.inner.config.name.clone());
        Some(MigrationState::begun(
            self.migration.clone()?,
            container.name,
            container.owner,
            self.peer.clone(),
            to,
            now(),
        ))
    }

    async fn finish(mut self, runs: bool) {
        if let Some(migration) = &self.migration {
            self.inner.arrivals().remove(migration);
        }
        if let Some(arrival) = self.arrival.take().filter(|_| runs) {
            let container = Arc::clone(arrival.lock().unwrap_or_else(PoisonError::into_inner).container());
            tracing::info!(container = %container.spec().name, from = %self.peer, "container arrived");
            self.inner.watch(&container);
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }
}

/// What an operator says who cannot wait for the source: of a container that runs here, that what is to follow is lost.
fn resolved(machine: &Target, verdict: Verdict) -> TargetInput {
    match verdict {
        Verdict::Commit if machine.may_follow() && !machine.promised() => {
            let reason = "an operator says that its source is lost, and with it what was to follow".to_owned();
            let hint =
                Some("its files are here: it begins anew by its restart policy, or by `drover start`".to_owned());
            TargetInput::Heard(ToTarget::Lost { why: Explained { reason, hint } })
        }
        verdict => TargetInput::Reconnected(verdict),
    }
}

/// Whether there was a migration of this id, or is one.
fn is_known(arrivals: &Arrivals, journal: &Journal, migration: &MigrationId) -> bool {
    arrivals.contains_key(migration) || journal.latest(migration).is_some()
}

fn result(result: Result<(), Explained>, well: TargetInput) -> TargetInput {
    result.map_or_else(TargetInput::StepFailed, |()| well)
}

/// A step on the arrival.
fn on(
    step: impl FnOnce(&mut Arrival) -> Result<(), Explained> + Send,
    well: TargetInput,
) -> impl FnOnce(Option<&mut Arrival>) -> TargetInput + Send {
    move |arrival| match arrival {
        Some(arrival) => result(step(arrival), well),
        None => TargetInput::StepFailed(Explained { reason: "nothing has arrived".into(), hint: None }),
    }
}

/// The next message; without a link, never. A peer that sends nonsense is a link that broke.
async fn hear(link: &mut Option<Link>) -> TargetInput {
    match link {
        None => std::future::pending().await,
        Some(link) => match link.receive().await.map(|payload| decode(&payload)) {
            Some(Ok(message)) => TargetInput::Heard(message),
            Some(Err(_)) | None => TargetInput::LinkLost,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::JournalFile;

    #[test]
    fn a_migration_of_an_id_that_is_known_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = JournalFile::open(&directory.path().join("journal")).unwrap();
        let [promised, arriving, fresh] = ["aa", "bb", "cc"].map(|id| id.parse::<MigrationId>().unwrap());
        let peer: NodeName = "n2".parse().unwrap();
        let (migration, container) = (promised.clone(), "11".parse().unwrap());
        journal
            .append(Entry {
                migration,
                container,
                peer: peer.clone(),
                mark: Mark::Promised,
                decided: None,
                began_at: None,
            })
            .unwrap();
        let coming = Coming { peer, word: mpsc::channel(1).0, state: watch::channel(None).1 };
        let arrivals = Arrivals::from([(arriving.clone(), coming)]);
        assert!(is_known(&arrivals, &journal, &promised) && is_known(&arrivals, &journal, &arriving));
        assert!(!is_known(&arrivals, &journal, &fresh));
    }
}
