//! The network between the two nodes: links that carry what is sent in order until they break, and may break at any time.
//!
//! What is told of a link that broke comes late and to each side by itself. Messages may be lost, doubled or overtaken on a
//! link, which TLS does not let happen: the ownership rule does not rest on that. Data is not: its order is the stream's.

use std::collections::VecDeque;

use crate::content::Version;

/// What crosses besides messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Image,
    Page(usize, Version),
    File(usize, Version),
    /// The end of a round, with or without memory.
    RoundEnds {
        memory: bool,
    },
    /// Pages that follow.
    Follow(Vec<usize>),
    /// All files are there.
    FilesEnd,
    /// Every stream has ended.
    StreamsEnd,
    Wish(usize),
    Answer(usize, Version),
}

/// One thing on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Message(Vec<u8>),
    Data(Data),
    /// The other side has closed the link.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// The node that made it, and the other one.
    pub ends: [usize; 2],
    /// The agents that hold it, by how often their nodes' agents had been started.
    pub holders: [u64; 2],
    /// What is on its way: to the second of the ends, and back.
    pub on_the_way: [VecDeque<Frame>; 2],
    /// When the last of each arrives.
    pub last: [u64; 2],
    pub broken: bool,
}
