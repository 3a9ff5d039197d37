//! The page stream: which pages, of what, with which content.
//!
//! Format, all numbers little endian: the eight bytes `DRVPAGE1`, then records, each beginning with its kind (`u8`):
//! 1 object: kind (`u8`: 1 process, 2 shared memory), id (`u64`); the runs that follow belong to it.
//! 2 run: CRIU's flags (`u32`), address (`u64`), pages (`u32`, at most 2^18); with the flag PRESENT the content follows.
//! 3 end: total of pages with content (`u64`).
//! 4 description of shared memory: id (`u64`), flags (`u8`: 1 the last one, 2 may be sealed, 4 of System V), size in
//!   bytes (`u64`), process (`u64`) and address (`u64`) of a mapping, and its name, behind its length (`u16`, at most 249).

use std::io::{self, Read, Write};

use drover_model::PageCount;

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
    /// Shared memory that begins, or ends.
    Description(Description),
    /// Nothing follows.
    End,
}

/// The flag of a run whose content follows.
pub const PRESENT: u32 = 4;
/// The most pages in one run: 1 GiB.
pub const MAX_RUN: u32 = 1 << 18;
/// The longest name of a memfd in bytes (`memfd_create(2)`).
const LONGEST_NAME: usize = 249;
const MAGIC: &[u8; 8] = b"DRVPAGE1";

/// A stream that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream broke.
    #[error("the page stream broke")]
    Io(#[from] io::Error),
    /// It makes no sense.
    #[error("the page stream makes no sense: {0}")]
    Nonsense(&'static str),
}

/// Writes a page stream.
#[derive(Debug)]
pub struct StreamWriter<W> {
    out: W,
    total: u64,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream.
    ///
    /// # Errors
    /// When `out` refuses.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self { out, total: 0 })
    }

    /// The runs that follow belong to `object`.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn object(&mut self, object: Object) -> io::Result<()> {
        let (kind, id) = match object {
            Object::Process(id) => (1, id),
            Object::Shared(id) => (2, id),
        };
        self.out.write_all(&[1, kind])?;
        self.out.write_all(&id.to_le_bytes())
    }

    /// A run; with the flag `PRESENT` its content must be written to `content` next.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn run(&mut self, flags: u32, address: u64, pages: u32) -> io::Result<()> {
        if flags & PRESENT != 0 {
            self.total += u64::from(pages);
        }
        self.out.write_all(&[2])?;
        self.out.write_all(&flags.to_le_bytes())?;
        self.out.write_all(&address.to_le_bytes())?;
        self.out.write_all(&pages.to_le_bytes())
    }

    /// Describes shared memory.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn describe(&mut self, description: &Description) -> io::Result<()> {
        let Description { id, last, sealable, system_five, size, process, address, name } = description;
        let name = &name[..name.len().min(LONGEST_NAME)];
        self.out.write_all(&[4])?;
        self.out.write_all(&id.to_le_bytes())?;
        self.out.write_all(&[u8::from(*last) | u8::from(*sealable) << 1 | u8::from(*system_five) << 2])?;
        for number in [size, process, address] {
            self.out.write_all(&number.to_le_bytes())?;
        }
        self.out.write_all(&(name.len() as u16).to_le_bytes())?;
        self.out.write_all(name)
    }

    /// Where the content of a run goes.
    pub fn content(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends the stream; gives the number of pages whose content was written, and where the stream went.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn end(mut self) -> io::Result<(PageCount, W)> {
        self.out.write_all(&[3])?;
        self.out.write_all(&self.total.to_le_bytes())?;
        self.out.flush()?;
        Ok((PageCount(self.total), self.out))
    }
}

/// Reads a page stream that a peer sent: nothing in it is trusted.
#[derive(Debug)]
pub struct StreamReader<R> {
    input: R,
    total: u64,
    object_seen: bool,
}

impl<R: Read> StreamReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// When it is no page stream.
    pub fn new(mut input: R) -> Result<Self, StreamError> {
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(StreamError::Nonsense("it is of another version"));
        }
        Ok(Self { input, total: 0, object_seen: false })
    }

    /// The next record. The content of a run with the flag `PRESENT` must be read from `content` next.
    ///
    /// # Errors
    /// When the stream breaks or makes no sense.
    pub fn record(&mut self) -> Result<Record, StreamError> {
        let [kind] = self.bytes()?;
        match kind {
            1 => {
                let [kind] = self.bytes()?;
                let id = u64::from_le_bytes(self.bytes()?);
                self.object_seen = true;
                match kind {
                    1 => Ok(Record::Object(Object::Process(id))),
                    2 => Ok(Record::Object(Object::Shared(id))),
                    _ => Err(StreamError::Nonsense("unknown kind of object")),
                }
            }
            2 => self.run(),
            3 if u64::from_le_bytes(self.bytes()?) == self.total => Ok(Record::End),
            3 => Err(StreamError::Nonsense("its total of pages is wrong")),
            4 => self.description(),
            _ => Err(StreamError::Nonsense("unknown kind of record")),
        }
    }

    /// Where the content of a run is read from.
    pub fn content(&mut self) -> &mut R {
        &mut self.input
    }

    fn run(&mut self) -> Result<Record, StreamError> {
        let flags = u32::from_le_bytes(self.bytes()?);
        let address = u64::from_le_bytes(self.bytes()?);
        let pages = u32::from_le_bytes(self.bytes()?);
        if !self.object_seen {
            return Err(StreamError::Nonsense("pages of nothing"));
        }
        if pages == 0 || pages > MAX_RUN {
            return Err(StreamError::Nonsense("a run of no or too many pages"));
        }
        let end = u64::from(pages).checked_mul(PageCount::PAGE).and_then(|length| address.checked_add(length));
        if address % PageCount::PAGE != 0 || end.is_none() {
            return Err(StreamError::Nonsense("an address that no page has"));
        }
        if flags & PRESENT != 0 {
            self.total += u64::from(pages);
        }
        Ok(Record::Run { flags, address, pages })
    }

    fn description(&mut self) -> Result<Record, StreamError> {
        let id = u64::from_le_bytes(self.bytes()?);
        let [flags] = self.bytes()?;
        let size = u64::from_le_bytes(self.bytes()?);
        let process = u64::from_le_bytes(self.bytes()?);
        let address = u64::from_le_bytes(self.bytes()?);
        let length = usize::from(u16::from_le_bytes(self.bytes()?));
        if flags > 7 || length > LONGEST_NAME {
            return Err(StreamError::Nonsense("a description of shared memory"));
        }
        let mut name = vec![0; length];
        self.input.read_exact(&mut name)?;
        let (last, sealable, system_five) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        Ok(Record::Description(Description { id, last, sealable, system_five, size, process, address, name }))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stream_comes_back_as_it_was_written() {
        let mut out = Vec::new();
        let mut writer = StreamWriter::new(&mut out).unwrap();
        writer.object(Object::Process(7)).unwrap();
        writer.run(PRESENT, 0x1000, 2).unwrap();
        writer.content().write_all(&[5; 8192]).unwrap();
        writer.run(2, 0x9000, 1).unwrap();
        let description = Description {
            id: 1 << 40,
            last: true,
            sealable: false,
            system_five: true,
            size: 8192,
            process: 7,
            address: 0x7f00_0000_1000,
            name: b"a name".to_vec(),
        };
        writer.describe(&description).unwrap();
        assert_eq!(writer.end().unwrap().0, PageCount(2));

        let mut reader = StreamReader::new(&out[..]).unwrap();
        assert_eq!(reader.record().unwrap(), Record::Object(Object::Process(7)));
        assert_eq!(reader.record().unwrap(), Record::Run { flags: PRESENT, address: 0x1000, pages: 2 });
        let mut content = [0; 8192];
        reader.content().read_exact(&mut content).unwrap();
        assert_eq!(content, [5; 8192]);
        assert_eq!(reader.record().unwrap(), Record::Run { flags: 2, address: 0x9000, pages: 1 });
        assert_eq!(reader.record().unwrap(), Record::Description(description));
        assert_eq!(reader.record().unwrap(), Record::End);
    }

    proptest! {
        #[test]
        fn a_hostile_stream_ends_in_an_error_and_never_panics(bytes: Vec<u8>) {
            let hostile = [&MAGIC[..], &bytes].concat();
            let mut reader = StreamReader::new(&hostile[..]).unwrap();
            // Every record takes at least one byte.
            for _ in 0..=hostile.len() {
                match reader.record() {
                    Ok(Record::End) | Err(_) => return Ok(()),
                    Ok(_) => {}
                }
            }
            prop_assert!(false, "more records than bytes");
        }
    }
}
