//! Removing trees of files, however deep they are.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Removes what is at `path`, a directory with all that is in it. Nothing there is no error; no link is followed.
///
/// Somebody may have nested directories so deep that neither a stack nor a table of descriptors would hold the way down:
/// so each directory inside another one is moved to the top before it is emptied, and nobody ever goes down.
///
/// # Errors
/// When the kernel refuses, as for a directory that something is mounted on.
pub fn remove(path: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        opened => opened?,
    };
    let mut lifted = 0_u64;
    loop {
        let names = names(&top)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if remove_flat(&top, &name)? {
                continue;
            }
            let directory = openat(&top, &name, flags, Mode::empty())?;
            for inner in self::names(&directory)? {
                if remove_flat(&directory, &inner)? {
                    continue;
                }
                // A name that is free here: of those found here none is looked at twice.
                loop {
                    lifted += 1;
                    let free = format!(".removed-{lifted}");
                    match rustix::fs::renameat_with(&directory, &inner, &top, &free, rustix::fs::RenameFlags::NOREPLACE)
                    {
                        Err(Errno::EXIST) => {}
                        // Some file systems cannot promise not to replace; an empty directory is all that could be.
                        Err(Errno::INVAL) => break renameat(&directory, &inner, &top, &free)?,
                        done => break done?,
                    }
                }
            }
            drop(directory);
            unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
        }
    }
    std::fs::remove_dir(path)
}

/// Removes a file, or a directory that is empty; `false`: it is a directory that is not.
fn remove_flat(parent: &impl std::os::fd::AsFd, name: &[u8]) -> io::Result<bool> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn names(directory: &impl std::os::fd::AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test's own.
    fn place(name: &str) -> std::path::PathBuf {
        let place = std::env::temp_dir().join(format!("drover-tree-{}-{name}", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        place
    }

    #[test]
    fn a_tree_is_removed_and_what_links_lead_to_stays() {
        let (tree, other) = (place("links"), place("other"));
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::write(tree.join("a/b/file"), "x").unwrap();
        std::fs::write(other.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&other, tree.join("a/link")).unwrap();
        std::fs::create_dir(tree.join(".removed-1")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert!(other.join("kept").exists());
        remove(&other).unwrap();
        remove(&other).unwrap();
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        const DEEP: usize = 20_000;
        let tree = place("deep");
        let mut at = rustix::fs::open(&tree, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..DEEP {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = openat(&at, "d", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        }
        drop(at);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }
}
