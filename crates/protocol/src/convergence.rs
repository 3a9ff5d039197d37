//! What to do after a round of copying: another round, or freeze.
//!
//! `stop-and-copy` freezes at once. The decision model for pre-copy slots in here: it will weigh the dirty bytes
//! and the measured bandwidth against the downtime that the user allows.

use drover_model::{Mode, Round};

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Freeze the container, for the reason given in one sentence.
    Freeze(String),
}

/// Decides after the given rounds; with none, before the first.
#[must_use]
pub fn decide(mode: Mode, rounds: &[Round]) -> Decision {
    match mode {
        Mode::Auto | Mode::StopAndCopy => {
            debug_assert!(rounds.is_empty(), "stop-and-copy has no rounds before the freeze");
            Decision::Freeze("all memory crossed while the container was frozen (stop-and-copy)".to_owned())
        }
    }
}
