//! Deliberate breaks of the protocol, to see whether the simulation finds them.
//!
//! Each is an error that an implementation could have: of a machine, of the journal, of the ownership rule, or of what is
//! done for them. They stand where the machines meet the world, so that the machines stay as they are.

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The target is told to go on before the decision is durable.
    CommitBeforeRecord,
    /// A record whose write failed counts as not written.
    UnknownIsNo,
    /// What was read back counts as durable, although it may be in memory alone.
    ReadBackWithoutSync,
    /// The target lets the container run as soon as it is restored.
    ResumeWithoutVerdict,
    /// A target that has promised goes on when the link breaks.
    TargetGoesOnAlone,
    /// The promise is not written.
    PromiseNotRecorded,
    /// A restarted source takes a decided container for its own.
    RestartIgnoresCommit,
    /// A restarted target throws a promised container away without a record.
    RestartDropsPromise,
    /// A target without a machine says that it knows nothing of a container that it owns.
    OwnedIsUnknown,
    /// A source whose frozen processes are gone, while pages follow, does not say so.
    LossIsNotTold,
    /// A target gives back what has run there, once it is gone.
    AcceptedIsGivenBack,
    /// The source destroys its copy when the container runs on the target, without waiting for the last page.
    DestroyOnResumed,
    /// A round is taken for stored before all of it has arrived.
    PagesLostInRound,
    /// What is written while a round is being read is not noticed.
    RoundForgetsWrites,
    /// The last files are not sent.
    LastFilesForgotten,
    /// A rollback thaws, and the target is never told.
    NoRecall,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::CommitBeforeRecord,
        Self::UnknownIsNo,
        Self::ReadBackWithoutSync,
        Self::ResumeWithoutVerdict,
        Self::TargetGoesOnAlone,
        Self::PromiseNotRecorded,
        Self::RestartIgnoresCommit,
        Self::RestartDropsPromise,
        Self::OwnedIsUnknown,
        Self::LossIsNotTold,
        Self::AcceptedIsGivenBack,
        Self::DestroyOnResumed,
        Self::PagesLostInRound,
        Self::RoundForgetsWrites,
        Self::LastFilesForgotten,
        Self::NoRecall,
    ];
}

impl std::fmt::Display for Mutant {
    /// Its name in words with dashes.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, letter) in format!("{self:?}").char_indices() {
            if letter.is_ascii_uppercase() && place > 0 {
                formatter.write_str("-")?;
            }
            write!(formatter, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}
