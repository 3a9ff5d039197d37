//! Who may run a container after any crash: what the journal says, against what is found.
//!
//! Before a durable `Commit` it is the source's; after it the target's, unless the target durably gives it back. A target
//! gives back what it has lost before its files were durable there: the node went down between promise and acceptance.
//! Then the source has the only whole copy, which goes on. After the acceptance the container is the target's for good,
//! and what is lost there begins anew there.

use crate::journal::Mark;
use crate::message::{ToSource, Verdict};

/// What an agent that starts has to do with a container that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// It is this node's, and nothing is under way: whoever froze it is gone without a decision. If its processes are gone,
    /// its restart policy says what happens.
    Stays,
    /// It has left: its target must hear that, and then it is removed here.
    Leaves,
    /// It is kept frozen until its source's verdict is heard.
    Awaits,
    /// It is this node's; pages of it may be on its source alone.
    Accepted,
    /// It was promised and is gone: its source, which still has it, must hear that once that is durable.
    GivenBack,
    /// It has not arrived: nothing of it is kept.
    Discarded,
}

impl Ownership {
    /// By the newest mark in the journal about the container, whether its record says that it is still arriving, and
    /// whether its processes are there or are known to have ended.
    #[must_use]
    pub fn of(newest: Option<Mark>, arriving: bool, alive: bool) -> Self {
        match newest {
            Some(Mark::Commit) => Self::Leaves,
            Some(Mark::Promised) if alive => Self::Awaits,
            Some(Mark::Promised) => Self::GivenBack,
            Some(Mark::Accepted) => Self::Accepted,
            _ if arriving => Self::Discarded,
            _ => Self::Stays,
        }
    }
}

/// What a target without a machine for a migration answers a source that has come to tell its verdict. `None`: nothing may
/// be said, for the container is here and nobody can deal with it.
#[must_use]
pub fn answer(latest: Option<Mark>, verdict: Verdict) -> Option<ToSource> {
    match (latest, verdict) {
        // Of an abort, too: an operator may have said here that it is ours.
        (Some(Mark::Owned), _) => Some(ToSource::Committed),
        // Durable: it does not run here and never will.
        (Some(Mark::Discarded), _) => Some(ToSource::Aborted),
        (Some(Mark::Promised | Mark::Accepted), _) => None,
        _ => Some(ToSource::Unknown),
    }
}

/// Whether a source that tells a target of a rollback need not tell it again after this answer: the target holds nothing, or
/// an operator there has said that the container is the target's.
#[must_use]
pub fn ends_recall(answer: &ToSource) -> bool {
    matches!(answer, ToSource::Aborted | ToSource::Unknown | ToSource::Failed(_) | ToSource::Committed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_whose_processes_are_gone_is_given_back_until_it_was_accepted() {
        assert_eq!(Ownership::of(Some(Mark::Promised), true, true), Ownership::Awaits);
        assert_eq!(Ownership::of(Some(Mark::Promised), true, false), Ownership::GivenBack);
        assert_eq!(Ownership::of(Some(Mark::Accepted), true, false), Ownership::Accepted);
        assert_eq!(answer(Some(Mark::Discarded), Verdict::Commit), Some(ToSource::Aborted));
        assert_eq!(answer(Some(Mark::Accepted), Verdict::Abort), None);
    }

    /// A source whose node had been lost before its decision recalled for ever what an operator had given to the target.
    #[test]
    fn a_target_that_keeps_a_container_by_an_operator_s_word_ends_the_recall() {
        assert!(ends_recall(&answer(Some(Mark::Owned), Verdict::Abort).unwrap()));
        assert!(ends_recall(&answer(None, Verdict::Abort).unwrap()));
        assert!(!ends_recall(&ToSource::Resumed));
    }

    #[test]
    fn what_was_not_decided_stays_and_what_was_not_promised_goes() {
        for alive in [true, false] {
            assert_eq!(Ownership::of(Some(Mark::Began), false, alive), Ownership::Stays);
            assert_eq!(Ownership::of(None, true, alive), Ownership::Discarded);
            assert_eq!(Ownership::of(Some(Mark::Commit), false, alive), Ownership::Leaves);
        }
    }
}
