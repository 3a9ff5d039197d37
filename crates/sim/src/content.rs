//! What a container consists of here: a few pages and files, each a version that grows when it is written.

/// A version of a page or a file.
pub(crate) type Version = u32;

/// How many pages and files there are.
pub(crate) const PAGES: usize = 6;
pub(crate) const FILES: usize = 3;

/// Pages of processes; `None`: it is on the source alone.
pub(crate) type Pages = [Option<Version>; PAGES];
/// Files.
pub(crate) type Files = [Version; FILES];

/// What runs, or is kept frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processes {
    pub running: bool,
    pub pages: Pages,
}

/// What a node has of the container on its disk. It survives that the node goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Whether its record says that it has not arrived yet.
    pub arriving: bool,
    pub files: Files,
    /// Whether the files survive a loss of power.
    pub durable: bool,
    /// Whether its program is known to have ended.
    pub ended: bool,
}

/// The versions that were written last, by whoever ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truth {
    pub pages: [Version; PAGES],
    pub files: Files,
}

impl Truth {
    pub fn new() -> Self {
        Self { pages: [1; PAGES], files: [1; FILES] }
    }

    /// The pages of processes that have all of them.
    pub fn whole(&self) -> Pages {
        self.pages.map(Some)
    }
}
