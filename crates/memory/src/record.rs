//! The records of the page stream.
//!
//! Format, all numbers little endian: the eight bytes `DRVPAGE1`, then records, each beginning with its kind (`u8`):
//! 1 object: kind (`u8`: 1 process, 2 shared memory), id (`u64`); the runs that follow belong to it.
//! 2 run: CRIU's flags (`u32`), address (`u64`), pages (`u32`, at most 2^18); with the flag PRESENT the content follows.
//! 3 end: total of pages with content (`u64`).
//! 4 mark: a round ends here.
//! 5 block: packing (`u8`: 0 none, 1 LZ4, 2 Zstandard), runs (`u16`, at most 64), length (`u32`), then for each run its
//!   address (`u64`) and pages (`u16`), at most 64 pages in all; then the content of all of them, packed into that length:
//!   not packed it has the length of the pages, packed it is shorter.
//! 6 description of shared memory: id (`u64`), flags (`u8`: 1 the last one, 2 may be sealed, 4 of System V), size in
//!   bytes (`u64`), process (`u64`) and address (`u64`) of a mapping, and its name, behind its length (`u16`, at most 249).

use std::ops::Range;

use drover_model::PageCount;

use drover_packing::Algorithm;

/// What pages belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The private memory of the process with this id in its own namespace.
    Process(u64),
    /// The shared memory with this id in CRIU's images.
    Shared(u64),
}

/// Shared memory, as the target must make it. It is described before its first run, and once more in the end if it is to
/// be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The id of its runs.
    pub id: u64,
    /// Whether nothing more comes.
    pub last: bool,
    /// Whether seals may be set on it.
    pub sealable: bool,
    /// Whether it is a segment of System V, which no memfd can stand for.
    pub system_five: bool,
    /// How long it is in bytes.
    pub size: u64,
    /// A process that has it mapped, by its id in its own namespace.
    pub process: u64,
    /// Where that process has a part of it.
    pub address: u64,
    /// Its name as a memfd.
    pub name: Vec<u8>,
}

/// One record, without the content that follows a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The runs that follow belong to this.
    Object(Object),
    /// Neighbouring pages.
    Run {
        /// CRIU's flags of a page map entry: 1 parent, 2 lazy, 4 present.
        flags: u32,
        /// The address of the first page.
        address: u64,
        /// How many.
        pages: u32,
    },
    /// A round ends here.
    Mark,
    /// Several runs, whose content follows in one packed piece. The runs are in `StreamReader::runs`.
    Block {
        /// How it is packed.
        algorithm: Algorithm,
        /// How many bytes follow.
        length: u32,
        /// How many pages the runs have together.
        pages: u32,
    },
    /// Shared memory that begins, or ends.
    Description(Description),
    /// Nothing follows.
    End,
}

/// The flag of a run whose content follows.
pub const PRESENT: u32 = 4;
/// The most pages in one run: 1 GiB.
pub const MAX_RUN: u32 = 1 << 18;
/// The most pages, and the most runs, in one block: 256 KiB.
pub const MAX_BLOCK: u32 = 64;
/// The longest header of a block, in bytes.
pub(crate) const BLOCK_HEADER: usize = 8 + MAX_BLOCK as usize * 10;
/// The longest name of a memfd in bytes (`memfd_create(2)`).
pub(crate) const LONGEST_NAME: usize = 249;
pub(crate) const MAGIC: &[u8; 8] = b"DRVPAGE1";

/// Some pages side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The address of the first one.
    pub address: u64,
    /// How many.
    pub pages: u32,
}

impl Run {
    /// The address behind the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address + u64::from(self.pages) * PageCount::PAGE
    }
}

/// A range of addresses in runs that a record can say.
pub(crate) fn in_pieces(range: &Range<u64>) -> impl Iterator<Item = Run> + use<> {
    let end = range.end;
    let starts = (range.start..end).step_by(MAX_RUN as usize * PageCount::PAGE as usize);
    starts
        .map(move |address| Run { address, pages: ((end - address) / PageCount::PAGE).min(u64::from(MAX_RUN)) as u32 })
}

/// The beginning of a stream.
pub(crate) fn put_magic(out: &mut Vec<u8>) {
    out.extend(MAGIC);
}

pub(crate) fn put_object(out: &mut Vec<u8>, object: Object) {
    let (kind, id) = match object {
        Object::Process(id) => (1, id),
        Object::Shared(id) => (2, id),
    };
    out.extend([1, kind]);
    out.extend(id.to_le_bytes());
}

pub(crate) fn put_run(out: &mut Vec<u8>, flags: u32, run: Run) {
    out.push(2);
    out.extend(flags.to_le_bytes());
    out.extend(run.address.to_le_bytes());
    out.extend(run.pages.to_le_bytes());
}

pub(crate) fn put_mark(out: &mut Vec<u8>) {
    out.push(4);
}

pub(crate) fn put_end(out: &mut Vec<u8>, total: u64) {
    out.push(3);
    out.extend(total.to_le_bytes());
}

pub(crate) fn put_block(out: &mut Vec<u8>, algorithm: Algorithm, runs: &[Run], length: usize) {
    out.extend([5, algorithm as u8]);
    out.extend((runs.len() as u16).to_le_bytes());
    out.extend((length as u32).to_le_bytes());
    for run in runs {
        out.extend(run.address.to_le_bytes());
        out.extend((run.pages as u16).to_le_bytes());
    }
}

pub(crate) fn put_description(out: &mut Vec<u8>, description: &Description) {
    let Description { id, last, sealable, system_five, size, process, address, name } = description;
    let name = &name[..name.len().min(LONGEST_NAME)];
    out.push(6);
    out.extend(id.to_le_bytes());
    out.push(u8::from(*last) | u8::from(*sealable) << 1 | u8::from(*system_five) << 2);
    for number in [size, process, address] {
        out.extend(number.to_le_bytes());
    }
    out.extend((name.len() as u16).to_le_bytes());
    out.extend(name);
}
