//! A disk that keeps a journal, and fails.
//!
//! What was written and what is durable differ as they do under a page cache: a write that failed may be read back and
//! still be gone after a loss of power.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use drover_protocol::{Journal, Mark, Storage};

use crate::chance::Chance;

/// How writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// Nothing is written, and said to have failed.
    Refuses,
    /// It is said to have failed, and was written: durably, in memory alone, or in part.
    Lies,
    /// Reads fail as well.
    Dead,
}

#[derive(Debug)]
struct State {
    /// What a read gives.
    written: Vec<u8>,
    /// What survives a loss of power.
    durable: Vec<u8>,
    health: Health,
    chance: Chance,
    /// Set to have power lost in the middle of the next write.
    loses_power: bool,
    /// What has happened since it was asked last: power was lost in a write.
    lost_power: bool,
}

/// A node's disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk(Rc<RefCell<State>>);

impl Disk {
    pub fn new(chance: Chance) -> Self {
        let state = State {
            written: Vec::new(),
            durable: Vec::new(),
            health: Health::Well,
            chance,
            loses_power: false,
            lost_power: false,
        };
        Self(Rc::new(RefCell::new(state)))
    }

    pub fn set_health(&self, health: Health) {
        self.0.borrow_mut().health = health;
    }

    /// Has power lost in the middle of the next write.
    pub fn lose_power_in_write(&self) {
        self.0.borrow_mut().loses_power = true;
    }

    /// Whether power was lost in a write since this was asked last.
    pub fn has_lost_power(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().lost_power)
    }

    /// Whether the durable journal ends with a promise.
    pub fn has_promise(&self) -> bool {
        let journal = Journal::open(Durable(self.0.borrow().durable.clone()));
        journal.is_ok_and(|journal| journal.unfinished().iter().any(|entry| entry.mark == Mark::Promised))
    }

    /// Power is lost: what was not durable is gone.
    pub fn lose_power(&self) {
        let mut state = self.0.borrow_mut();
        state.loses_power = false;
        state.written = state.durable.clone();
    }
}

impl State {
    /// Writes what makes `whole` of what there is; `partly`: a beginning of it may be what is written.
    fn write(&mut self, whole: Vec<u8>, partly: bool) -> io::Result<()> {
        let failed = || Err(io::Error::other("the disk refuses"));
        let torn = |chance: &mut Chance, from: usize| {
            let missing = whole.len().saturating_sub(from) as u64;
            let kept = from + usize::try_from(chance.below(missing + 1)).unwrap_or(0);
            whole[..kept].to_vec()
        };
        if std::mem::take(&mut self.loses_power) {
            self.lost_power = true;
            match self.chance.below(3) {
                0 => {}
                1 if partly => self.durable = torn(&mut self.chance, self.durable.len().min(whole.len())),
                _ => self.durable = whole,
            }
            self.written = self.durable.clone();
            return failed();
        }
        match self.health {
            Health::Well => {
                self.written.clone_from(&whole);
                self.durable = whole;
                Ok(())
            }
            Health::Refuses | Health::Dead => failed(),
            Health::Lies => {
                match self.chance.below(4) {
                    0 => {}
                    1 => self.written = whole,
                    2 if partly => self.written = torn(&mut self.chance, self.written.len().min(whole.len())),
                    _ => {
                        self.written.clone_from(&whole);
                        self.durable = whole;
                    }
                }
                failed()
            }
        }
    }
}

impl Storage for Disk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let state = self.0.borrow();
        if state.health == Health::Dead { Err(io::Error::other("the disk is dead")) } else { Ok(state.written.clone()) }
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().write(bytes.to_vec(), false)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let whole = [&state.written, bytes].concat();
        state.write(whole, true)
    }
}

/// What would be read after a loss of power.
#[derive(Debug)]
struct Durable(Vec<u8>);

impl Storage for Durable {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.0.clone())
    }

    fn replace(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
