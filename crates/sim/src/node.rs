//! A node: what survives its agent, what survives a loss of power, and the agent.

use std::time::Duration;

use drover_model::Moment;
use drover_protocol::{Entry, Journal};

use crate::chance::Chance;
use crate::content::{PAGES, Place, Processes, Version};
use crate::disk::Disk;
use crate::lead::Lead;
use crate::session::Session;

/// The simulation's time, in microseconds.
pub(crate) type Micros = u64;

/// A migration, by its number.
pub(crate) type Number = u32;

/// Telling a target of a rollback that a stopped agent owed it.
#[derive(Debug)]
pub(crate) struct Recall {
    pub entry: Entry,
    pub link: Option<usize>,
}

/// What ends with the agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub journal: Journal<Disk>,
    pub leads: Vec<Lead>,
    pub sessions: Vec<Session>,
    pub recalls: Vec<Recall>,
}

#[derive(Debug)]
pub(crate) struct Node {
    /// Whether it has power, and will ever have it again.
    pub power: bool,
    pub gone: bool,
    pub agent: Option<Agent>,
    /// How often an agent has been started: what an earlier one began reaches nobody.
    pub life: u64,
    pub disk: Disk,
    /// How far its clock is from the simulation's.
    pub offset: i64,
    pub processes: Option<Processes>,
    pub place: Option<Place>,
    /// Pages that have crossed and are not restored yet.
    pub stored: [Option<Version>; PAGES],
    /// What was written since the last round; by the tracker of whoever leads.
    pub dirty_pages: [bool; PAGES],
    pub dirty_files: [bool; crate::content::FILES],
    /// How long the next step takes longer, because something hangs.
    pub hang: Micros,
}

impl Node {
    pub fn new(chance: Chance) -> Self {
        Self {
            power: true,
            gone: false,
            agent: None,
            life: 0,
            disk: Disk::new(chance),
            offset: 0,
            processes: None,
            place: None,
            stored: [None; PAGES],
            dirty_pages: [true; PAGES],
            dirty_files: [true; crate::content::FILES],
            hang: 0,
        }
    }

    /// Its own clock.
    pub fn moment(&self, now: Micros) -> Moment {
        Moment(Duration::from_micros(now.saturating_add_signed(self.offset)))
    }

    /// The simulation's time of a moment of its clock.
    pub fn micros(&self, moment: Moment) -> Micros {
        let micros = u64::try_from(moment.0.as_micros()).unwrap_or(u64::MAX);
        micros.saturating_add_signed(self.offset.saturating_neg())
    }

    pub fn runs(&self) -> bool {
        self.processes.is_some_and(|processes| processes.running)
    }

    /// Whether the agent has nothing to do.
    pub fn rests(&self) -> bool {
        self.agent
            .as_ref()
            .is_some_and(|agent| agent.leads.is_empty() && agent.sessions.is_empty() && agent.recalls.is_empty())
    }
}

/// The one container.
pub(crate) fn container() -> drover_model::ContainerId {
    "c0".parse().expect("a container id")
}

/// The name of a node by its index.
pub(crate) fn name(node: usize) -> drover_model::NodeName {
    ["n1", "n2"][node].parse().expect("a node name")
}

/// The node of this name.
pub(crate) fn index(name: &drover_model::NodeName) -> usize {
    usize::from(name.as_str() == "n2")
}

/// A migration's id by its number.
pub(crate) fn migration(number: Number) -> drover_model::MigrationId {
    format!("{number:02x}").parse().expect("a migration id")
}

/// A migration's number by its id.
pub(crate) fn number(migration: &drover_model::MigrationId) -> Number {
    u32::from_str_radix(migration.as_str(), 16).expect("the id of a migration of this world")
}
