//! What one thread does to its memory.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::torture::block::Block;
use crate::torture::child::visit;
use crate::torture::file::{self, PageFile};
use crate::torture::kind::Kind;
use crate::torture::stack::dive;
use crate::torture::tally::{Act, Tally};
use crate::torture::wrong::Wrong;

/// The largest block in pages.
const LARGEST: usize = 1024;
/// The largest locked block in pages: a process may lock little.
const LOCKED: usize = 8;
/// Pages in a block of huge pages: one of them on x86-64.
const HUGE: usize = 512;
/// The deepest dive in frames of a page: half of what a thread's stack has room for.
const DEEPEST: usize = 200;
/// The longest time that a dive stays at the bottom, and that a forked child lives.
const LINGER_US: u64 = 20_000;

/// What all threads have in common.
#[derive(Debug)]
pub struct Common {
    /// The kinds that this machine has.
    pub kinds: Vec<Kind>,
    /// Pages that each thread has, on average.
    pub pages: usize,
    pub file: PageFile,
    /// This program.
    pub program: PathBuf,
    /// Where threads leave blocks for each other.
    pub exchange: Mutex<Option<Block>>,
}

/// A thread's memory.
#[derive(Debug)]
pub struct Worker<'common> {
    common: &'common Common,
    chance: SmallRng,
    seed: u64,
    made: u64,
    memory: Vec<Kind>,
    blocks: Vec<Block>,
    pub tally: Tally,
}

impl From<Wrong> for String {
    fn from(wrong: Wrong) -> Self {
        wrong.to_string()
    }
}

/// Whether the kernel has done it. It moves no range that is two mappings (`EFAULT`, `mremap(2)`).
fn possible(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::FAULT.raw_os_error()) => Ok(false),
        done => done.map(|()| true),
    }
}

fn failed(what: &'static str, kind: Kind) -> impl Fn(io::Error) -> String {
    move |error| format!("cannot {what} memory of the kind {kind}: {error}")
}

/// Makes a block of this kind of at most as many pages.
pub fn new_block(kind: Kind, id: u64, largest: usize, file: &PageFile, chance: &mut SmallRng) -> io::Result<Block> {
    let pages = match kind {
        Kind::Huge => HUGE,
        Kind::Locked => chance.random_range(1..=LOCKED),
        Kind::File => chance.random_range(1..=largest.min(file::PAGES)),
        _ => chance.random_range(1..=largest),
    };
    let first = if kind == Kind::File { chance.random_range(0..=file::PAGES - pages) } else { 0 };
    Block::new(kind, id, first, pages, file)
}

impl<'common> Worker<'common> {
    pub fn new(common: &'common Common, seed: u64) -> Self {
        let memory = common.kinds.iter().copied().filter(|kind| kind.is_memory()).collect();
        let chance = SmallRng::seed_from_u64(seed);
        Self { common, chance, seed, made: 0, memory, blocks: Vec::new(), tally: Tally::default() }
    }

    /// Makes blocks until there is enough memory, of all kinds in turn. Some of their pages are left as they are.
    pub fn fill(&mut self) -> Result<(), String> {
        let largest = (2 * self.common.pages / self.memory.len().max(1)).clamp(1, LARGEST);
        let mut pages: usize = self.blocks.iter().map(Block::pages).sum();
        while !self.memory.is_empty() && pages < self.common.pages {
            self.made += 1;
            let kind = self.memory[self.made as usize % self.memory.len()];
            let made = new_block(kind, self.seed << 32 | self.made, largest, &self.common.file, &mut self.chance);
            let mut block = made.map_err(failed("make", kind))?;
            for page in 0..block.pages() {
                if self.chance.random_ratio(7, 8) {
                    block.write(page);
                    self.tally.written += 1;
                }
            }
            pages += block.pages();
            self.blocks.push(block);
        }
        Ok(())
    }

    /// Looks at a page, and changes something.
    pub fn step(&mut self) -> Result<(), String> {
        self.fill()?;
        let act = Act::by(&mut self.chance);
        if self.blocks.is_empty() || matches!(act, Act::Dive | Act::Fork | Act::Exec) {
            return self.step_aside(act);
        }
        let at = self.chance.random_range(0..self.blocks.len());
        let block = &mut self.blocks[at];
        let (kind, pages) = (block.kind(), block.pages());
        if block.is_hidden() {
            block.hide(false).map_err(failed("show", kind))?;
        }
        let page = self.chance.random_range(0..pages);
        block.check(page)?;
        self.tally.looked(kind, 1);
        match act {
            Act::Write => {
                block.write(page);
                if kind == Kind::Hidden {
                    block.hide(true).map_err(failed("hide", kind))?;
                    self.tally.did(Act::Hide);
                }
            }
            Act::Clear => block.clear(page),
            Act::Forget if kind.forgets() => {
                let end = self.chance.random_range(page + 1..=pages);
                block.forget(page..end).map_err(failed("give back", kind))?;
            }
            Act::Resize if kind.grows() || kind.moves() => {
                let most = if kind.grows() { LARGEST } else { pages };
                if !possible(block.resize(self.chance.random_range(1..=most))).map_err(failed("resize", kind))? {
                    self.tally.did(Act::Refused);
                    return Ok(());
                }
            }
            Act::Move if kind.moves() => {
                if !possible(block.relocate()).map_err(failed("move", kind))? {
                    self.tally.did(Act::Refused);
                    return Ok(());
                }
            }
            Act::Split if kind.moves() && page > 0 => {
                let rest = block.split_off(page);
                self.blocks.extend(rest);
            }
            Act::Drop => {
                look_at(block, &mut self.tally)?;
                self.blocks.swap_remove(at);
            }
            Act::Exchange => {
                let mut other = self.common.exchange.lock().unwrap_or_else(PoisonError::into_inner);
                let mine = other.replace(self.blocks.swap_remove(at));
                self.blocks.extend(mine);
            }
            _ => {
                look_at(block, &mut self.tally)?;
                self.tally.did(Act::Look);
                return Ok(());
            }
        }
        self.tally.written += u64::from(matches!(act, Act::Write | Act::Clear));
        self.tally.did(act);
        Ok(())
    }

    /// What is done to no block of its own.
    fn step_aside(&mut self, act: Act) -> Result<(), String> {
        let has = |kind| self.common.kinds.contains(&kind);
        match act {
            Act::Dive if has(Kind::Stack) => self.dive(DEEPEST)?,
            Act::Fork if has(Kind::Fork) => {
                let linger = self.linger();
                self.tally.written += visit(&mut self.blocks, &mut self.chance, linger)?;
            }
            Act::Exec if has(Kind::Exec) => {
                let ended = Command::new(&self.common.program).arg("--help").stdout(Stdio::null()).status();
                if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
                    return Err(format!("another program ended with {ended:?}"));
                }
            }
            _ => return Ok(()),
        }
        self.tally.did(act);
        Ok(())
    }

    fn linger(&mut self) -> Duration {
        Duration::from_micros(self.chance.random_range(0..LINGER_US))
    }

    /// Lets the stack grow by up to as many pages.
    pub fn dive(&mut self, deepest: usize) -> Result<(), String> {
        let (frames, linger) = (self.chance.random_range(1..=deepest), self.linger());
        self.tally.looked(Kind::Stack, frames);
        Ok(dive(frames, self.chance.random(), &mut || std::thread::sleep(linger))?)
    }

    /// Looks at everything once more.
    pub fn end(&mut self) -> Result<(), String> {
        self.blocks.extend(self.common.exchange.lock().unwrap_or_else(PoisonError::into_inner).take());
        for block in &mut self.blocks {
            block.hide(false).map_err(failed("show", block.kind()))?;
            look_at(block, &mut self.tally)?;
        }
        Ok(())
    }
}

fn look_at(block: &Block, tally: &mut Tally) -> Result<(), Wrong> {
    tally.looked(block.kind(), block.pages());
    block.check_all()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn sound_memory_passes_and_everything_is_done_to_every_kind() {
        let common = Common {
            kinds: Kind::USUAL.into_iter().chain([Kind::Direct, Kind::Locked]).collect(),
            pages: 1024,
            file: PageFile::new().unwrap(),
            program: "true".into(),
            exchange: Mutex::new(None),
        };
        let (mut one, mut other) = (Worker::new(&common, 1), Worker::new(&common, 2));
        for _ in 0..10_000 {
            one.step().unwrap();
            other.step().unwrap();
        }
        one.end().unwrap();
        other.end().unwrap();
        let tally = std::mem::take(&mut one.tally).plus(std::mem::take(&mut other.tally));
        for kind in Kind::value_variants() {
            let looked = tally.looked.get(kind).copied().unwrap_or_default();
            let unseen = matches!(kind, Kind::Huge | Kind::Fork | Kind::Exec);
            assert_eq!(looked == 0, unseen, "{kind}: {tally:?}");
        }
        assert_eq!(tally.acts.len(), Act::Look as usize + 1, "{tally:?}");
        assert!(tally.written > 10_000, "{tally:?}");
    }
}
