//! What goes wrong: a plan by chance. A fault comes before an event of some number, so that every step is hit, or shortly
//! after a write to a journal, for what matters happens around those.

use crate::chance::Chance;
use crate::disk::Health;
use crate::node::Micros;

/// One of the things that go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The agent is killed; containers go on.
    AgentDies {
        node: usize,
        back: Micros,
    },
    /// The node goes down with all that runs there.
    PowerFails {
        node: usize,
        back: Micros,
    },
    /// The same in the middle of the next write to the journal.
    PowerFailsInWrite {
        node: usize,
    },
    /// It goes down and never comes back.
    NodeIsLost {
        node: usize,
    },
    /// Nothing passes between the nodes.
    Cut {
        heals: Micros,
    },
    /// Every link breaks, and new ones can be made.
    Reset,
    /// Messages are lost, doubled and overtaken.
    Unruly {
        ends: Micros,
    },
    DiskFails {
        node: usize,
        health: Health,
        heals: Micros,
    },
    ClockJumps {
        node: usize,
        by: i64,
    },
    /// The next step hangs.
    Hangs {
        node: usize,
        extra: Micros,
    },
    /// A node's disk lies, its link is cut and its agent or its power goes, one soon after the other.
    Storm {
        node: usize,
        heals: Micros,
    },
    /// Somebody cancels.
    Cancel,
}

/// When it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// So many events have been handled.
    Event(u64),
    /// So many events have been handled since the write of this number.
    Write(u64, u64),
}

const MS: u64 = 1_000;
const S: u64 = 1_000_000;
/// Before which event the last fault may come: a migration that goes well has some 150.
const LAST_EVENT: u64 = 420;
/// The same after a write, and the last write: a migration that goes well has seven.
const LAST_WRITE: u64 = 16;
const SOON: u64 = 16;
/// How many at most.
const MOST: u64 = 7;

/// A plan, the first first.
pub(crate) fn plan(chance: &mut Chance) -> Vec<(When, Fault)> {
    let count = chance.below(MOST);
    let mut faults: Vec<(When, Fault)> = (0..count).map(|_| (when(chance), fault(chance))).collect();
    // Around the decision of the first migration, the third write, most is at stake.
    if chance.one_in(4) {
        let storm = Fault::Storm { node: node(chance), heals: moment(chance) };
        faults.push((When::Write(chance.between(1, 3), chance.below(SOON / 2)), storm));
    }
    if chance.one_in(20) {
        faults.push((when(chance), Fault::NodeIsLost { node: node(chance) }));
    }
    faults
}

fn when(chance: &mut Chance) -> When {
    if chance.one_in(2) {
        When::Event(chance.below(LAST_EVENT))
    } else {
        When::Write(chance.below(LAST_WRITE), chance.below(SOON))
    }
}

fn node(chance: &mut Chance) -> usize {
    usize::from(chance.one_in(2))
}

fn moment(chance: &mut Chance) -> Micros {
    let scale = chance.one_of(&[MS, 100 * MS, S, 40 * S, 400 * S]);
    chance.between(1, scale)
}

fn fault(chance: &mut Chance) -> Fault {
    let node = node(chance);
    match chance.below(18) {
        0..=2 => Fault::AgentDies { node, back: moment(chance) },
        3 | 4 => Fault::PowerFails { node, back: moment(chance) },
        5 => Fault::PowerFailsInWrite { node },
        6 | 7 => Fault::Cut { heals: moment(chance) },
        8 | 9 => Fault::Reset,
        10 => Fault::Unruly { ends: moment(chance) },
        11 | 12 => {
            let health = chance.one_of(&[Health::Refuses, Health::Lies, Health::Lies, Health::Dead]);
            Fault::DiskFails { node, health, heals: moment(chance) }
        }
        13 => {
            let far = i64::try_from(moment(chance)).unwrap_or(0);
            Fault::ClockJumps { node, by: if chance.one_in(2) { far } else { -far } }
        }
        14 | 15 => Fault::Storm { node, heals: moment(chance) },
        16 => Fault::Hangs { node, extra: moment(chance) },
        _ => Fault::Cancel,
    }
}
