//! Files that are put in the place of others as a whole, and survive a loss of power.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Puts a file with these bytes in the place of the one at `path`, if there is one: all of it or nothing. It is durable when
/// this returns, and so is its name. What is written first stands beside it, with the extension `new`.
///
/// # Errors
/// When the disk refuses. The new file may be in its place all the same if only its name could not be made durable.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(path)
}

/// Makes the names in the directory of `path` durable.
///
/// # Errors
/// When the disk refuses.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_the_place_of_another_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        for text in ["one", "another"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
