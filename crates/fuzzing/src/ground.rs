//! Where a body may write: a directory in memory, beside one that nothing may happen to.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

/// The most addresses that a body may take at any time, in bytes: what asks for more at once is refused by the kernel.
const ADDRESSES: u64 = 8 << 30;
/// The link, inside, that leads out of the directory.
pub const LINK: &str = "out";

/// Has the kernel refuse memory to whoever takes more than any of these parsers should.
///
/// # Panics
/// When the kernel does not take the limit.
pub fn bound_memory() {
    let known = getrlimit(Resource::As);
    if known.current.is_none_or(|current| current > ADDRESSES) {
        let limit = Rlimit { current: Some(ADDRESSES), maximum: known.maximum };
        setrlimit(Resource::As, limit).expect("less than before");
    }
}

/// A directory for what a stranger says, and what lies beside it.
pub struct Ground {
    directory: TempDir,
    before: Look,
}

/// All that a change outside would change: times, links and content.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    names: Vec<String>,
    changed: [(i64, i64, u64, u32); 2],
    secret: Vec<u8>,
}

impl Ground {
    /// A new one, in memory where that is possible. Inside is a link that leads out.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = directory.expect("room for a directory");
        let top = directory.path();
        for name in ["inside", "outside", "aside"] {
            fs::create_dir(top.join(name)).expect("a new directory");
        }
        fs::write(top.join("outside/secret"), b"kept").expect("a new file");
        symlink("../outside", top.join("inside").join(LINK)).expect("a new link");
        let before = Look::at(top);
        Self { directory, before }
    }

    /// Where may be written.
    pub fn inside(&self) -> PathBuf {
        self.directory.path().join("inside")
    }

    /// Another such place, which is empty.
    pub fn aside(&self) -> PathBuf {
        self.directory.path().join("aside")
    }

    /// Looks whether anything has happened outside.
    ///
    /// # Panics
    /// When something has.
    pub fn look(&self) {
        assert_eq!(Look::at(self.directory.path()), self.before, "something outside has changed");
    }

    /// Looks a last time, and takes everything away.
    ///
    /// # Panics
    /// When something outside has changed.
    pub fn check(self) {
        self.look();
        // Directories that nobody may enter are no obstacle to root; trees may be deeper than a path is long.
        drover_sys::tree::remove(&self.inside()).expect("a tree that can be removed");
    }
}

impl Look {
    fn at(top: &Path) -> Self {
        let names = |of: &Path| {
            let mut names: Vec<String> = fs::read_dir(of)
                .expect("a directory")
                .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        let changed = ["outside", "outside/secret"].map(|name| {
            let metadata = fs::symlink_metadata(top.join(name)).expect("it is there");
            (metadata.ctime(), metadata.ctime_nsec(), metadata.nlink(), metadata.mode())
        });
        let secret = fs::read(top.join("outside/secret")).expect("it can be read");
        Self { names: [names(top), names(&top.join("outside"))].concat(), changed, secret }
    }
}
