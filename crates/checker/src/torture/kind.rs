//! The kinds of memory, and of other things that change memory.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// What is tortured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Memory of the allocator.
    Heap,
    /// Private mappings without a file.
    Private,
    /// Shared mappings without a file.
    Shared,
    /// Memfds, mapped twice.
    Memfd,
    /// Private mappings of a file: pages have what the file has until they are written.
    File,
    /// Private memory that is never written but by files that are read past the page cache (`O_DIRECT`).
    Direct,
    /// Private memory that forked children do not have (`MADV_DONTFORK`).
    DontFork,
    /// Private memory that is zero in forked children (`MADV_WIPEONFORK`).
    WipeOnFork,
    /// Private memory that may not be touched between two steps (`PROT_NONE`).
    Hidden,
    /// Private memory between two pages that may never be touched.
    Guarded,
    /// Memory that is kept from being swapped out (`mlock`). The memory of a process with locked memory is not followed.
    Locked,
    /// Huge pages (`MAP_HUGETLB`), of which the machine must have some.
    Huge,
    /// Stacks that grow.
    Stack,
    /// Children that go on with the memory of their parent for a while, and look at it.
    Fork,
    /// Children that run another program.
    Exec,
}

impl Kind {
    /// All but those that a container must be prepared for, or that change how it is moved.
    pub const USUAL: [Self; 12] = [
        Self::Heap,
        Self::Private,
        Self::Shared,
        Self::Memfd,
        Self::File,
        Self::DontFork,
        Self::WipeOnFork,
        Self::Hidden,
        Self::Guarded,
        Self::Stack,
        Self::Fork,
        Self::Exec,
    ];

    /// Whether there are blocks of it.
    pub fn is_memory(self) -> bool {
        !matches!(self, Self::Stack | Self::Fork | Self::Exec)
    }

    /// Whether forked children write where their parent sees it.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::Memfd)
    }

    /// Whether its pages can be given back one by one; then they have what they had before they were written.
    pub fn forgets(self) -> bool {
        !matches!(self, Self::Heap | Self::Locked | Self::Huge | Self::Hidden)
    }

    /// Whether it can become longer, with zeros.
    pub fn grows(self) -> bool {
        matches!(self, Self::Heap | Self::Private | Self::Direct | Self::DontFork | Self::WipeOnFork)
    }

    /// Whether it can become shorter, change its place and be cut in two.
    pub fn moves(self) -> bool {
        matches!(
            self,
            Self::Private | Self::Direct | Self::Shared | Self::Memfd | Self::File | Self::DontFork | Self::WipeOnFork
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| formatter.write_str(value.get_name()))
    }
}
