//! Writing and reading the page stream, whose records `record.rs` describes.

use std::io::{self, Read, Write};

use drover_model::PageCount;

use crate::record::{
    Description, LONGEST_NAME, MAGIC, MAX_BLOCK, MAX_RUN, Object, PRESENT, Record, Run, put_end, put_object, put_run,
};
use drover_packing::Algorithm;

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
        let mut record = Vec::new();
        put_object(&mut record, object);
        self.out.write_all(&record)
    }

    /// A run; with the flag `PRESENT` its content must be written to `content` next.
    ///
    /// # Errors
    /// When the stream refuses.
    pub fn run(&mut self, flags: u32, address: u64, pages: u32) -> io::Result<()> {
        if flags & PRESENT != 0 {
            self.total += u64::from(pages);
        }
        let mut record = Vec::new();
        put_run(&mut record, flags, Run { address, pages });
        self.out.write_all(&record)
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
        let mut record = Vec::new();
        put_end(&mut record, self.total);
        self.out.write_all(&record)?;
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
    runs: Vec<Run>,
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
        Ok(Self { input, total: 0, object_seen: false, runs: Vec::new() })
    }

    /// The next record. The content of a run with the flag `PRESENT`, and that of a block, must be read from `content`
    /// next.
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
            4 => Ok(Record::Mark),
            3 if u64::from_le_bytes(self.bytes()?) == self.total => Ok(Record::End),
            3 => Err(StreamError::Nonsense("its total of pages is wrong")),
            5 => self.block(),
            6 => self.description(),
            _ => Err(StreamError::Nonsense("unknown kind of record")),
        }
    }

    /// Where the content of a run is read from.
    pub fn content(&mut self) -> &mut R {
        &mut self.input
    }

    /// The runs of the block that was read last.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    fn run(&mut self) -> Result<Record, StreamError> {
        let flags = u32::from_le_bytes(self.bytes()?);
        let address = u64::from_le_bytes(self.bytes()?);
        let pages = u32::from_le_bytes(self.bytes()?);
        self.check(Run { address, pages }, MAX_RUN)?;
        if flags & PRESENT != 0 {
            self.total += u64::from(pages);
        }
        Ok(Record::Run { flags, address, pages })
    }

    fn block(&mut self) -> Result<Record, StreamError> {
        let [algorithm] = self.bytes()?;
        let algorithm = Algorithm::from_wire(algorithm).ok_or(StreamError::Nonsense("unknown packing"))?;
        let count = u16::from_le_bytes(self.bytes()?);
        let length = u32::from_le_bytes(self.bytes()?);
        if count == 0 || u32::from(count) > MAX_BLOCK {
            return Err(StreamError::Nonsense("a block of no or too many runs"));
        }
        self.runs.clear();
        let mut pages = 0;
        for _ in 0..count {
            let address = u64::from_le_bytes(self.bytes()?);
            let run = Run { address, pages: u16::from_le_bytes(self.bytes()?).into() };
            self.check(run, MAX_BLOCK - pages)?;
            pages += run.pages;
            self.runs.push(run);
        }
        let whole = pages * PageCount::PAGE as u32;
        let fits = if algorithm == Algorithm::None { length == whole } else { length > 0 && length < whole };
        if !fits {
            return Err(StreamError::Nonsense("a block of a wrong length"));
        }
        self.total += u64::from(pages);
        Ok(Record::Block { algorithm, length, pages })
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

    fn check(&self, run: Run, most: u32) -> Result<(), StreamError> {
        if !self.object_seen {
            return Err(StreamError::Nonsense("pages of nothing"));
        }
        if run.pages == 0 || run.pages > most {
            return Err(StreamError::Nonsense("a run of no or too many pages"));
        }
        let end = run.address.checked_add(u64::from(run.pages) * PageCount::PAGE);
        if !run.address.is_multiple_of(PageCount::PAGE) || end.is_none() {
            return Err(StreamError::Nonsense("an address that no page has"));
        }
        Ok(())
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
    use crate::record::put_description;

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
        let mut record = Vec::new();
        put_description(&mut record, &description);
        writer.content().write_all(&record).unwrap();
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
