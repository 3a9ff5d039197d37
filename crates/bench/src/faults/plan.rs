//! Which faults there are, into which phases they are brought, and which of these cells are wished for. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::lab::{SOURCE, TARGET};

/// The phases of a move, as Drover says them.
pub const PHASES: [&str; 8] = ["prepare", "copy", "freeze", "checkpoint", "transfer", "restore", "commit", "settle"];
/// How long a peer stalls: longer than the bound on a link that takes nothing.
const STALL: Duration = Duration::from_secs(20);
/// How long the target's disk or memory is full.
const FULL: Duration = Duration::from_secs(5);
/// How long a node is without power.
const OUTAGE: Duration = Duration::from_secs(2);

/// One of the two nodes of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that is left.
    Source,
    /// The one that is moved to.
    Target,
}

impl Side {
    /// The node's name in the lab.
    pub fn node(self) -> &'static str {
        match self {
            Self::Source => SOURCE,
            Self::Target => TARGET,
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The agent is killed.
    Agent(Side),
    /// Every CRIU of the node is killed.
    Criu(Side),
    /// The node loses power, and comes back.
    Node(Side),
    /// The target's link is cut for so many seconds.
    Cut(u64),
    /// The target's link is cut until the move has come to an end, or to doubt.
    CutForEver,
    /// The agent stands still for [`STALL`].
    Stall(Side),
    /// A bit turns over on the way to this node.
    Flip(Side),
    /// The target's disk is full for [`FULL`].
    Disk,
    /// The target has no memory left for [`FULL`].
    Memory,
}

/// All faults.
pub const FAULTS: [Fault; 15] = [
    Fault::Agent(Side::Source),
    Fault::Agent(Side::Target),
    Fault::Criu(Side::Source),
    Fault::Criu(Side::Target),
    Fault::Node(Side::Source),
    Fault::Node(Side::Target),
    Fault::Cut(1),
    Fault::Cut(30),
    Fault::CutForEver,
    Fault::Stall(Side::Source),
    Fault::Stall(Side::Target),
    Fault::Flip(Side::Source),
    Fault::Flip(Side::Target),
    Fault::Disk,
    Fault::Memory,
];

impl Fault {
    /// Its word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent(Side::Source) => "source-agent",
            Self::Agent(Side::Target) => "target-agent",
            Self::Criu(Side::Source) => "source-criu",
            Self::Criu(Side::Target) => "target-criu",
            Self::Node(Side::Source) => "source-node",
            Self::Node(Side::Target) => "target-node",
            Self::Cut(1) => "cut-1s",
            Self::Cut(_) => "cut-30s",
            Self::CutForEver => "cut-for-ever",
            Self::Stall(Side::Source) => "source-stalls",
            Self::Stall(Side::Target) => "target-stalls",
            Self::Flip(Side::Source) => "flip-to-source",
            Self::Flip(Side::Target) => "flip-to-target",
            Self::Disk => "target-disk-full",
            Self::Memory => "target-memory-full",
        }
    }

    /// How long it lasts; nothing for what is over as soon as it has happened, or has no end of its own.
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Self::Node(_) => Some(OUTAGE),
            Self::Cut(seconds) => Some(Duration::from_secs(seconds)),
            Self::Stall(_) => Some(STALL),
            Self::Disk | Self::Memory => Some(FULL),
            Self::Agent(_) | Self::Criu(_) | Self::CutForEver | Self::Flip(_) => None,
        }
    }

    /// The node whose containers it ends.
    pub fn node_without_power(self) -> Option<&'static str> {
        if let Self::Node(side) = self { Some(side.node()) } else { None }
    }
}

/// A fault in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The phase.
    pub phase: &'static str,
    /// The fault.
    pub fault: Fault,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.phase, self.fault.word())
    }
}

/// Some cells: `PHASE/FAULT`, either of them `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    phase: Option<&'static str>,
    fault: Option<Fault>,
}

/// A text that names no cells.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not PHASE/FAULT: phases are {phases}; faults are {faults}; * is any", phases = PHASES.join(", "),
    faults = FAULTS.map(Fault::word).join(", "))]
pub struct InvalidChoice(String);

impl FromStr for Choice {
    type Err = InvalidChoice;

    fn from_str(text: &str) -> Result<Self, InvalidChoice> {
        let invalid = || InvalidChoice(text.to_owned());
        let (phase, fault) = text.split_once('/').ok_or_else(invalid)?;
        let phase = match phase {
            "*" => None,
            word => Some(*PHASES.iter().find(|phase| **phase == word).ok_or_else(invalid)?),
        };
        let fault = match fault {
            "*" => None,
            word => Some(*FAULTS.iter().find(|fault| fault.word() == word).ok_or_else(invalid)?),
        };
        Ok(Self { phase, fault })
    }
}

/// The cells that are chosen, all when nothing is, those of a fault together.
pub fn cells(only: &[Choice]) -> Vec<Cell> {
    let all = FAULTS.iter().flat_map(|&fault| PHASES.map(|phase| Cell { phase, fault }));
    let chosen = |cell: &Cell| {
        let fits = |choice: &Choice| {
            choice.phase.is_none_or(|phase| phase == cell.phase) && choice.fault.is_none_or(|fault| fault == cell.fault)
        };
        only.is_empty() || only.iter().any(fits)
    };
    all.filter(chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_chosen_by_phase_by_fault_or_by_both() {
        let chosen = |text: &str| cells(&[text.parse().unwrap()]).len();
        assert_eq!(cells(&[]).len(), PHASES.len() * FAULTS.len());
        assert_eq!((chosen("freeze/*"), chosen("*/cut-1s"), chosen("copy/source-node")), (15, 8, 1));
        for wrong in ["freeze", "thaw/cut-1s", "copy/fire", ""] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_fault_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = FAULTS.iter().map(|fault| fault.word()).collect();
        assert_eq!(words.len(), FAULTS.len());
    }
}
