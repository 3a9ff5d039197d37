//! The matrix as data: which contestants move which workload over which link. Pure.

use serde::{Deserialize, Serialize};

/// A family of cases that is run and reported together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// Drover beside its peers on an unshaped link, small and large: some minutes.
    Core,
    /// A container that holds next to nothing.
    Idle,
    /// All sizes over all links, read-mostly.
    Peers,
    /// The same while pages are dirtied.
    Dirty,
    /// How many rounds are worth their while.
    Rounds,
    /// When to stop copying.
    Alpha,
    /// Compression of memory that can be compressed.
    Compression,
    /// What it takes to bring files across: cases of its own ([`crate::disk`]), no group of this matrix.
    Disk,
}

impl Suite {
    /// All of them, in the order in which they are run and reported.
    pub const ALL: [Self; 8] =
        [Self::Core, Self::Idle, Self::Peers, Self::Dirty, Self::Rounds, Self::Alpha, Self::Compression, Self::Disk];

    /// Its word on the command line and in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Idle => "idle",
            Self::Peers => "peers",
            Self::Dirty => "dirty",
            Self::Rounds => "rounds",
            Self::Alpha => "alpha",
            Self::Compression => "compression",
            Self::Disk => "disk",
        }
    }
}

/// The rate of the nodes' links, in the words of `drover lab link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub enum Link {
    /// As fast as it goes.
    #[serde(rename = "none")]
    #[value(name = "none")]
    Unshaped,
    /// 1 Gbit/s.
    #[serde(rename = "1gbit")]
    #[value(name = "1gbit")]
    Gigabit,
    /// 100 Mbit/s.
    #[serde(rename = "100mbit")]
    #[value(name = "100mbit")]
    Fast,
}

impl Link {
    const ALL: [Self; 3] = [Self::Unshaped, Self::Gigabit, Self::Fast];

    /// Its word for `drover lab link`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unshaped => "none",
            Self::Gigabit => "1gbit",
            Self::Fast => "100mbit",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Unshaped => "unshaped",
            Self::Gigabit => "1 Gbit/s",
            Self::Fast => "100 Mbit/s",
        }
    }
}

/// What the container does: a redis server under one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// MiB of values; 0 is a server that holds 16 keys.
    pub mib: u64,
    /// Distinct pages that are dirtied in each second, besides what one SET in 2 ms does.
    pub dirty_pages: u64,
    /// How much of each value is random; the rest can be compressed.
    pub random_percent: u8,
}

impl Workload {
    const fn holding(mib: u64) -> Self {
        Self { mib, dirty_pages: 0, random_percent: 100 }
    }

    const fn dirtying(self, dirty_pages: u64) -> Self {
        Self { dirty_pages, ..self }
    }

    /// Its name for people.
    pub fn title(self) -> String {
        let size = match self.mib {
            0 => "idle".to_owned(),
            mib if mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
            mib => format!("{mib} MiB"),
        };
        let dirty = if self.dirty_pages == 0 { String::new() } else { format!(", {} pages/s", self.dirty_pages) };
        let random = if self.random_percent == 100 { "" } else { ", compressible" };
        format!("{size}{dirty}{random}")
    }
}

/// How the container is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// `drover migrate` with these options.
    Drover(&'static [&'static str]),
    /// runc, checkpoint into memory, tar, restore.
    RuncStop,
    /// runc, memory through CRIU's page server.
    RuncPageServer,
    /// runc, pages fetched after the restore.
    RuncLazy,
    /// Podman, an archive without compression.
    Podman,
}

/// One that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contestant {
    /// Its name in rows and tables.
    pub name: &'static str,
    /// What it does.
    pub means: Means,
}

const fn drover(name: &'static str, options: &'static [&'static str]) -> Contestant {
    Contestant { name, means: Means::Drover(options) }
}

const AUTO: Contestant = drover("drover", &["--mode", "auto"]);
const ALLOWED: Contestant = drover("drover post-copy allowed", &["--mode", "auto", "--fallback", "post-copy"]);
const PRE_COPY: Contestant = drover("drover pre-copy", &["--mode", "pre-copy"]);
const POST_COPY: Contestant = drover("drover post-copy", &["--mode", "post-copy"]);
const STOP_AND_COPY: Contestant = drover("drover stop-and-copy", &["--mode", "stop-and-copy"]);
const RUNC_STOP: Contestant = Contestant { name: "runc", means: Means::RuncStop };
const RUNC_PAGE_SERVER: Contestant = Contestant { name: "runc page server", means: Means::RuncPageServer };
const RUNC_LAZY: Contestant = Contestant { name: "runc lazy-pages", means: Means::RuncLazy };
const PODMAN: Contestant = Contestant { name: "podman", means: Means::Podman };

/// Drover as it comes, beside what a user would pick today.
const USUAL: &[Contestant] = &[AUTO, RUNC_STOP, RUNC_LAZY, PODMAN];
/// Drover in each mode beside all of them.
const EVERYONE: &[Contestant] =
    &[AUTO, PRE_COPY, POST_COPY, STOP_AND_COPY, RUNC_STOP, RUNC_PAGE_SERVER, RUNC_LAZY, PODMAN];

/// The same where rounds may not suffice.
const BUSY: &[Contestant] =
    &[AUTO, ALLOWED, PRE_COPY, POST_COPY, STOP_AND_COPY, RUNC_STOP, RUNC_PAGE_SERVER, RUNC_LAZY, PODMAN];

const ROUNDS: &[Contestant] = &[
    drover("0 rounds", &["--mode", "stop-and-copy"]),
    drover("1 round", &["--mode", "pre-copy", "--max-rounds", "1", "--fallback", "freeze"]),
    drover("2 rounds", &["--mode", "pre-copy", "--max-rounds", "2", "--fallback", "freeze"]),
    drover("3 rounds", &["--mode", "pre-copy", "--max-rounds", "3", "--fallback", "freeze"]),
    drover("4 rounds", &["--mode", "pre-copy", "--max-rounds", "4", "--fallback", "freeze"]),
    drover("6 rounds", &["--mode", "pre-copy", "--max-rounds", "6", "--fallback", "freeze"]),
];

const RULES: &[Contestant] = &[
    drover("last send 1 s", &["--mode", "pre-copy", "--stop-rule", "last-send=1"]),
    drover("last send 1.5 s", &["--mode", "pre-copy", "--stop-rule", "last-send=1.5"]),
    drover("budget", &["--mode", "pre-copy", "--stop-rule", "budget"]),
];

const CODECS: &[Contestant] = &[
    drover("none", &["--compress", "none"]),
    drover("lz4", &["--compress", "lz4"]),
    drover("zstd", &["--compress", "zstd"]),
    drover("auto", &["--compress", "auto"]),
];

/// One workload over one link, and who moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The suite that it belongs to.
    pub suite: Suite,
    /// What is moved.
    pub workload: Workload,
    /// Over what.
    pub link: Link,
    /// By whom, in this order in each repetition.
    pub contestants: Vec<Contestant>,
}

/// The groups of a suite.
pub fn groups(suite: Suite) -> Vec<Group> {
    let cross = |workloads: &[Workload], links: &[Link], contestants: &[Contestant]| -> Vec<Group> {
        let pairs = workloads.iter().flat_map(|&workload| links.iter().map(move |&link| (workload, link)));
        pairs.map(|(workload, link)| Group { suite, workload, link, contestants: contestants.to_vec() }).collect()
    };
    let sizes = [64, 256, 1024].map(Workload::holding);
    match suite {
        Suite::Core => cross(&[sizes[0], sizes[2]], &[Link::Unshaped], USUAL),
        Suite::Idle => cross(&[Workload::holding(0)], &[Link::Unshaped], EVERYONE),
        Suite::Peers => cross(&sizes, &Link::ALL, EVERYONE),
        Suite::Dirty => {
            // 64 MiB have 8,192 pages to dirty: 20,000 distinct ones in a second cannot be.
            let slow = sizes.map(|size| size.dirtying(5_000));
            let fast = [sizes[1], sizes[2]].map(|size| size.dirtying(20_000));
            cross(&[&slow[..], &fast[..]].concat(), &Link::ALL, BUSY)
        }
        Suite::Rounds => {
            let rates = [0, 500, 2_000, 5_000].map(|rate| sizes[0].dirtying(rate));
            cross(&rates, &[Link::Fast], ROUNDS)
        }
        Suite::Alpha => {
            let rates = [500, 2_000, 5_000].map(|rate| sizes[1].dirtying(rate));
            cross(&rates, &[Link::Fast, Link::Gigabit], RULES)
        }
        Suite::Compression => {
            let workload = Workload { random_percent: 40, ..sizes[1] };
            cross(&[workload, sizes[1]], &Link::ALL, CODECS)
        }
        Suite::Disk => Vec::new(),
    }
}

/// The words among a contestant's options that `drover migrate --help` does not know: it cannot be run yet.
pub fn unknown_words(contestant: &Contestant, help: &str) -> Vec<&'static str> {
    let Means::Drover(options) = contestant.means else { return Vec::new() };
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let known = |word: &str| help.split(|c: char| !inside(c)).any(|found| found == word);
    // Help names all values of these.
    let of_list = |place: usize| place > 0 && ["--mode", "--compress"].contains(&options[place - 1]);
    let named = |place: usize| options[place].starts_with("--") || of_list(place);
    (0..options.len()).filter(|&place| named(place) && !known(options[place])).map(|place| options[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_suite_asks_for_more_distinct_pages_than_there_are() {
        for group in Suite::ALL.into_iter().flat_map(groups) {
            // Half of what is held is there to be dirtied; a MiB has 256 pages.
            assert!(group.workload.dirty_pages <= group.workload.mib / 2 * 256, "{group:?}");
        }
    }

    #[test]
    fn no_contestant_is_twice_in_a_group() {
        for group in Suite::ALL.into_iter().flat_map(groups) {
            let mut names: Vec<_> = group.contestants.iter().map(|contestant| contestant.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), group.contestants.len(), "{group:?}");
        }
    }

    #[test]
    fn options_that_drover_does_not_have_are_found() {
        let help = "--mode <MODE>  How memory crosses [default: auto] [possible values: auto, pre-copy, stop-and-copy]";
        assert_eq!(unknown_words(&PRE_COPY, help), Vec::<&str>::new());
        assert_eq!(unknown_words(&POST_COPY, help), ["post-copy"]);
        assert_eq!(unknown_words(&ROUNDS[1], help), ["--max-rounds", "--fallback"]);
        assert_eq!(unknown_words(&RULES[0], help), ["--stop-rule"]);
        assert_eq!(unknown_words(&RUNC_STOP, help), Vec::<&str>::new());
    }

    #[test]
    fn workloads_have_names_for_people() {
        assert_eq!(Workload::holding(0).title(), "idle");
        assert_eq!(Workload::holding(1024).dirtying(5000).title(), "1 GiB, 5000 pages/s");
    }
}
