//! The file that the journal of migrations is kept in; every append is followed by one `fdatasync`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use drover_protocol::Storage;
pub(crate) use drover_protocol::{Decided, Entry, Mark};
use drover_sys::durable;

/// The journal of this node.
pub(crate) type Journal = drover_protocol::Journal<JournalFile>;

/// A file of JSON lines.
#[derive(Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    /// Open for appending, once it is there.
    file: Option<File>,
}

impl JournalFile {
    /// The journal in this file, which need not be there yet.
    ///
    /// # Errors
    /// When it cannot be read or written, or a line of it is damaged: to guess could run a container twice.
    pub fn open(path: &Path) -> io::Result<Journal> {
        let journal = Journal::open(Self { path: path.to_owned(), file: None });
        journal.map_err(|error| io::Error::new(error.kind(), format!("{error} ({})", path.display())))
    }

    fn file(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            empty => Ok(empty.insert(OpenOptions::new().append(true).create(true).open(&self.path)?)),
        }
    }
}

impl Storage for JournalFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Whatever becomes of it: what is appended from now on must not go to the old file.
        self.file = None;
        durable::replace(&self.path, bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file()?;
        file.write_all(bytes)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(entry: &Entry) -> Vec<u8> {
        let mut line = serde_json::to_vec(entry).unwrap();
        line.push(b'\n');
        line
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
    fn what_was_appended_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = JournalFile::open(&path).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        journal.append(entry("a1", Mark::Commit)).unwrap();
        journal.append(entry("a2", Mark::Began)).unwrap();
        journal.append(entry("a2", Mark::Aborted)).unwrap();
        let journal = JournalFile::open(&path).unwrap();
        assert_eq!(journal.unfinished(), [entry("a1", Mark::Commit)]);
        assert_eq!(journal.latest(&"a2".parse().unwrap()).unwrap().mark, Mark::Aborted);
    }

    #[test]
    fn a_torn_line_counts_as_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = JournalFile::open(&path).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        let torn = line(&entry("a1", Mark::Commit));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&torn[..torn.len() - 1]).unwrap();
        assert!(!journal.read_back(&"a1".parse().unwrap(), Mark::Commit).unwrap());
        assert_eq!(JournalFile::open(&path).unwrap().unfinished(), [entry("a1", Mark::Began)]);
    }

    #[test]
    fn a_line_that_landed_although_the_write_failed_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = JournalFile::open(&path).unwrap();
        journal.append(entry("a1", Mark::Began)).unwrap();
        let landed = line(&entry("a1", Mark::Commit));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&landed).unwrap();
        assert!(journal.read_back(&"a1".parse().unwrap(), Mark::Commit).unwrap());
    }

    #[test]
    fn a_damaged_line_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "{\"migration\":\"a1\",\n").unwrap();
        assert!(JournalFile::open(&path).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn the_newest_entry_of_a_container_is_the_last_begun_whatever_the_ids() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = JournalFile::open(&directory.path().join("journal")).unwrap();
        journal.append(entry("ff", Mark::Commit)).unwrap();
        journal.append(entry("00", Mark::Began)).unwrap();
        assert_eq!(journal.newest(&"c0".parse().unwrap()), Some(entry("00", Mark::Began)));
    }
}
