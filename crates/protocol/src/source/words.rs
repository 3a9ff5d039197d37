//! What the source's machine hears and orders, and what comes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use drover_model::{Bytes, Explained, Mode, Outcome, PageCount, Phase, Round};

use crate::message::{ToSource, ToTarget, Verdict, WantedLayer};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceInput {
    /// `AwaitFilled` is done: no page is on its way here any more.
    Filled,
    /// The link stands: after `Connect` or `Reconnect`.
    Connected,
    /// The link broke, or could not be made.
    LinkLost(Explained),
    /// A message came.
    Heard(ToSource),
    /// Bytes crossed since the last time: the deadline of a step that moves data starts anew.
    Progressed,
    /// `SendImage` is done.
    ImageSent,
    /// `SendRound` is done: what was sent, with the time that reading and sending took.
    RoundSent {
        /// What was sent.
        round: Round,
        /// Why no memory was, although it was ordered: the container's writes cannot be followed.
        refused: Option<Explained>,
    },
    /// `Survey` is done: so much has been written since the round began.
    Surveyed {
        /// Pages.
        pages: PageCount,
        /// Of files, about.
        files: Bytes,
    },
    /// `Slow` is done.
    Slowed,
    /// `Freeze` is done: no process runs and no packet passes.
    Frozen,
    /// `Checkpoint` is done: CRIU has finished, the processes are still frozen.
    Checkpointed,
    /// `Transfer` is done: every stream has been sent to its end.
    Transferred,
    /// `RecordCommit` is done: the decision is durable.
    CommitRecorded,
    /// `RecordCommit` failed: whether the record is durable is unknown.
    CommitUnknown(Explained),
    /// `ReadCommit` is done: whether a durable record exists; `None` when it could not be read.
    CommitRead(Option<bool>),
    /// `RecordReturned` is done.
    ReturnRecorded,
    /// An operator says whose it is, while the target does not.
    Resolved(Verdict),
    /// `Thaw` is done: the container runs and its packets pass.
    Thawed,
    /// `Thaw` failed.
    ThawFailed(Explained),
    /// `Destroy` is done.
    Destroyed,
    /// `RecordSettled` is done.
    SettledRecorded,
    /// The step that was ordered last failed. `RecordCommit`: before anything was written.
    StepFailed(Explained),
    /// Pages that were to follow cannot any more: the processes that had them have ended.
    Lost(Explained),
    /// Somebody asks to give up.
    Cancelled,
    /// The moment of `deadline` has come.
    DeadlinePassed,
}

/// What to do next, one at a time and in order.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceOutput {
    /// Wait until the last of the pages that follow the container from an earlier move is here: until then nobody can see
    /// which pages it has.
    AwaitFilled,
    /// Connect to the target.
    Connect,
    /// Wait this long, then connect to the target.
    Reconnect(Duration),
    /// Send a message.
    Send(ToTarget),
    /// Send these layers of the image.
    SendImage(Vec<WantedLayer>),
    /// Send what the container has written since the last round, in the first all that it has, while it runs: files,
    /// and memory.
    SendRound {
        /// Whether memory shall cross, too.
        memory: bool,
    },
    /// Find what the container has written meanwhile.
    Survey,
    /// Leave the container this share of its processor time, in percent.
    Slow(u32),
    /// Freeze the container, then close its network gate.
    Freeze,
    /// Dump the processes. What is left of memory crosses meanwhile; when it `follows`, only which pages those are.
    Checkpoint {
        /// Whether memory follows the container.
        follows: bool,
    },
    /// Send what is left.
    Transfer,
    /// Write the commit record, with how memory crossed, and wait until it is durable.
    RecordCommit(Mode),
    /// Read back whether a durable commit record exists.
    ReadCommit,
    /// Write durably that the container is the source's again. `heard`: the target knows it.
    RecordReturned {
        /// Whether nobody need be told any more.
        heard: bool,
    },
    /// Undo the freeze: open the gate and thaw. What has no processes any more begins anew, if it is to.
    Thaw,
    /// From now on answer the target's wishes for pages over this link, beside whatever is ordered next.
    Serve,
    /// Destroy the container here, sending nothing to its network.
    Destroy,
    /// Write durably that nothing of it is left here.
    RecordSettled,
    /// The outcome stands.
    Conclude(SourceResult),
    /// The machine is done.
    Finish,
}

/// The outcome by the source's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceResult {
    /// How it ended.
    pub outcome: Outcome,
    /// From the order to freeze until the container is known to run again. Unknown after a restart.
    pub downtime: Option<Duration>,
    /// From the beginning until now.
    pub total: Duration,
    /// Time in each phase that was entered.
    pub phases: BTreeMap<Phase, Duration>,
    /// The rounds while the container ran.
    pub rounds: Vec<Round>,
    /// How memory crossed.
    pub mode: Mode,
    /// When memory followed: how long the container ran on the target while pages of it were here alone.
    pub exposure: Option<Duration>,
    /// From when the container stood still until the target had all of its files.
    pub files_frozen: Option<Duration>,
    /// Why it ended so.
    pub reason: Explained,
}

/// What a journal tells of a migration that was decided before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// How memory crossed.
    pub mode: Mode,
    /// How long ago it began.
    pub began: Duration,
    /// How long ago it was decided.
    pub decided: Duration,
}
