//! The source's machine: it leads the migration and holds the authority to commit.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use drover_model::{Explained, Fallback, MigrationId, Mode, Moment, NodeName, Outcome, Phase, Round, Settings};

mod decided;
mod words;

pub use self::words::{Past, SourceInput, SourceOutput, SourceResult};
use crate::convergence::{Course, Decision, FixedPart};
use crate::message::{Offer, Part, ToSource, ToTarget};
use crate::{VERSIONS, negotiate};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Filling,
    Connecting,
    Greeting,
    Preparing,
    SendingImage,
    Copying,
    /// The files have crossed, and the target puts them away.
    Staying,
    Freezing,
    Checkpointing,
    Transferring,
    Restoring,
    Recording,
    ReadingRecord,
    /// The commit record is durable; the target shall hear it, however often the link breaks.
    Committing,
    Destroying,
    /// Nothing is left of it here; that is being written.
    Settling,
    /// It goes on here although it was decided that it should not; that is being written.
    Returning,
    RollingBack,
    /// Thawed; the target may hold a promised copy and shall hear that it must not run it.
    Recalling,
    Finished,
}

/// How long a peer may take to answer a short message.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a step may go on without any byte moving.
const STALL: Duration = Duration::from_secs(30);
/// The same while the container is frozen.
const FROZEN_STALL: Duration = Duration::from_secs(15);
/// How long CRIU may take on either side.
const CRIU: Duration = Duration::from_secs(120);
/// What a user can do who was told that the budget cannot be met.
const ALLOW: &str = "allow a longer pause (--downtime), or another way (--fallback freeze, post-copy or slow)";
/// The longest pause between two attempts to reach the target again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The first pause; it doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The source's machine.
#[derive(Debug)]
pub struct Source {
    migration: MigrationId,
    node: NodeName,
    target: NodeName,
    settings: Settings,
    /// What a pause takes when nothing is left to be sent.
    fixed: Duration,
    offer: Option<Box<Offer>>,
    rounds: Vec<Round>,
    /// After how many rounds the container was slowed.
    slowed: Vec<usize>,
    round_began: Moment,
    /// The round that is under way, once all of it was sent.
    sent: Option<Round>,
    /// What the target does not have yet of the round that is under way.
    awaited: Vec<Part>,
    /// Whether memory has crossed in a round.
    memory_crossed: bool,
    /// Why it does not.
    refused: Option<Explained>,
    /// Whether memory follows the container.
    follows: bool,
    step: Step,
    phase: Phase,
    phase_since: Moment,
    began: Moment,
    frozen_at: Option<Moment>,
    /// When it stood still.
    still_at: Option<Moment>,
    /// How long it had done so when the target had all of its files.
    files_frozen: Option<Duration>,
    running_at: Option<Moment>,
    /// When the target had everything.
    settled_at: Option<Moment>,
    phases: BTreeMap<Phase, Duration>,
    link_up: bool,
    /// Whether the target may hold anything of the container.
    offered: bool,
    failure: Option<Explained>,
    delayed: Option<Explained>,
    why_frozen: String,
    /// Set after a restart.
    past: Option<Past>,
    /// Why memory that was to follow will not.
    lost: Option<Explained>,
    /// Whether the outcome stands.
    concluded: bool,
    pause: Duration,
    deadline: Option<Moment>,
    outputs: VecDeque<SourceOutput>,
}

impl Source {
    /// A migration that begins now. `fixed` is what a pause of it takes when nothing is left to be sent.
    #[must_use]
    pub fn new(now: Moment, node: NodeName, target: NodeName, offer: Offer, fixed: FixedPart) -> Self {
        let mut machine = Self::at(now, node, target, offer.migration.clone(), offer.settings);
        machine.fixed = fixed.expected();
        machine.offer = Some(Box::new(offer));
        // That takes as long as it takes, and whoever does not want to wait cancels: no deadline.
        machine.outputs.push_back(SourceOutput::AwaitFilled);
        machine
    }

    /// A migration that a restarted agent found decided in its journal: the target has yet to hear it.
    #[must_use]
    pub fn recovered(now: Moment, node: NodeName, target: NodeName, migration: MigrationId, past: Past) -> Self {
        let mut machine = Self::at(now, node, target, migration, Settings::default());
        machine.offered = true;
        machine.follows = past.mode == Mode::PostCopy;
        machine.past = Some(past);
        machine.why_frozen = "the source's agent was restarted after the decision".to_owned();
        machine.enter(now, Phase::Commit, Step::Committing);
        machine.reconnect();
        machine
    }

    fn at(now: Moment, node: NodeName, target: NodeName, migration: MigrationId, settings: Settings) -> Self {
        Self {
            migration,
            node,
            target,
            settings,
            fixed: FixedPart::default().expected(),
            offer: None,
            rounds: Vec::new(),
            slowed: Vec::new(),
            round_began: now,
            sent: None,
            awaited: Vec::new(),
            memory_crossed: false,
            refused: None,
            follows: false,
            step: Step::Filling,
            phase: Phase::Prepare,
            phase_since: now,
            began: now,
            frozen_at: None,
            still_at: None,
            files_frozen: None,
            running_at: None,
            settled_at: None,
            phases: BTreeMap::new(),
            link_up: false,
            offered: false,
            failure: None,
            delayed: None,
            why_frozen: String::new(),
            past: None,
            lost: None,
            concluded: false,
            pause: FIRST_PAUSE,
            deadline: None,
            outputs: VecDeque::new(),
        }
    }

    /// What the user wishes of it.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where the migration is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the decision is durable here, or may be, and the target has not said that it has followed it.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        matches!(self.step, Step::ReadingRecord | Step::Committing | Step::Returning) && self.running_at.is_none()
    }

    /// Whether only the target, or an operator, can say how it ends.
    #[must_use]
    pub fn awaits_target(&self) -> bool {
        matches!(self.step, Step::ReadingRecord | Step::Committing)
    }

    /// What keeps the target from confirming.
    #[must_use]
    pub fn delayed(&self) -> Option<&Explained> {
        self.delayed.as_ref().filter(|_| matches!(self.step, Step::ReadingRecord | Step::Committing | Step::Returning))
    }

    /// When `DeadlinePassed` is due, if the machine waits for something that must not take for ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<SourceOutput> {
        self.outputs.pop_front()
    }

    /// Takes notice of what happened at `now`.
    pub fn handle(&mut self, now: Moment, input: SourceInput) {
        use SourceInput as In;
        match (self.step, input) {
            (Step::Finished, _) => {}
            (Step::Committing, input) => self.handle_committing(now, input),
            (Step::Recalling, input) => self.handle_recalling(now, input),
            (Step::Returning, input) => self.handle_returning(now, input),
            (Step::Destroying, input) => self.handle_destroying(now, input),
            (Step::Settling, input) => self.handle_settling(now, input),
            (Step::RollingBack, In::Thawed) => {
                self.running_at = Some(now);
                self.conclude(now, Outcome::RolledBack);
                self.recall(now);
            }
            (Step::RollingBack, In::ThawFailed(why)) => {
                self.failure = Some(why);
                self.conclude(now, Outcome::Failed);
                self.recall(now);
            }
            (Step::RollingBack, In::Heard(ToSource::Aborted)) => self.offered = false,
            (Step::RollingBack, In::LinkLost(_)) => self.link_up = false,
            (Step::RollingBack, _) => {}
            (Step::Recording, In::CommitRecorded) | (Step::ReadingRecord, In::CommitRead(Some(true))) => {
                self.commit(now);
            }
            (Step::Recording, In::CommitUnknown(why)) => {
                self.failure = Some(why);
                self.read_record();
            }
            (Step::ReadingRecord, In::CommitRead(Some(false))) => {
                let why = self.failure.take().unwrap_or_else(|| explained("cannot write the commit record"));
                self.roll_back(now, why);
            }
            (Step::ReadingRecord, In::CommitRead(None)) => {
                // Neither yes nor no: the container stays frozen until the disk can tell.
                let reason = "whether the decision was written cannot be read from the journal";
                self.delayed = Some(explained(reason).with_hint("see to the disk of the source"));
                self.deadline = Some(now.after(self.next_pause()));
            }
            (Step::ReadingRecord, In::DeadlinePassed) => self.read_record(),
            // Nothing was written.
            (Step::Recording, In::StepFailed(why)) => self.roll_back(now, why),
            (Step::Recording | Step::ReadingRecord, In::Lost(why)) => self.lose(&why),
            // From here on the record may be durable: nothing but its own answer may change the course.
            (Step::Recording | Step::ReadingRecord, In::LinkLost(_)) => self.link_up = false,
            (Step::Recording | Step::ReadingRecord, _) => {}
            (_, In::Cancelled) => self.roll_back(now, explained("somebody cancelled it")),
            (_, In::LinkLost(why)) => {
                self.link_up = false;
                self.roll_back(now, why);
            }
            (_, In::Heard(ToSource::Refused(why) | ToSource::Failed(why))) => {
                // It says so after it has discarded everything.
                self.offered = false;
                self.roll_back(now, why);
            }
            (_, In::StepFailed(why) | In::Lost(why)) => self.roll_back(now, why),
            (_, In::DeadlinePassed) => self.roll_back(now, self.too_late()),
            (step, input) => self.advance(now, step, input),
        }
    }

    /// The steps of a migration that goes well.
    fn advance(&mut self, now: Moment, step: Step, input: SourceInput) {
        use SourceInput as In;
        match (step, input) {
            (Step::Filling, In::Filled) => self.order(now, Step::Connecting, SourceOutput::Connect, ANSWER),
            (Step::Connecting, In::Connected) => {
                self.link_up = true;
                let hello = ToTarget::Hello { versions: VERSIONS, node: self.node.clone() };
                self.order(now, Step::Greeting, SourceOutput::Send(hello), ANSWER);
            }
            (Step::Greeting, In::Heard(ToSource::Welcome { version, .. })) => {
                if negotiate((version, version)).is_none() {
                    let reason = format!("the target chose version {version} of the protocol, which we do not speak");
                    return self.roll_back(now, explained(&reason));
                }
                let offer = self.offer.take().expect("a new migration has an offer until it is sent");
                self.offered = true;
                self.order(now, Step::Preparing, SourceOutput::Send(ToTarget::Offer(offer)), CRIU);
            }
            (Step::Preparing, In::Heard(ToSource::NeedImage { layers })) => {
                self.order(now, Step::SendingImage, SourceOutput::SendImage(layers), STALL);
            }
            (Step::SendingImage, In::ImageSent) => self.wait(now, Step::Preparing, CRIU),
            (Step::Preparing, In::Heard(ToSource::Ready)) => {
                self.enter(now, Phase::Copy, Step::Copying);
                self.go_on_copying(now);
            }
            (Step::Copying, In::RoundSent { round, refused }) => {
                if let Some(why) = refused {
                    if self.settings.fallback() == Fallback::GiveUp {
                        return self.refuse_rounds(now, why);
                    }
                    self.awaited.retain(|part| *part != Part::Memory);
                    self.refused = Some(why);
                }
                self.sent = Some(round);
                self.survey(now);
            }
            (Step::Copying, In::Heard(ToSource::Stored { part })) => {
                self.awaited.retain(|awaited| *awaited != part);
                self.survey(now);
            }
            (Step::Copying, In::Surveyed { pages: dirty_after, files: files_after }) => {
                self.memory_crossed |= self.takes_memory();
                self.rounds.extend(self.sent.take().map(|round| Round { dirty_after, files_after, ..round }));
                self.go_on_copying(now);
            }
            (Step::Staying, In::Heard(ToSource::Aborted)) => {
                self.conclude(now, Outcome::Synced);
                self.finish();
            }
            (Step::Copying, In::Slowed) => self.begin_round(now),
            (
                Step::Checkpointing | Step::Transferring | Step::Restoring,
                In::Heard(ToSource::Stored { part: Part::Files }),
            ) => self.files_frozen = self.still_at.map(|still| now.since(still)),
            // Of a round in which it turned out that nothing could be followed: nobody has waited for its end.
            (
                Step::Freezing | Step::Checkpointing | Step::Transferring | Step::Restoring,
                In::Heard(ToSource::Stored { .. }),
            ) => {}
            (Step::Freezing, In::Frozen) => {
                self.still_at = Some(now);
                self.enter(now, Phase::Checkpoint, Step::Checkpointing);
                let checkpoint = SourceOutput::Checkpoint { follows: self.follows };
                self.order(now, Step::Checkpointing, checkpoint, FROZEN_STALL);
            }
            (Step::Checkpointing, In::Checkpointed) => {
                self.enter(now, Phase::Transfer, Step::Transferring);
                self.order(now, Step::Transferring, SourceOutput::Transfer, FROZEN_STALL);
            }
            (Step::Transferring, In::Transferred) => {
                self.enter(now, Phase::Restore, Step::Restoring);
                if self.follows {
                    self.outputs.push_back(SourceOutput::Serve);
                }
                self.order(now, Step::Restoring, SourceOutput::Send(ToTarget::Restore), CRIU);
            }
            (Step::Restoring, In::Heard(ToSource::Restored)) => {
                self.enter(now, Phase::Commit, Step::Recording);
                self.order_for_long(Step::Recording, SourceOutput::RecordCommit(self.mode()));
            }
            (Step::SendingImage | Step::Copying, In::Progressed) => self.deadline = Some(now.after(STALL)),
            (Step::Checkpointing | Step::Transferring, In::Progressed) => {
                self.deadline = Some(now.after(FROZEN_STALL));
            }
            (_, In::Heard(unexpected)) => {
                let reason = format!("the target sent {unexpected:?} in the phase {}", self.phase);
                self.roll_back(now, explained(&reason));
            }
            _ => {}
        }
    }

    fn go_on_copying(&mut self, now: Moment) {
        let Self { settings, fixed, rounds, slowed, refused, .. } = self;
        let without_memory = refused.as_ref().map(|why| why.reason.as_str());
        match (Course { settings, fixed: *fixed, rounds, slowed, without_memory }).decide() {
            Decision::Round => self.begin_round(now),
            Decision::Slow(share) => {
                self.slowed.push(self.rounds.len());
                self.order(now, Step::Copying, SourceOutput::Slow(share), ANSWER);
            }
            Decision::Freeze(why) => self.freeze(now, why),
            Decision::PostCopy(why) => {
                self.follows = true;
                self.freeze(now, why);
            }
            Decision::Stay => self.stay(now),
            Decision::GiveUp(why) => self.roll_back(now, explained(&why).with_hint(ALLOW)),
        }
    }

    fn begin_round(&mut self, now: Moment) {
        self.round_began = now;
        let memory = self.takes_memory();
        self.awaited = if memory { vec![Part::Memory, Part::Files] } else { vec![Part::Files] };
        self.order(now, Step::Copying, SourceOutput::SendRound { memory }, STALL);
    }

    /// Whether memory crosses in rounds.
    fn takes_memory(&self) -> bool {
        !self.settings.sync && self.settings.mode != Mode::PostCopy && self.refused.is_none()
    }

    /// A round is over when the target has all of it: what is on the way still takes its time. What was written until
    /// then belongs to the next one.
    fn survey(&mut self, now: Moment) {
        if let Some(round) = self.sent.as_mut().filter(|_| self.awaited.is_empty()) {
            round.ms = now.since(self.round_began).as_secs_f64() * 1e3;
            self.order(now, Step::Copying, SourceOutput::Survey, STALL);
        }
    }

    /// Without rounds of memory the pause is what it is, which the user has said it must not be.
    fn refuse_rounds(&mut self, now: Moment, why: Explained) {
        let reason = format!("the container's memory cannot cross in rounds: {}", why.reason);
        let hint = why.hint.unwrap_or_else(|| ALLOW.to_owned());
        self.roll_back(now, explained(&reason).with_hint(&hint));
    }

    fn freeze(&mut self, now: Moment, why: String) {
        self.why_frozen = why;
        self.enter(now, Phase::Freeze, Step::Freezing);
        self.frozen_at = Some(now);
        self.order(now, Step::Freezing, SourceOutput::Freeze, ANSWER);
    }

    fn read_record(&mut self) {
        self.order_for_long(Step::ReadingRecord, SourceOutput::ReadCommit);
    }

    fn commit(&mut self, now: Moment) {
        self.failure = None;
        self.delayed = None;
        self.pause = FIRST_PAUSE;
        self.step = Step::Committing;
        if self.link_up {
            self.order(now, Step::Committing, SourceOutput::Send(ToTarget::Commit), ANSWER);
            self.tell_lost();
        } else {
            self.reconnect();
        }
    }

    /// The target has the files, which it keeps, and the container stays here.
    fn stay(&mut self, now: Moment) {
        self.why_frozen = format!("its files are on {}", self.target);
        let why = explained("its files were sent ahead, and it stays where it is");
        self.order(now, Step::Staying, SourceOutput::Send(ToTarget::Abort { why }), STALL);
    }

    /// Back to where the container was, for this reason.
    fn roll_back(&mut self, now: Moment, why: Explained) {
        if self.link_up && self.offered {
            self.outputs.push_back(SourceOutput::Send(ToTarget::Abort { why: why.clone() }));
        }
        self.failure = Some(why);
        self.deadline = None;
        self.step = Step::RollingBack;
        if self.frozen_at.is_some() || self.past.is_some() {
            self.outputs.push_back(SourceOutput::Thaw);
        } else {
            self.conclude(now, Outcome::RolledBack);
            self.recall(now);
        }
    }

    /// After a rollback the target must hear it: it may have promised, and it may not even know that the link is gone.
    fn recall(&mut self, now: Moment) {
        self.step = Step::Recalling;
        if !self.offered {
            self.finish();
        } else if self.link_up {
            self.deadline = Some(now.after(ANSWER));
        } else {
            self.reconnect();
        }
    }

    fn reconnect(&mut self) {
        self.link_up = false;
        self.deadline = None;
        let pause = self.next_pause();
        self.outputs.push_back(SourceOutput::Reconnect(pause));
    }

    /// The pause before the next attempt; they double.
    fn next_pause(&mut self) -> Duration {
        let longer = (self.pause * 2).min(LONGEST_PAUSE);
        std::mem::replace(&mut self.pause, longer)
    }

    fn order(&mut self, now: Moment, step: Step, output: SourceOutput, limit: Duration) {
        self.outputs.push_back(output);
        self.wait(now, step, limit);
    }

    /// Orders what may take as long as it takes: a slow disk is no reason to do anything else.
    fn order_for_long(&mut self, step: Step, output: SourceOutput) {
        self.outputs.push_back(output);
        self.step = step;
        self.deadline = None;
    }

    fn wait(&mut self, now: Moment, step: Step, limit: Duration) {
        self.step = step;
        self.deadline = Some(now.after(limit));
    }

    fn enter(&mut self, now: Moment, phase: Phase, step: Step) {
        debug_assert!(self.phase <= phase, "phases never run backwards");
        *self.phases.entry(self.phase).or_default() += now.since(self.phase_since);
        self.phase = phase;
        self.phase_since = now;
        self.step = step;
    }

    fn conclude(&mut self, now: Moment, outcome: Outcome) {
        let mut phases = self.phases.clone();
        *phases.entry(self.phase).or_default() += now.since(self.phase_since);
        let reason = match (&self.failure, outcome) {
            (Some(why), _) => why.clone(),
            (None, _) => explained(&self.why_frozen),
        };
        let ended = self.running_at.unwrap_or(now);
        let downtime = self.frozen_at.map_or(Duration::ZERO, |frozen| ended.since(frozen));
        let downtime = self.past.is_none().then_some(downtime);
        let total = self.past.map_or(Duration::ZERO, |past| past.began) + now.since(self.began);
        self.outputs.push_back(SourceOutput::Conclude(SourceResult {
            outcome,
            downtime,
            total,
            phases,
            rounds: self.rounds.clone(),
            mode: self.mode(),
            exposure: self.exposure(),
            files_frozen: self.files_frozen,
            reason,
        }));
    }

    fn mode(&self) -> Mode {
        if let Some(past) = self.past {
            return past.mode;
        }
        match (self.frozen_at, self.settings.mode) {
            // It has come to nothing: what it would have been.
            (None, Mode::Auto) => Mode::PreCopy,
            (None, wanted) => wanted,
            (Some(_), _) if self.follows => Mode::PostCopy,
            (Some(_), _) if !self.memory_crossed => Mode::StopAndCopy,
            (Some(_), _) => Mode::PreCopy,
        }
    }

    fn exposure(&self) -> Option<Duration> {
        let (running, settled) = (self.running_at?, self.settled_at?);
        let exposure = match self.past {
            // It may have run there since then.
            Some(past) => past.decided + settled.since(self.began),
            None => settled.since(running),
        };
        (self.mode() == Mode::PostCopy).then_some(exposure)
    }

    fn finish(&mut self) {
        self.step = Step::Finished;
        self.deadline = None;
        self.outputs.push_back(SourceOutput::Finish);
    }

    fn too_late(&self) -> Explained {
        let what = match self.step {
            Step::Connecting => "could not be reached",
            Step::Greeting => "did not answer",
            Step::Preparing => "did not get ready",
            Step::SendingImage | Step::Copying | Step::Checkpointing | Step::Transferring => "took no more data",
            Step::Staying => "did not put the files away",
            Step::Restoring => "did not restore the container",
            Step::Freezing => {
                return explained("the container could not be frozen in time")
                    .with_hint("a process in uninterruptible sleep (state D) cannot be frozen");
            }
            _ => return explained(&format!("the phase {} took too long", self.phase)),
        };
        explained(&format!("{} {what} in time", self.target))
            .with_hint("check the network between the two nodes, and the log of the target's agent")
    }
}

fn explained(reason: &str) -> Explained {
    Explained { reason: reason.to_owned(), hint: None }
}
