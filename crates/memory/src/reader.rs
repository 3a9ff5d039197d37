//! Reading a process's pages into a page stream: in large batches, and without what the target has.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use drover_model::PageCount;
use drover_sys::read::{MOST_RANGES, read_process};

use crate::hash::{Names, ZEROS};
use crate::outflow::{Outflow, Verdict};
use crate::pages::PageSet;
use crate::record::Run;
use crate::sent::Sent;
use drover_packing::Outlet;

const PAGE: u64 = PageCount::PAGE;

/// One process's memory, and what the target has of it.
#[derive(Debug)]
pub(crate) struct Reader {
    pid: u32,
    /// `/proc/PID/mem`, for what the quick way refuses.
    memory: File,
    sent: Sent,
}

impl Reader {
    /// `another`: whether the target may have pages that it takes for this process's.
    pub fn new(pid: u32, memory: File, another: bool) -> Self {
        let sent = if another { Sent::after_another() } else { Sent::default() };
        Self { pid, memory, sent }
    }

    /// How many chunks of names are kept.
    pub fn chunks(&self) -> usize {
        self.sent.chunks()
    }

    /// Sends pages, each once, of which the target lacks the content.
    pub fn send(
        &mut self,
        pending: &PageSet,
        stream: &mut Outflow<impl Outlet>,
        names: Names,
        chunks: &mut usize,
    ) -> io::Result<()> {
        let mut rest = pending.runs().iter().cloned();
        let mut next = rest.next();
        while next.is_some() {
            let into = stream.room()?;
            let mut batch: Vec<Range<u64>> = Vec::new();
            let mut room = into.len() as u64;
            while let Some(range) = next.take() {
                let end = range.end.min(range.start + room);
                batch.push(range.start..end);
                room -= end - range.start;
                next = if end < range.end { Some(end..range.end) } else { rest.next() };
                if room == 0 || batch.len() == MOST_RANGES {
                    break;
                }
            }
            let length = into.len() - room as usize;
            self.read(&batch, &mut into[..length]);
            let runs = batch
                .iter()
                .map(|range| Run { address: range.start, pages: ((range.end - range.start) / PAGE) as u32 });
            let sent = &mut self.sent;
            stream.put(runs, |address, page| judge(sent, address, page, names, chunks))?;
        }
        Ok(())
    }

    /// Page by page where not all of them can be read at once: one has gone meanwhile, and is missing from those that are
    /// kept in the end, or guards what is beside it. They count as zeros.
    fn read(&self, batch: &[Range<u64>], into: &mut [u8]) {
        if read_process(self.pid, batch, into).is_ok_and(|read| read == into.len()) {
            return;
        }
        let mut rest = into;
        for range in batch {
            let (content, behind) = rest.split_at_mut((range.end - range.start) as usize);
            read_single(&self.memory, range.start, content);
            rest = behind;
        }
    }
}

fn judge(sent: &mut Sent, address: u64, page: &[u8], names: Names, chunks: &mut usize) -> Verdict {
    match names.of_page(page) {
        ZEROS if sent.lacks_zero(address) => Verdict::Zero,
        ZEROS => Verdict::Skip,
        name if sent.lacks(address, name, chunks) => Verdict::Send,
        _ => Verdict::Skip,
    }
}

/// Reads neighbouring pages one by one, where not all of them can be read.
pub(crate) fn read_single(memory: &File, address: u64, content: &mut [u8]) {
    for (number, page) in content.chunks_mut(PAGE as usize).enumerate() {
        if memory.read_exact_at(page, address + number as u64 * PAGE).is_err() {
            page.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_model::Compression;
    use drover_sys::map::Anonymous;

    use super::*;

    #[test]
    fn a_page_crosses_when_its_content_has_changed() {
        const PAGES: u64 = 200;
        let memory = Anonymous::new((PAGES * PAGE) as usize).unwrap();
        let base = memory.address();
        let own = std::process::id();
        let mut reader = Reader::new(own, File::open("/proc/self/mem").unwrap(), false);
        let (mut out, mut room) = (Vec::new(), 8);
        let mut stream = Outflow::new(&mut out, Compression::None, 8).unwrap();
        let mut send = |range: &Range<u64>| {
            let before = stream.sums();
            reader.send(&PageSet::of(vec![range.clone()]), &mut stream, Names::new(1), &mut room).unwrap();
            stream.flush().unwrap();
            let sums = stream.sums();
            (sums.pages - before.pages, sums.bytes - before.bytes)
        };
        let all = base..base + PAGES * PAGE;
        assert_eq!(send(&all).0, 0, "all of it is zero");
        for page in 0..PAGES {
            memory.write((page * PAGE) as usize + 9, 1);
        }
        assert_eq!(send(&all).0, PAGES);
        assert_eq!(send(&all), (0, 0), "the target has all of it");
        memory.write(9, 2);
        memory.write(3 * PAGE as usize + 9, 0);
        let (pages, bytes) = send(&all);
        assert_eq!(pages, 1);
        assert_eq!(bytes, 17 + 18 + PAGE, "a run of zeros, a block, its page");
        // Page zero is nobody's.
        let mut content = vec![1; 2 * PAGE as usize];
        memory.write(9, 3);
        reader.read(&[0..PAGE, base..base + PAGE], &mut content);
        assert!(content[..PAGE as usize].iter().all(|byte| *byte == 0) && content[PAGE as usize + 9] == 3);
    }
}
