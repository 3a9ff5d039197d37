//! The journal of migrations: one line for each decision, durable before anybody acts on it.
//!
//! JSON lines, each ending in a newline, appended one by one. A last line without newline is a torn write and counts as
//! not written. Where they are kept is somebody else's matter (`Storage`): a file, or a simulated disk that fails.

use std::io;

use drover_model::{ContainerId, MigrationId, Mode, NodeName};
use serde::{Deserialize, Serialize};

/// How far a migration has come, as far as a restart must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Source: it has begun; without a later mark the container is the source's.
    Began,
    /// Source: the decision. The container must not run here again, unless the target gives it back.
    Commit,
    /// Source: rolled back and the target knows, or holds nothing; or the target has given the container back.
    Aborted,
    /// Source: the target has confirmed.
    Settled,
    /// Target: the container is restored, frozen, and kept until the verdict is heard.
    Promised,
    /// Target: it runs here and its files are durable; pages of it may be on the source alone.
    Accepted,
    /// Target: the container is ours, and nothing of it is on the source alone.
    Owned,
    /// Target: everything was discarded; it does not run here, and never will by this migration.
    Discarded,
}

impl Mark {
    /// Whether nothing is left to be done after it.
    #[must_use]
    pub fn is_last(self) -> bool {
        matches!(self, Self::Aborted | Self::Settled | Self::Owned | Self::Discarded)
    }

    /// The last mark of a migration that nothing is left to be done about after this one, for the container has left this
    /// node, or has come back to it since.
    #[must_use]
    pub fn closed(self) -> Self {
        match self {
            Self::Began => Self::Aborted,
            Self::Commit => Self::Settled,
            Self::Accepted => Self::Owned,
            Self::Promised => Self::Discarded,
            last => last,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The migration.
    pub migration: MigrationId,
    /// The container that moves.
    pub container: ContainerId,
    /// The other node.
    pub peer: NodeName,
    /// How far it has come.
    pub mark: Mark,
    /// Of the mark `Commit`: what a restarted agent reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
    /// Of the mark `Began`: when that was. RFC 3339, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<String>,
}

/// A migration by the time of its decision. The times are RFC 3339, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// How memory crossed.
    pub mode: Mode,
    /// When it began.
    pub began_at: String,
    /// When it was decided.
    pub at: String,
}

/// Where a journal is kept. Whether an operation that failed was done is unknown; `replace` is done as a whole or not at
/// all, `append` perhaps in part.
pub trait Storage {
    /// All bytes; none when nothing was ever kept.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Puts these in the place of all bytes, at once and durably.
    ///
    /// # Errors
    /// When the disk refuses.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Appends these and returns when they are durable.
    ///
    /// # Errors
    /// When the disk refuses.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// How many finished migrations are remembered, to answer a peer that asks again.
const REMEMBERED: usize = 1000;

/// The journal.
#[derive(Debug)]
pub struct Journal<S> {
    storage: S,
    /// Whether something failed: what is kept is unknown then, and is written anew before anything is appended to it.
    torn: bool,
    /// The last entry of each migration, in the order in which they began here.
    latest: Vec<Entry>,
}

impl<S: Storage> Journal<S> {
    /// Opens the journal; what is finished and old is forgotten.
    ///
    /// # Errors
    /// When it cannot be read or written, or a line of it is damaged: to guess could run a container twice.
    pub fn open(mut storage: S) -> io::Result<Self> {
        let mut latest: Vec<Entry> = Vec::new();
        for entry in parse(&storage.read()?)? {
            replace(&mut latest, entry);
        }
        let finished = latest.iter().filter(|entry| entry.mark.is_last()).count();
        let mut too_many = finished.saturating_sub(REMEMBERED);
        latest.retain(|entry| {
            let forget = entry.mark.is_last() && too_many > 0;
            too_many -= usize::from(forget);
            !forget
        });
        write_anew(&mut storage, &latest)?;
        Ok(Self { storage, torn: false, latest })
    }

    /// Appends an entry and returns when it is durable.
    ///
    /// # Errors
    /// When the disk refuses: whether the entry is durable is then unknown, and `read_back` tells.
    pub fn append(&mut self, entry: Entry) -> io::Result<()> {
        let line = line(&entry)?;
        if self.torn {
            write_anew(&mut self.storage, &self.latest)?;
        }
        self.torn = true;
        self.storage.append(&line)?;
        self.torn = false;
        replace(&mut self.latest, entry);
        Ok(())
    }

    /// Reads whether this mark is there, after an `append` that failed, and makes certain that it stays so: the journal
    /// is written anew, for what was read may be in memory alone.
    ///
    /// # Errors
    /// When the disk refuses: nobody knows.
    pub fn read_back(&mut self, migration: &MigrationId, mark: Mark) -> io::Result<bool> {
        let mut latest = self.latest.clone();
        let found = parse(&self.storage.read()?)?;
        let found = found.into_iter().find(|entry| &entry.migration == migration && entry.mark == mark);
        let is_there = found.is_some();
        found.into_iter().for_each(|entry| replace(&mut latest, entry));
        self.torn = true;
        write_anew(&mut self.storage, &latest)?;
        self.torn = false;
        self.latest = latest;
        Ok(is_there)
    }

    /// The last entry of a migration.
    #[must_use]
    pub fn latest(&self, migration: &MigrationId) -> Option<&Entry> {
        self.latest.iter().find(|entry| &entry.migration == migration)
    }

    /// The last entry of the newest migration of a container.
    #[must_use]
    pub fn newest(&self, container: &ContainerId) -> Option<Entry> {
        self.latest.iter().rev().find(|entry| &entry.container == container).cloned()
    }

    /// Migrations that are not finished, the oldest first.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Entry> {
        self.latest.iter().filter(|entry| !entry.mark.is_last()).cloned().collect()
    }
}

/// Migrations stay in the order in which they began: what is told last of an old one must not decide about a container
/// that a newer one has moved away since.
fn replace(latest: &mut Vec<Entry>, entry: Entry) {
    match latest.iter_mut().find(|known| known.migration == entry.migration) {
        Some(known) => *known = entry,
        None => latest.push(entry),
    }
}

/// Puts a journal of these entries in the place of the old one.
fn write_anew(storage: &mut impl Storage, entries: &[Entry]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(line(entry)?);
    }
    storage.replace(&bytes)
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

/// All whole lines; a last line without newline was never written to its end.
fn parse(text: &[u8]) -> io::Result<Vec<Entry>> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parse = |(number, line)| {
        let damaged = |error| io::Error::other(format!("line {} of the journal is damaged: {error}", number + 1));
        serde_json::from_slice(line).map_err(damaged)
    };
    lines.enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails to append from a byte on, so many times.
    #[derive(Debug, Default)]
    struct Disk {
        bytes: Vec<u8>,
        failures: u32,
    }

    impl Storage for &mut Disk {
        fn read(&mut self) -> io::Result<Vec<u8>> {
            Ok(self.bytes.clone())
        }
        fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.bytes = bytes.to_vec();
            Ok(())
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            if self.failures > 0 {
                self.failures -= 1;
                self.bytes.extend(&bytes[..9]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.extend(bytes);
            Ok(())
        }
    }

    fn entry(migration: &str, mark: Mark) -> Entry {
        let container = "c0".parse().unwrap();
        Entry {
            migration: migration.parse().unwrap(),
            container,
            peer: "n2".parse().unwrap(),
            mark,
            decided: None,
            began_at: None,
        }
    }

    #[test]
    fn an_entry_behind_a_torn_one_is_not_lost() {
        let mut disk = Disk::default();
        let mut journal = Journal::open(&mut disk).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        journal.storage.failures = 1;
        journal.append(entry("a1", Mark::Commit)).unwrap_err();
        journal.append(entry("a1", Mark::Commit)).unwrap();
        assert_eq!(Journal::open(&mut disk).unwrap().unfinished(), [entry("a1", Mark::Commit)]);
    }

    /// A restarted source took a container for its own that it had just given away.
    #[test]
    fn the_late_end_of_an_older_migration_does_not_hide_a_newer_one() {
        let mut disk = Disk::default();
        let mut journal = Journal::open(&mut disk).unwrap();
        for (migration, mark) in [("ff", Mark::Began), ("00", Mark::Began), ("00", Mark::Commit), ("ff", Mark::Aborted)]
        {
            journal.append(entry(migration, mark)).unwrap();
        }
        assert_eq!(journal.newest(&"c0".parse().unwrap()), Some(entry("00", Mark::Commit)));
        let journal = Journal::open(&mut disk).unwrap();
        assert_eq!(journal.newest(&"c0".parse().unwrap()), Some(entry("00", Mark::Commit)));
    }
}
