//! After the decision: the target hears it, however often the link breaks.

use drover_model::{Explained, Moment, Outcome, Phase};

use super::{ANSWER, FIRST_PAUSE, STALL, Source, SourceInput, SourceOutput, Step, explained};
use crate::message::{ToSource, ToTarget, Verdict};
use crate::ownership::ends_recall;

/// What a user can do with a container that nobody may run.
const KEPT: &str =
    "the frozen container is kept on the source: see what the target has, then `drover migrate --resolve`";

impl Source {
    pub(super) fn handle_committing(&mut self, now: Moment, input: SourceInput) {
        use SourceInput as In;
        match input {
            In::Connected => {
                self.link_up = true;
                self.pause = FIRST_PAUSE;
                let resume = ToTarget::Resume { migration: self.migration.clone(), verdict: Verdict::Commit };
                self.order(now, Step::Committing, SourceOutput::Send(resume), ANSWER);
                if self.follows {
                    self.outputs.push_back(SourceOutput::Serve);
                }
                self.tell_lost();
            }
            In::Lost(why) => {
                self.lose(&why);
                self.tell_lost();
            }
            In::Progressed if self.link_up => self.deadline = Some(now.after(STALL)),
            In::Heard(ToSource::Delayed(why)) => {
                self.delayed = Some(why);
                self.deadline = Some(now.after(STALL));
            }
            In::Heard(ToSource::Resumed) => {
                self.resumed(now);
                // What follows may take as long as a disk takes, or as the memory that follows.
                self.deadline = Some(now.after(STALL));
            }
            In::Heard(ToSource::Committed) => self.settle(now),
            In::Heard(ToSource::Failed(why)) => {
                self.failure = Some(why.with_hint(KEPT));
                self.conclude(now, Outcome::Failed);
                self.finish();
            }
            // It does not run there and never will: that is durable there.
            In::Heard(ToSource::Aborted) => {
                let reason = format!("{} lost the container before it ran there, and gave it back", self.target);
                self.take_back(explained(&reason), true);
            }
            In::Heard(ToSource::Unknown) => {
                let reason = "the target knows nothing of the container although it had promised to keep it";
                self.failure = Some(explained(reason).with_hint(KEPT));
                self.conclude(now, Outcome::Failed);
                self.finish();
            }
            In::Resolved(Verdict::Abort) => {
                let why = explained("an operator took it back, without a word of the target");
                self.take_back(why, false);
            }
            In::Resolved(Verdict::Commit) => {
                self.why_frozen = "an operator gave it to the target, without a word of it".to_owned();
                self.settle(now);
            }
            In::LinkLost(_) => {
                self.link_up = false;
                self.reconnect();
            }
            // A target that answers nothing is a link that carries nothing.
            In::DeadlinePassed if self.link_up => self.reconnect(),
            _ => {}
        }
    }

    /// The target owns it, durably.
    fn settle(&mut self, now: Moment) {
        self.resumed(now);
        self.settled_at = Some(now);
        self.destroy();
    }

    fn destroy(&mut self) {
        self.order_for_long(Step::Destroying, SourceOutput::Destroy);
    }

    pub(super) fn handle_destroying(&mut self, now: Moment, input: SourceInput) {
        use SourceInput as In;
        match input {
            In::Destroyed => {
                if self.link_up {
                    self.outputs.push_back(SourceOutput::Send(ToTarget::Settled));
                }
                self.conclude_moved(now, None);
                self.pause = FIRST_PAUSE;
                self.record_settled();
            }
            In::StepFailed(why) => {
                // The container is on the target; what is left here is debris, not a second copy. It must not stay.
                self.conclude_moved(now, Some(why));
                self.deadline = Some(now.after(self.next_pause()));
            }
            In::DeadlinePassed => self.destroy(),
            In::LinkLost(_) => self.link_up = false,
            _ => {}
        }
    }

    /// Destroyed once and never again: it may come back here while its end is being written.
    fn record_settled(&mut self) {
        self.order_for_long(Step::Settling, SourceOutput::RecordSettled);
    }

    pub(super) fn handle_settling(&mut self, now: Moment, input: SourceInput) {
        use SourceInput as In;
        match input {
            In::SettledRecorded => self.finish(),
            In::StepFailed(_) => {
                self.deadline = Some(now.after(self.next_pause()));
            }
            In::DeadlinePassed => self.record_settled(),
            _ => {}
        }
    }

    /// It has moved, unless its memory was lost on the way. `left`: why something of it is left here.
    fn conclude_moved(&mut self, now: Moment, left: Option<Explained>) {
        if !std::mem::replace(&mut self.concluded, true) {
            let outcome = if self.lost.is_some() { Outcome::Failed } else { Outcome::Moved };
            self.failure = self.lost.take().or(left);
            self.conclude(now, outcome);
        }
    }

    /// The container goes on here after all. It must be durable before that: a restart would tell the target again that it
    /// owns it.
    fn take_back(&mut self, why: Explained, heard: bool) {
        self.failure = Some(why);
        self.offered = !heard;
        self.pause = FIRST_PAUSE;
        self.record_return();
    }

    fn record_return(&mut self) {
        self.order_for_long(Step::Returning, SourceOutput::RecordReturned { heard: !self.offered });
    }

    pub(super) fn handle_returning(&mut self, now: Moment, input: SourceInput) {
        use SourceInput as In;
        match input {
            In::ReturnRecorded => {
                let why = self.failure.take().unwrap_or_else(|| explained("it was given back"));
                self.roll_back(now, why);
            }
            In::StepFailed(why) => {
                self.delayed = Some(why);
                self.deadline = Some(now.after(self.next_pause()));
            }
            In::DeadlinePassed => self.record_return(),
            In::Connected => self.link_up = true,
            In::LinkLost(_) => self.link_up = false,
            _ => {}
        }
    }

    /// The container runs on the target: downtime has ended.
    pub(super) fn resumed(&mut self, now: Moment) {
        if self.running_at.is_none() {
            self.running_at = Some(now);
            self.enter(now, Phase::Settle, self.step);
        }
    }

    pub(super) fn handle_recalling(&mut self, now: Moment, input: SourceInput) {
        use SourceInput as In;
        match input {
            In::Connected => {
                self.link_up = true;
                self.pause = FIRST_PAUSE;
                let resume = ToTarget::Resume { migration: self.migration.clone(), verdict: Verdict::Abort };
                self.order(now, Step::Recalling, SourceOutput::Send(resume), ANSWER);
            }
            In::Heard(answer) if ends_recall(&answer) => self.finish(),
            In::LinkLost(_) => {
                self.link_up = false;
                self.reconnect();
            }
            In::DeadlinePassed if self.link_up => self.reconnect(),
            _ => {}
        }
    }

    pub(super) fn lose(&mut self, why: &Explained) {
        let Self { node, target, .. } = self;
        let reason = format!("its memory on {node} is lost, and it was ended on {target}: {}", why.reason);
        self.lost =
            Some(explained(&reason).with_hint(format!("its files are on {target}: `drover start` begins it anew")));
    }

    /// The container cannot go on without what is lost.
    pub(super) fn tell_lost(&mut self) {
        if let Some(why) = self.lost.clone().filter(|_| self.link_up) {
            self.outputs.push_back(SourceOutput::Send(ToTarget::Lost { why }));
        }
    }
}
