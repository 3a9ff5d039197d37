//! Neighbouring pages of one kind that check themselves.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use drover_sys::words::{PAGE_WORDS, Sharing, Words};
use rustix::mm::Advice;

use crate::torture::file::{self, PageFile};
use crate::torture::kind::Kind;
use crate::torture::wrong::Wrong;

/// Where the words are.
#[derive(Debug)]
enum Memory {
    Heap(Vec<u64>),
    Mapped(Words),
}

/// Pages, and how often each was written since it last was as at first.
#[derive(Debug)]
pub struct Block {
    kind: Kind,
    id: u64,
    /// The number of its first page, by which its content is chosen, and its place in the file if there is one.
    first: usize,
    /// Pages of the memory before the first one of the block.
    lead: usize,
    memory: Memory,
    /// Another mapping of the same pages.
    second: Option<Words>,
    /// What its pages are read from.
    source: Option<Arc<File>>,
    generations: Vec<u32>,
    hidden: bool,
}

/// What a word must be that was written; it is odd, and so never zero.
pub fn word(block: u64, page: usize, generation: u32, index: usize) -> u64 {
    let mixed = block ^ (page as u64) << 40 ^ u64::from(generation) << 8 ^ index as u64;
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Block {
    /// Makes pages of which none was written. Those of a file begin at its page `first`.
    pub fn new(kind: Kind, id: u64, first: usize, pages: usize, file: &PageFile) -> io::Result<Self> {
        let lead = usize::from(kind == Kind::Guarded);
        let mut second = None;
        let mut words = match kind {
            Kind::Heap => None,
            Kind::Shared => Some(Words::anonymous(pages, Sharing::Shared)?),
            Kind::Memfd => {
                let memfd = rustix::fs::memfd_create("torture", rustix::fs::MemfdFlags::CLOEXEC)?;
                rustix::fs::ftruncate(&memfd, (pages * PAGE_WORDS * 8) as u64)?;
                second = Some(Words::of_file(&memfd, 0, pages, Sharing::Shared)?);
                Some(Words::of_file(&memfd, 0, pages, Sharing::Shared)?)
            }
            Kind::File => Some(Words::of_file(file.handle(), first, pages, Sharing::Private)?),
            Kind::Huge => Some(Words::huge(pages)?),
            _ => Some(Words::anonymous(pages + 2 * lead, Sharing::Private)?),
        };
        if let Some(words) = &mut words {
            match kind {
                Kind::DontFork => words.advise(0..pages, Advice::LinuxDontFork)?,
                Kind::WipeOnFork => words.advise(0..pages, Advice::LinuxWipeOnFork)?,
                Kind::Locked => words.lock()?,
                Kind::Guarded => {
                    words.hide(0..1)?;
                    words.hide(pages + 1..pages + 2)?;
                }
                _ => {}
            }
        }
        let memory = words.map_or_else(|| Memory::Heap(vec![0; pages * PAGE_WORDS]), Memory::Mapped);
        let source = (kind == Kind::Direct).then(|| file.past_cache()).transpose()?;
        Ok(Self { kind, id, first, lead, memory, second, source, generations: vec![0; pages], hidden: false })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn pages(&self) -> usize {
        self.generations.len()
    }

    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    fn wanted(&self, page: usize, generation: u32, index: usize) -> u64 {
        match (generation, self.kind) {
            (0, Kind::File) => PageFile::word(self.first + page, index),
            (0, _) => 0,
            (_, Kind::Direct) => PageFile::word(self.source_page(page, generation), index),
            _ => word(self.id, self.first + page, generation, index),
        }
    }

    /// What of the file is read into a page.
    fn source_page(&self, page: usize, generation: u32) -> usize {
        (word(self.id, self.first + page, generation, 0) >> 32) as usize % file::PAGES
    }

    /// Looks at a page.
    pub fn check(&self, page: usize) -> Result<(), Wrong> {
        self.check_for(page, self.generations[page])
    }

    /// Looks at all pages, and those around them that must not be there.
    pub fn check_all(&self) -> Result<(), Wrong> {
        if let (Kind::Guarded, Memory::Mapped(words)) = (self.kind, &self.memory) {
            unreadable(self.kind, words, 0)?;
            unreadable(self.kind, words, words.pages() - 1)?;
        }
        (0..self.pages()).try_for_each(|page| self.check(page))
    }

    /// Looks at all pages as a forked child must see them. Allocates nothing.
    pub fn check_all_in_child(&self) -> Result<(), Wrong> {
        match (self.kind, &self.memory) {
            (Kind::DontFork, Memory::Mapped(words)) => {
                (0..self.pages()).try_for_each(|page| unreadable(self.kind, words, page))
            }
            (Kind::WipeOnFork, _) => (0..self.pages()).try_for_each(|page| self.check_for(page, 0)),
            _ if self.hidden => Ok(()),
            _ => self.check_all(),
        }
    }

    fn check_for(&self, page: usize, generation: u32) -> Result<(), Wrong> {
        for index in 0..PAGE_WORDS {
            let wanted = self.wanted(page, generation, index);
            let (found, address) = self.memory.read((self.lead + page) * PAGE_WORDS + index);
            let second = self.second.as_ref().map(|words| words.read(page * PAGE_WORDS + index));
            if let Some(found) = [Some(found), second].into_iter().flatten().find(|found| *found != wanted) {
                let (page, wanted) = ((self.first + page) as u64, Some(wanted));
                return Err(Wrong { kind: self.kind, address, page, generation, found, wanted });
            }
        }
        Ok(())
    }

    /// Writes the next generation of a page. Allocates nothing.
    pub fn write(&mut self, page: usize) {
        self.write_as(page, self.generations[page] + 1);
    }

    /// Writes what was there at first.
    pub fn clear(&mut self, page: usize) {
        self.write_as(page, 0);
    }

    fn write_as(&mut self, page: usize, generation: u32) {
        self.generations[page] = generation;
        let from = self.source_page(page, generation);
        if let (Some(source), Memory::Mapped(words), 1..) = (&self.source, &mut self.memory, generation) {
            // What does not come is found to be missing when the page is looked at.
            let _ = words.fill(page, source, from);
            return;
        }
        for index in 0..PAGE_WORDS {
            let value = self.wanted(page, generation, index);
            match &mut self.second {
                // Both mappings are written through, in turn.
                Some(words) if generation % 2 == 1 => words.write(page * PAGE_WORDS + index, value),
                _ => self.memory.write((self.lead + page) * PAGE_WORDS + index, value),
            }
        }
    }

    /// Says that a forked child has written a page that is shared with it.
    pub fn was_written(&mut self, page: usize) {
        self.generations[page] += 1;
    }

    /// Gives pages back, which then are as at first.
    pub fn forget(&mut self, pages: Range<usize>) -> io::Result<()> {
        let Memory::Mapped(words) = &mut self.memory else { return Ok(()) };
        let advice = if self.kind.is_shared() { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
        words.advise(pages.start + self.lead..pages.end + self.lead, advice)?;
        self.generations[pages].fill(0);
        Ok(())
    }

    /// Makes it as many pages; new ones are zero.
    pub fn resize(&mut self, pages: usize) -> io::Result<()> {
        match &mut self.memory {
            Memory::Heap(words) => {
                words.resize(pages * PAGE_WORDS, 0);
                words.shrink_to_fit();
            }
            Memory::Mapped(words) => words.resize(pages)?,
        }
        self.second.as_mut().map_or(Ok(()), |words| words.resize(pages))?;
        self.generations.resize(pages, 0);
        Ok(())
    }

    /// Moves it to another address.
    pub fn relocate(&mut self) -> io::Result<()> {
        match &mut self.memory {
            Memory::Heap(_) => Ok(()),
            Memory::Mapped(words) => words.relocate(),
        }
    }

    /// Cuts off the pages from `page` on, if this kind can be cut.
    pub fn split_off(&mut self, page: usize) -> Option<Self> {
        let Memory::Mapped(words) = &mut self.memory else { return None };
        Some(Self {
            first: self.first + page,
            memory: Memory::Mapped(words.split_off(page)),
            second: self.second.as_mut().map(|words| words.split_off(page)),
            source: self.source.clone(),
            generations: self.generations.split_off(page),
            ..*self
        })
    }

    /// Lets nobody touch it, or everybody again.
    pub fn hide(&mut self, hidden: bool) -> io::Result<()> {
        if let (Memory::Mapped(words), true) = (&mut self.memory, hidden != self.hidden) {
            let all = 0..words.pages();
            if hidden {
                words.hide(all)?
            } else {
                words.show(all)?
            }
            self.hidden = hidden;
        }
        Ok(())
    }
}

fn unreadable(kind: Kind, words: &Words, page: usize) -> Result<(), Wrong> {
    if !words.readable(page) {
        return Ok(());
    }
    let address = words.address(page * PAGE_WORDS);
    Err(Wrong { kind, address, page: page as u64, generation: 0, found: 0, wanted: None })
}

impl Memory {
    /// A word and its address.
    fn read(&self, index: usize) -> (u64, u64) {
        match self {
            Self::Heap(words) => (words[index], words.as_ptr() as u64 + index as u64 * 8),
            Self::Mapped(words) => (words.read(index), words.address(index)),
        }
    }

    fn write(&mut self, index: usize, value: u64) {
        match self {
            Self::Heap(words) => words[index] = value,
            Self::Mapped(words) => words.write(index, value),
        }
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
