//! The migration protocol, sans IO: two machines, their messages, the frames they cross in, and who may run the
//! container after any crash.
//!
//! A machine is told what happened (`handle`), says what to do next (`poll`), and by when it wants to hear
//! (`deadline`). It knows no clock, socket or thread; the engine's driver does the work. Bulk data (pages,
//! files) never passes through a machine: it orders a stream to be sent and hears when that is done.
//!
//! Invariants, asked after every step by the tests:
//! - Before the source has ordered `RecordCommit` it may thaw; once `CommitRecorded` was heard it never does.
//! - A commit record whose write failed is unknown, not absent: it is read again, and only a durable "absent"
//!   lets the source thaw.
//! - The target orders `Resume` only after it heard `Commit`, from the link or by a later `Reconnected`.
//! - A target that has promised (sent `Restored`) keeps the frozen container until it hears the decision.

mod convergence;
mod forecast;
mod frame;
mod journal;
mod message;
mod ownership;
mod pace;
mod queue;
mod reservation;
mod share;
mod source;
mod target;

pub use convergence::{Course, Decision, FixedPart};
pub use forecast::{Forecast, Prospect, Writes};
pub use frame::{FRAME_HEADER, FrameError, FrameHeader, MAX_CONTROL, MAX_DATA, Stream};
pub use journal::{Decided, Entry, Journal, Mark, Storage};
pub use message::{DecodeError, Offer, OfferedImage, Part, ToSource, ToTarget, Verdict, WantedLayer, decode, encode};
pub use ownership::{Ownership, answer, ends_recall};
pub use pace::{CAPPED_PIECE, Cap, Meter};
pub use queue::{Queue, Ticket};
pub use reservation::{Answer, NodeRoom, Question};
pub use share::{Member, Share, Urgency};
pub use source::{Past, Source, SourceInput, SourceOutput, SourceResult};
pub use target::{Target, TargetInput, TargetOutput};

/// The versions of the protocol that this build speaks, oldest and newest.
pub const VERSIONS: (u16, u16) = (5, 5);

/// The newest version that both sides speak, if there is one.
#[must_use]
pub fn negotiate(theirs: (u16, u16)) -> Option<u16> {
    let newest = VERSIONS.1.min(theirs.1);
    (newest >= VERSIONS.0 && newest >= theirs.0).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_takes_the_newest_common_version() {
        assert_eq!(negotiate(VERSIONS), Some(VERSIONS.1));
        assert_eq!(negotiate((1, 9)), Some(5));
        assert_eq!(negotiate((6, 9)), None);
        assert_eq!(negotiate((0, 0)), None);
    }
}
