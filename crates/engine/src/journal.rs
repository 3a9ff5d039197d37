//! The journal of migrations: one line for each decision, durable before anybody acts on it.
//!
//! A file of JSON lines, each ending in a newline; every append is followed by one `fdatasync`. A last line without
//! newline is a torn write and counts as not written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use drover_model::{ContainerId, MigrationId, Mode, NodeName};
use serde::{Deserialize, Serialize};

/// How far a migration has come, as far as a restart must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mark {
    /// Source: it has begun; without a later mark the container is the source's.
    Began,
    /// Source: the decision. The container must never run here again.
    Commit,
    /// Source: rolled back and the target knows, or holds nothing.
    Aborted,
    /// Source: the target has confirmed.
    Settled,
    /// Target: the container is restored, frozen, and kept until the verdict is heard.
    Promised,
    /// Target: the container is ours.
    Owned,
    /// Target: everything was discarded.
    Discarded,
}

impl Mark {
    /// Whether nothing is left to be done after it.
    fn is_last(self) -> bool {
        matches!(self, Self::Aborted | Self::Settled | Self::Owned | Self::Discarded)
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub migration: MigrationId,
    pub container: ContainerId,
    /// The other node.
    pub peer: NodeName,
    pub mark: Mark,
    /// Of the mark `Commit`: what a restarted agent reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
}

/// A migration by the time of its decision. The times are RFC 3339, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decided {
    pub mode: Mode,
    pub began_at: String,
    pub at: String,
}

/// How many finished migrations are remembered, to answer a peer that asks again.
const REMEMBERED: usize = 1000;

/// The journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// The length of what is known to be whole, in bytes.
    length: u64,
    /// Whether the last append failed: what stands behind `length` is then cut off before the next.
    torn: bool,
    /// The last entry of each migration, in the order in which they were written.
    latest: Vec<Entry>,
}

impl Journal {
    /// Opens the journal at `path`; what is finished and old is forgotten.
    ///
    /// # Errors
    /// When it cannot be read or written, or a line of it is damaged: to guess could run a container twice.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut latest: Vec<Entry> = Vec::new();
        for entry in read(path)? {
            replace(&mut latest, entry);
        }
        let finished = latest.iter().filter(|entry| entry.mark.is_last()).count();
        let mut too_many = finished.saturating_sub(REMEMBERED);
        latest.retain(|entry| {
            let forget = entry.mark.is_last() && too_many > 0;
            too_many -= usize::from(forget);
            !forget
        });
        let (file, length) = write_anew(path, &latest)?;
        Ok(Self { path: path.to_owned(), file, length, torn: false, latest })
    }

    /// Appends an entry and returns when it is durable.
    ///
    /// # Errors
    /// When the disk refuses: whether the entry is durable is then unknown, and `read_back` tells.
    pub fn append(&mut self, entry: Entry) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.file.sync_all()?;
            self.torn = false;
        }
        let line = line(&entry)?;
        self.torn = true;
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.torn = false;
        self.length += line.len() as u64;
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
        let found = read(&self.path)?.into_iter().find(|entry| &entry.migration == migration && entry.mark == mark);
        let is_there = found.is_some();
        found.into_iter().for_each(|entry| replace(&mut latest, entry));
        (self.file, self.length) = write_anew(&self.path, &latest)?;
        self.torn = false;
        self.latest = latest;
        Ok(is_there)
    }

    /// The last entry of a migration.
    pub fn latest(&self, migration: &MigrationId) -> Option<&Entry> {
        self.latest.iter().find(|entry| &entry.migration == migration)
    }

    /// The last entry of any migration of a container.
    pub fn newest(&self, container: &ContainerId) -> Option<Entry> {
        self.latest.iter().rev().find(|entry| &entry.container == container).cloned()
    }

    /// Migrations that are not finished, the oldest first.
    pub fn unfinished(&self) -> Vec<Entry> {
        self.latest.iter().filter(|entry| !entry.mark.is_last()).cloned().collect()
    }
}

fn replace(latest: &mut Vec<Entry>, entry: Entry) {
    latest.retain(|known| known.migration != entry.migration);
    latest.push(entry);
}

/// Puts a journal of these entries in the place of the old one; gives it, open for appending, and its length.
fn write_anew(path: &Path, entries: &[Entry]) -> io::Result<(File, u64)> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    let mut length = 0;
    for entry in entries {
        let line = line(entry)?;
        file.write_all(&line)?;
        length += line.len() as u64;
    }
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(path)?;
    Ok((OpenOptions::new().append(true).open(path)?, length))
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

/// All whole lines; a last line without newline was never written to its end.
fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parse = |(number, line)| {
        let damaged =
            |error| io::Error::other(format!("line {} of {} is damaged: {error}", number + 1, path.display()));
        serde_json::from_slice(line).map_err(damaged)
    };
    lines.enumerate().map(parse).collect()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(migration: &str, mark: Mark) -> Entry {
        let container = "c0".parse().unwrap();
        Entry { migration: migration.parse().unwrap(), container, peer: "n2".parse().unwrap(), mark, decided: None }
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        journal.append(entry("a1", Mark::Commit)).unwrap();
        journal.append(entry("a2", Mark::Began)).unwrap();
        journal.append(entry("a2", Mark::Aborted)).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.unfinished(), [entry("a1", Mark::Commit)]);
        assert_eq!(journal.latest(&"a2".parse().unwrap()).unwrap().mark, Mark::Aborted);
    }

    #[test]
    fn a_torn_line_counts_as_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        let torn = line(&entry("a1", Mark::Commit)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&torn[..torn.len() - 1]).unwrap();
        assert!(!journal.read_back(&"a1".parse().unwrap(), Mark::Commit).unwrap());
        assert_eq!(Journal::open(&path).unwrap().unfinished(), [entry("a1", Mark::Began)]);
    }

    #[test]
    fn a_line_that_landed_although_the_write_failed_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        let landed = line(&entry("a1", Mark::Commit)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&landed).unwrap();
        assert!(journal.read_back(&"a1".parse().unwrap(), Mark::Commit).unwrap());
    }

    #[test]
    fn an_entry_behind_a_torn_one_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        // As after a write that failed in the middle.
        journal.torn = true;
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"migration\":").unwrap();
        journal.append(entry("a1", Mark::Commit)).unwrap();
        assert_eq!(Journal::open(&path).unwrap().unfinished(), [entry("a1", Mark::Commit)]);
    }

    #[test]
    fn a_damaged_line_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "{\"migration\":\"a1\",\n").unwrap();
        assert!(Journal::open(&path).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn the_newest_entry_of_a_container_is_the_last_written_whatever_the_ids() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&directory.path().join("journal")).unwrap();
        journal.append(entry("ff", Mark::Commit)).unwrap();
        journal.append(entry("00", Mark::Began)).unwrap();
        assert_eq!(journal.newest(&"c0".parse().unwrap()), Some(entry("00", Mark::Began)));
    }
}
