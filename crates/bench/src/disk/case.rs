//! The cases as data: who takes turns, over which links, and which columns their tables have. Pure.

use serde::{Deserialize, Serialize};

use crate::suite::Link;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// A PostgreSQL server with 1 GiB of data under pgbench moves.
    Database,
    /// 5 % of the blocks of a file of 1 GiB are changed in place.
    Blocks,
    /// 1,000 of 100,000 small files are changed.
    SmallFiles,
    /// Two containers of one image move to the same node.
    Images,
}

/// One that is measured in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// A move to a node that has neither the image nor any file.
    Whole,
    /// A move to a node that has the image.
    Diff,
    /// A move to a node that has the image, and a copy of the files that was made ahead.
    Synced,
    /// Drover.
    Drover,
    /// rsync, to its daemon.
    Rsync,
}

impl Contestant {
    /// Its name in rows and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole container",
            Self::Diff => "diff layer",
            Self::Synced => "pre-synced diff layer",
            Self::Drover => "drover",
            Self::Rsync => "rsync",
        }
    }
}

/// A column of a case's table: the median of something that was measured.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// What was measured, as it is called in rows.
    pub measure: &'static str,
    /// Its title, with the unit.
    pub title: &'static str,
    /// How much of what stands in rows is one of the unit.
    pub unit: f64,
    /// How many decimals are shown.
    pub decimals: usize,
}

const MS: f64 = 1.0;
const S: f64 = 1e3;
const KIB: f64 = 1024.0;
const MIB: f64 = 1_048_576.0;

const fn column(measure: &'static str, title: &'static str, unit: f64, decimals: usize) -> Column {
    Column { measure, title, unit, decimals }
}

impl Case {
    /// All of them, in the order in which they are run and reported.
    pub const ALL: [Self; 4] = [Self::Database, Self::Blocks, Self::SmallFiles, Self::Images];

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Database => "PostgreSQL, 1 GiB under pgbench",
            Self::Blocks => "1 GiB, 5 % of its blocks changed in place",
            Self::SmallFiles => "100,000 small files, 1,000 of them changed",
            Self::Images => "two containers of one image",
        }
    }

    fn links(self) -> &'static [Link] {
        match self {
            Self::Database | Self::Blocks => &[Link::Unshaped, Link::Gigabit],
            Self::SmallFiles | Self::Images => &[Link::Unshaped],
        }
    }

    fn contestants(self) -> &'static [Contestant] {
        match self {
            Self::Database => &[Contestant::Whole, Contestant::Diff, Contestant::Synced],
            Self::Blocks | Self::SmallFiles => &[Contestant::Drover, Contestant::Rsync],
            Self::Images => &[Contestant::Drover],
        }
    }

    /// The columns of its table.
    pub fn columns(self) -> &'static [Column] {
        const DATABASE: &[Column] = &[
            column("downtime_ms", "downtime, ms", MS, 0),
            column("gap_ms", "longest gap, ms", MS, 0),
            column("total_ms", "total, s", S, 2),
            column("files_frozen_ms", "files while frozen, ms", MS, 0),
            column("files_frozen_bytes", "files while frozen, KiB", KIB, 0),
            column("files_bytes", "files, MiB", MIB, 1),
            column("image_bytes", "image, MiB", MIB, 1),
            column("sync_ms", "synced before, s", S, 2),
        ];
        const BLOCKS: &[Column] = &[
            column("changed_ms", "until the target had them, s", S, 2),
            column("sent_bytes", "MiB sent", MIB, 1),
            column("times_changed", "× changed bytes", 1.0, 2),
            column("afresh_ms", "not followed, s", S, 2),
            column("afresh_times_changed", "× changed bytes", 1.0, 2),
        ];
        const FILES: &[Column] = &[
            column("unchanged_ms", "nothing changed, ms", MS, 0),
            column("changed_ms", "until the target had what changed, ms", MS, 0),
            column("sent_bytes", "KiB sent", KIB, 0),
            column("afresh_ms", "not followed, ms", MS, 0),
        ];
        const IMAGES: &[Column] = &[
            column("first_image_bytes", "image with the first, MiB", MIB, 1),
            column("second_image_bytes", "with the second, MiB", MIB, 1),
            column("first_total_ms", "total of the first, s", S, 2),
            column("second_total_ms", "of the second, s", S, 2),
        ];
        match self {
            Self::Database => DATABASE,
            Self::Blocks => BLOCKS,
            Self::SmallFiles => FILES,
            Self::Images => IMAGES,
        }
    }
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// In which case.
    pub case: Case,
    /// Over which link.
    pub link: Link,
    /// Who.
    pub contestant: Contestant,
}

impl Turn {
    /// Its name for people.
    pub fn title(&self) -> String {
        format!("disk: {}, {}: {}", self.case.title(), self.link.title(), self.contestant.name())
    }
}

/// The turns of one repetition: of these cases, links and contestants, or of all where none is named.
pub fn turns(cases: &[Case], links: &[Link], names: &[String]) -> Vec<Turn> {
    let mut turns = Vec::new();
    for case in Case::ALL.into_iter().filter(|case| cases.is_empty() || cases.contains(case)) {
        for &link in case.links().iter().filter(|link| links.is_empty() || links.contains(link)) {
            let wanted = |who: &&Contestant| names.is_empty() || names.iter().any(|name| name == who.name());
            let contestants = case.contestants().iter().filter(wanted);
            turns.extend(contestants.map(|&contestant| Turn { case, link, contestant }));
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_by_those_who_are_named_on_the_links_that_are_named() {
        let all = turns(&[], &[], &[]);
        assert_eq!(all.iter().filter(|turn| turn.case == Case::Blocks).count(), 4);
        let some = turns(&[], &[Link::Gigabit], &["rsync".into()]);
        let turn = Turn { case: Case::Blocks, link: Link::Gigabit, contestant: Contestant::Rsync };
        assert_eq!(some, [turn]);
    }
}
