//! The journal of migrations: one line for each decision, durable before anybody acts on it.
//!
//! A file of JSON lines, each ending in a newline; every append is followed by one `fdatasync`. A last line without
//! newline is a torn write and counts as not written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use drover_model::{ContainerId, MigrationId, NodeName};
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
}

/// How many finished migrations are remembered, to answer a peer that asks again.
const REMEMBERED: usize = 1000;

/// The journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    latest: BTreeMap<MigrationId, Entry>,
}

impl Journal {
    /// Opens the journal at `path`; what is finished and old is forgotten.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for entry in read(path)? {
            entries.retain(|known| known.migration != entry.migration);
            entries.push(entry);
        }
        let finished = entries.iter().filter(|entry| entry.mark.is_last()).count();
        let mut too_many = finished.saturating_sub(REMEMBERED);
        entries.retain(|entry| {
            let forget = entry.mark.is_last() && too_many > 0;
            too_many -= usize::from(forget);
            !forget
        });
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        for entry in &entries {
            file.write_all(&line(entry)?)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(path)?;
        let file = OpenOptions::new().append(true).open(path)?;
        let latest = entries.into_iter().map(|entry| (entry.migration.clone(), entry)).collect();
        Ok(Self { path: path.to_owned(), file, latest })
    }

    /// Appends an entry and returns when it is durable.
    ///
    /// # Errors
    /// When the disk refuses: whether the entry is durable is then unknown, and `read_back` tells.
    pub fn append(&mut self, entry: Entry) -> io::Result<()> {
        self.file.write_all(&line(&entry)?)?;
        self.file.sync_data()?;
        self.latest.insert(entry.migration.clone(), entry);
        Ok(())
    }

    /// Reads from the disk whether this mark is there, after an `append` that failed. When it is not there, the end of
    /// the file is cut back to the last whole line, so that it can never appear later.
    ///
    /// # Errors
    /// When the disk refuses: nobody knows.
    pub fn read_back(&mut self, migration: &MigrationId, mark: Mark) -> io::Result<bool> {
        let text = fs::read(&self.path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let found = parse(&text[..whole]).find(|entry| &entry.migration == migration && entry.mark == mark);
        self.file.set_len(whole as u64)?;
        self.file.sync_all()?;
        if let Some(entry) = found {
            self.latest.insert(entry.migration.clone(), entry);
            return Ok(true);
        }
        Ok(false)
    }

    /// The latest entry of a migration.
    pub fn latest(&self, migration: &MigrationId) -> Option<&Entry> {
        self.latest.get(migration)
    }

    /// Migrations that are not finished.
    pub fn unfinished(&self) -> Vec<Entry> {
        self.latest.values().filter(|entry| !entry.mark.is_last()).cloned().collect()
    }
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

fn read(path: &Path) -> io::Result<Vec<Entry>> {
    match fs::read(path) {
        Ok(text) => {
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            Ok(parse(&text[..whole]).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(text: &[u8]) -> impl Iterator<Item = Entry> {
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(migration: &str, mark: Mark) -> Entry {
        let container = "c0".parse().unwrap();
        Entry { migration: migration.parse().unwrap(), container, peer: "n2".parse().unwrap(), mark }
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
}
