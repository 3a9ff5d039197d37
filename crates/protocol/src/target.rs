//! The target's machine: it makes ready, restores, promises, and runs the container once told to.

use std::collections::VecDeque;
use std::time::Duration;

use drover_model::{Explained, Moment, NodeName, Phase};

use crate::message::{Offer, Part, ToSource, ToTarget, Verdict, WantedLayer};
use crate::ownership::Ownership;
use crate::{VERSIONS, negotiate};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetInput {
    /// A message came.
    Heard(ToTarget),
    /// The link broke.
    LinkLost,
    /// A new link came for this migration, beginning with `Resume` of this verdict.
    Reconnected(Verdict),
    /// Bytes crossed since the last time.
    Progressed,
    /// `Prepare` is done.
    Prepared {
        /// The layers of the image that must be sent first.
        missing: Vec<WantedLayer>,
    },
    /// `ReceiveImage` is done: the image is whole, checked, and the container's place is ready.
    ImageReceived,
    /// `Restore` is done: the container is restored, frozen, its gate closed.
    Restored,
    /// `RecordPromise` is done.
    PromiseRecorded,
    /// `Resume` was not done, for the restored processes are gone and have never run.
    Gone,
    /// `RecordAccepted` is done.
    AcceptRecorded,
    /// `RecordReturned` is done.
    ReturnRecorded,
    /// `Resume` is done: the container runs, its packets pass, its address is announced.
    Resumed,
    /// `Kill` is done.
    Killed,
    /// `RecordOwned` is done.
    OwnedRecorded,
    /// All of a round has arrived.
    RoundStored(Part),
    /// What crosses cannot be taken.
    ReceiveFailed(Explained),
    /// Every page that followed the container has arrived.
    Arrived,
    /// `Discard` is done.
    Discarded,
    /// The step that was ordered last failed.
    StepFailed(Explained),
    /// The moment of `deadline` has come.
    DeadlinePassed,
}

/// What to do next, one at a time and in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetOutput {
    /// Send a message, if the link stands.
    Send(ToSource),
    /// Check the offer and make the container's place ready.
    Prepare(Box<Offer>),
    /// Receive the image, then make the container's place ready.
    ReceiveImage,
    /// Restore the container and leave it frozen.
    Restore,
    /// Write durably that the container was promised.
    RecordPromise,
    /// Write durably that it runs here, once its files are durable: what is gone from now on begins anew here.
    RecordAccepted,
    /// Write durably that it never ran here and never will.
    RecordReturned,
    /// Thaw it, open its gate, announce its address.
    Resume,
    /// Say `Arrived` when no page is on the source alone any more, beside whatever is ordered next.
    AwaitArrival,
    /// End it, for memory that was to follow is lost.
    Kill(Explained),
    /// Write durably that it is ours.
    RecordOwned,
    /// Remove everything of the container.
    Discard,
    /// The machine is done; whether the container runs here now.
    Finish(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Greeting,
    Waiting,
    Preparing,
    ReceivingImage,
    Ready,
    Restoring,
    Promising,
    /// Promised: the container is kept, frozen, until the verdict is heard, link or no link.
    Promised,
    /// It is gone, and has never run here: the source shall have it back.
    GivingBack,
    Resuming,
    /// It runs here; that is being written.
    Accepting,
    /// It runs here, and pages of it may be on the source alone.
    Following,
    Owning,
    Owned,
    Discarding,
    Finished,
}

/// How long the source may leave us without a word or a byte before a promise was made.
const SILENCE: Duration = Duration::from_secs(150);
/// How long the source may take to destroy its copy.
const SETTLING: Duration = Duration::from_secs(60);

/// The pauses before a step is tried again that must not fail for ever; they double.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The target's machine.
#[derive(Debug)]
pub struct Target {
    node: NodeName,
    step: Step,
    phase: Phase,
    /// Said to the source once everything is discarded.
    last_word: Option<ToSource>,
    /// Before a step that failed is tried again.
    pause: Duration,
    deadline: Option<Moment>,
    outputs: VecDeque<TargetOutput>,
}

impl Target {
    /// A link that just came.
    #[must_use]
    pub fn new(now: Moment, node: NodeName) -> Self {
        Self {
            node,
            step: Step::Greeting,
            phase: Phase::Prepare,
            last_word: None,
            pause: FIRST_PAUSE,
            deadline: Some(now.after(SILENCE)),
            outputs: VecDeque::new(),
        }
    }

    /// What a restarted agent found in its journal and on its node: a promise, kept or broken, or an acceptance.
    #[must_use]
    pub fn recovered(node: NodeName, ownership: Ownership) -> Self {
        let (step, phase, first) = match ownership {
            Ownership::Accepted => (Step::Following, Phase::Settle, Some(TargetOutput::AwaitArrival)),
            Ownership::GivenBack => (Step::GivingBack, Phase::Commit, Some(TargetOutput::RecordReturned)),
            _ => (Step::Promised, Phase::Commit, None),
        };
        Self {
            node,
            step,
            phase,
            last_word: None,
            pause: FIRST_PAUSE,
            deadline: None,
            outputs: first.into_iter().collect(),
        }
    }

    /// Where the migration is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the container is kept frozen until the source's verdict is heard.
    #[must_use]
    pub fn promised(&self) -> bool {
        matches!(self.step, Step::Promised | Step::GivingBack)
    }

    /// Whether the container is here, promised or running, while pages of it may be on the source alone.
    #[must_use]
    pub fn may_follow(&self) -> bool {
        matches!(self.step, Step::Promised | Step::Resuming | Step::Accepting | Step::Following)
    }

    /// When `DeadlinePassed` is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<TargetOutput> {
        self.outputs.pop_front()
    }

    /// Takes notice of what happened at `now`.
    pub fn handle(&mut self, now: Moment, input: TargetInput) {
        use TargetInput as In;
        match (self.step, input) {
            (Step::Finished, _) => {}
            (Step::Greeting, In::Heard(ToTarget::Hello { versions, .. })) => self.greet(now, versions),
            (Step::Waiting, In::Heard(ToTarget::Offer(offer))) => {
                self.order(now, Step::Preparing, TargetOutput::Prepare(offer));
            }
            (Step::Preparing, In::Prepared { missing }) if !missing.is_empty() => {
                self.say(ToSource::NeedImage { layers: missing });
                self.order(now, Step::ReceivingImage, TargetOutput::ReceiveImage);
            }
            (Step::Preparing, In::Prepared { .. }) | (Step::ReceivingImage, In::ImageReceived) => {
                self.say(ToSource::Ready);
                self.phase = Phase::Copy;
                self.step = Step::Ready;
                self.deadline = Some(now.after(SILENCE));
            }
            (Step::Ready | Step::Restoring, In::RoundStored(part)) => self.say(ToSource::Stored { part }),
            (Step::Ready, In::ReceiveFailed(why)) => self.discard(Some(ToSource::Failed(why))),
            (Step::Ready, In::Heard(ToTarget::Restore)) => {
                self.phase = Phase::Restore;
                self.order(now, Step::Restoring, TargetOutput::Restore);
            }
            (Step::Restoring, In::Restored) => self.order(now, Step::Promising, TargetOutput::RecordPromise),
            (Step::Promising, In::PromiseRecorded) => {
                self.phase = Phase::Commit;
                self.step = Step::Promised;
                self.deadline = None;
                self.say(ToSource::Restored);
            }
            (Step::Promised, In::Heard(ToTarget::Commit) | In::Reconnected(Verdict::Commit)) => {
                self.order(now, Step::Resuming, TargetOutput::Resume);
                self.deadline = None;
            }
            (Step::Resuming, In::Gone) => {
                self.order(now, Step::GivingBack, TargetOutput::RecordReturned);
                self.deadline = None;
            }
            (Step::GivingBack, In::ReturnRecorded) => self.discard(Some(ToSource::Aborted)),
            (Step::Resuming, In::Resumed) => {
                self.phase = Phase::Settle;
                self.say(ToSource::Resumed);
                self.order(now, Step::Accepting, TargetOutput::RecordAccepted);
                self.deadline = None;
            }
            (Step::Accepting, In::AcceptRecorded) => {
                self.order(now, Step::Following, TargetOutput::AwaitArrival);
                self.deadline = None;
            }
            (Step::Resuming | Step::Accepting | Step::Following, In::Heard(ToTarget::Lost { why })) => {
                self.outputs.push_back(TargetOutput::Kill(why));
            }
            (Step::Following, In::Arrived) => {
                self.order(now, Step::Owning, TargetOutput::RecordOwned);
                self.deadline = None;
            }
            // It is ours and cannot be given back: whatever stands in the way, it is tried until it works. Meanwhile the
            // source keeps its copy.
            (Step::Accepting | Step::GivingBack | Step::Resuming | Step::Owning, In::StepFailed(why)) => {
                self.say(ToSource::Delayed(why));
                self.deadline = Some(now.after(self.pause));
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            (Step::Accepting, In::DeadlinePassed) => self.again(TargetOutput::RecordAccepted),
            (Step::GivingBack, In::DeadlinePassed) => self.again(TargetOutput::RecordReturned),
            (Step::Resuming, In::DeadlinePassed) => self.again(TargetOutput::Resume),
            (Step::Owning, In::DeadlinePassed) => self.again(TargetOutput::RecordOwned),
            (Step::Accepting | Step::Following | Step::Owning, In::Reconnected(Verdict::Commit)) => {
                self.say(ToSource::Resumed)
            }
            (Step::Owning, In::OwnedRecorded) => {
                self.say(ToSource::Committed);
                self.step = Step::Owned;
                self.deadline = Some(now.after(SETTLING));
            }
            (Step::Owned, In::Reconnected(Verdict::Commit)) => self.say(ToSource::Committed),
            (Step::Owned, In::Heard(ToTarget::Settled) | In::LinkLost | In::DeadlinePassed) => self.finish(true),
            (Step::Promised, In::Heard(ToTarget::Abort { .. }) | In::Reconnected(Verdict::Abort)) => {
                self.discard(Some(ToSource::Aborted));
            }
            // After the promise neither silence nor a broken link changes anything.
            (
                Step::Promised
                | Step::Accepting
                | Step::GivingBack
                | Step::Resuming
                | Step::Following
                | Step::Owning
                | Step::Owned,
                _,
            ) => {}
            (Step::Discarding, In::Discarded | In::StepFailed(_)) => {
                if let Some(word) = self.last_word.take() {
                    self.say(word);
                }
                self.finish(false);
            }
            (Step::Discarding, In::LinkLost) => self.last_word = None,
            (Step::Discarding, In::Reconnected(_)) => self.last_word = Some(ToSource::Aborted),
            (Step::Discarding, _) => {}
            (_, In::Heard(ToTarget::Abort { .. }) | In::Reconnected(Verdict::Abort)) => {
                self.discard(Some(ToSource::Aborted));
            }
            (Step::Preparing, In::StepFailed(why)) => self.discard(Some(ToSource::Refused(why))),
            (_, In::StepFailed(why)) => self.discard(Some(ToSource::Failed(why))),
            (_, In::LinkLost | In::DeadlinePassed) => self.discard(None),
            (_, In::Progressed) => self.deadline = Some(now.after(SILENCE)),
            (_, In::Heard(unexpected)) => {
                let reason = format!("the source sent {} in the phase {}", unexpected.word(), self.phase);
                self.discard(Some(ToSource::Failed(Explained { reason, hint: None })));
            }
            _ => {}
        }
    }

    fn greet(&mut self, now: Moment, versions: (u16, u16)) {
        if let Some(version) = negotiate(versions) {
            self.say(ToSource::Welcome { version, node: self.node.clone() });
            self.step = Step::Waiting;
            self.deadline = Some(now.after(SILENCE));
        } else {
            let (oldest, newest) = VERSIONS;
            let reason = format!(
                "the source speaks versions {} to {} of the protocol and the target {oldest} to {newest}",
                versions.0, versions.1
            );
            self.say(ToSource::Refused(Explained { reason, hint: Some("update Drover on the older node".into()) }));
            self.finish(false);
        }
    }

    fn discard(&mut self, last_word: Option<ToSource>) {
        self.last_word = last_word;
        self.step = Step::Discarding;
        self.deadline = None;
        self.outputs.push_back(TargetOutput::Discard);
    }

    fn order(&mut self, now: Moment, step: Step, output: TargetOutput) {
        self.step = step;
        self.deadline = Some(now.after(SILENCE));
        self.outputs.push_back(output);
    }

    fn again(&mut self, step: TargetOutput) {
        self.deadline = None;
        self.outputs.push_back(step);
    }

    fn say(&mut self, message: ToSource) {
        self.outputs.push_back(TargetOutput::Send(message));
    }

    fn finish(&mut self, runs: bool) {
        self.step = Step::Finished;
        self.deadline = None;
        self.outputs.push_back(TargetOutput::Finish(runs));
    }
}

impl ToTarget {
    fn word(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Resume { .. } => "resume",
            Self::Offer(_) => "an offer",
            Self::Restore => "the order to restore",
            Self::Commit => "commit",
            Self::Abort { .. } => "abort",
            Self::Lost { .. } => "a loss",
            Self::Settled => "settled",
        }
    }
}
