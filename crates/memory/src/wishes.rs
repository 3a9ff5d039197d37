//! Which pages the filler asks the source for, and when.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use drover_model::PageCount;

use crate::following::{MOST, Relay, Wish};
use crate::pieces::Pieces;
use crate::window::{LEAST, Window};

const PAGE: u64 = PageCount::PAGE;

/// What is wished for. Everything is named by the addresses that pages have on the source.
#[derive(Debug)]
pub(crate) struct Wishes {
    /// What was on the source alone to begin with, by process.
    all: BTreeMap<u64, Pieces>,
    /// Of that, what nobody has asked for yet.
    unasked: BTreeMap<u64, Pieces>,
    /// What was asked for and has not come.
    asked: VecDeque<Asked>,
    /// Pages that somebody waits for and that have not come.
    hurried: Vec<(u64, u64)>,
    /// Of those, what could not be asked for yet.
    first: VecDeque<(u64, u64)>,
    /// Where to go on: behind what was waited for last, for who reads on there will wait next.
    next: (u64, u64),
    window: Window,
    /// The page that somebody waits for since last, until it comes.
    urgent: Option<(u64, u64)>,
    /// When one came that somebody waited for.
    calm: Instant,
    /// When something was asked for that nobody waits for.
    went_on: Instant,
    relay: Option<Relay>,
}

/// A thread that got its page soon waits for the next one, which shall not stand in line behind what nobody waits for.
pub(crate) const SOON: Duration = Duration::from_micros(500);
/// However many wait, the rest goes on as often as this, at least.
const LATE: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Asked {
    process: u64,
    pages: Range<u64>,
    /// How many of them have not come.
    left: u64,
    at: Instant,
    /// How many bytes were on their way then, with these.
    used: u64,
}

impl Wishes {
    pub fn new(all: BTreeMap<u64, Pieces>) -> Self {
        let unasked = all.clone();
        let (asked, hurried, first, window, urgent, relay) = Default::default();
        let (next, now) = ((0, 0), Instant::now());
        Self { all, unasked, asked, hurried, first, next, window, urgent, calm: now, went_on: now, relay }
    }

    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// A relay has connected; it counts, for the one before it has lost its link.
    pub fn take_relay(&mut self, agents: &OwnedFd) -> io::Result<()> {
        self.relay = Some(Relay::accept(agents)?);
        self.ask_again();
        Ok(())
    }

    /// What was asked for over another link does not come any more.
    fn ask_again(&mut self) {
        self.unasked = self.all.clone();
        self.asked.clear();
        self.first = self.hurried.iter().copied().collect();
        self.urgent = None;
        self.window = Window::default();
    }

    /// Somebody waits for the page at `address`, and perhaps for those behind it next, in all `length` bytes.
    pub fn hurry(&mut self, process: u64, address: u64, length: u64) {
        self.urgent = Some((process, address));
        if !self.hurried.contains(&(process, address)) {
            self.hurried.push((process, address));
        }
        if self.is_unasked(process, address) && !self.ask(process, address, length / PAGE) {
            self.first.push_back((process, address));
        }
    }

    fn is_unasked(&self, process: u64, address: u64) -> bool {
        self.unasked.get(&process).is_some_and(|unasked| unasked.at(address).is_some())
    }

    /// Asks for what could not be asked for when somebody began to wait for it: there was no relay, or none that took it.
    /// Whether nothing of it is left.
    pub fn ask_first(&mut self) -> bool {
        while let Some((process, address)) = self.first.front().copied().filter(|_| self.relay.is_some()) {
            if self.is_unasked(process, address) && !self.ask(process, address, u64::from(MOST)) {
                return false;
            }
            self.first.pop_front();
        }
        self.first.is_empty()
    }

    /// Asks for what nobody waits for yet, as much as the window allows. `is_awaited` says of a process and the number of
    /// a page whether anybody still needs it.
    pub fn go_on(&mut self, is_awaited: impl Fn(u64, u64) -> bool) {
        if self.asked.is_empty() {
            // Whatever somebody waited for has come, or is needed no more.
            self.urgent = None;
        }
        let held = self.is_held();
        if held && self.went_on.elapsed() < LATE {
            return;
        }
        let most = if held { LEAST } else { self.window.bytes() };
        while self.relay.is_some() && self.on_the_way() < most {
            self.went_on = Instant::now();
            let Some((process, address, pages)) = self.next_unasked() else { return };
            if is_awaited(process, address / PAGE) {
                if !self.ask(process, address, pages) {
                    return;
                }
            } else if let Some(unasked) = self.unasked.get_mut(&process) {
                unasked.remove(address..address + PAGE);
            }
        }
    }

    /// Whether what nobody waits for is not asked for at the moment.
    pub fn is_held(&self) -> bool {
        self.relay.is_some() && (self.urgent.is_some() || self.calm.elapsed() < SOON)
    }

    /// The next pages behind the last ones, or from the beginning.
    fn next_unasked(&mut self) -> Option<(u64, u64, u64)> {
        let (process, address) = self.next;
        let here = self.unasked.get(&process).and_then(|unasked| unasked.from(address));
        if let Some((start, pages)) = here {
            return Some((process, start, pages));
        }
        self.unasked.retain(|_, unasked| !unasked.is_empty());
        let (process, unasked) = self.unasked.first_key_value()?;
        let (start, piece) = unasked.first()?;
        Some((*process, start, piece.pages))
    }

    fn on_the_way(&self) -> u64 {
        self.asked.iter().map(|asked| asked.left * PAGE).sum()
    }

    /// Asks for pages side by side, as many of them as a wish may name and nobody has asked for. Whether the wish was taken.
    fn ask(&mut self, process: u64, address: u64, pages: u64) -> bool {
        let Some(relay) = &self.relay else { return false };
        let Some(unasked) = self.unasked.get_mut(&process) else { return false };
        let Some((_, end)) = unasked.at(address) else { return false };
        let pages = pages.min((end - address) / PAGE).min(u64::from(MOST));
        let wish = Wish { process, address, pages: pages as u32 };
        if !relay.wish(wish) {
            return false;
        }
        let range = address..address + pages * PAGE;
        unasked.remove(range.clone());
        self.next = (process, range.end);
        let used = self.on_the_way() + pages * PAGE;
        self.asked.push_back(Asked { process, pages: range, left: pages, at: Instant::now(), used });
        true
    }

    /// What has come into `buffer`, if anything has: which pages, and how many bytes of content. A relay that is gone has
    /// lost what was asked for.
    pub fn brought(&mut self, buffer: &mut [u8]) -> Option<(Wish, usize)> {
        match self.relay.as_ref()?.brought(buffer) {
            Ok(brought) => {
                if let Some((wish, _)) = brought {
                    self.count(wish);
                }
                brought
            }
            Err(_) => {
                self.relay = None;
                self.ask_again();
                None
            }
        }
    }

    fn count(&mut self, wish: Wish) {
        let pages = wish.address..wish.address + u64::from(wish.pages) * PAGE;
        if self.urgent.is_some_and(|(process, address)| process == wish.process && pages.contains(&address)) {
            self.urgent = None;
            self.calm = Instant::now();
        }
        self.hurried.retain(|(process, address)| *process != wish.process || !pages.contains(address));
        let asked = self.asked.iter_mut().find(|asked| {
            asked.process == wish.process && asked.pages.start < pages.end && pages.start < asked.pages.end
        });
        let Some(asked) = asked else { return };
        asked.left = asked.left.saturating_sub(u64::from(wish.pages));
        if asked.left == 0 {
            self.window.answered(asked.pages.end - asked.pages.start, asked.at.elapsed(), asked.used);
            self.asked.retain(|asked| asked.left > 0);
        }
    }

    /// Nothing is on the source alone any more: the relay hears it, and is needed no longer.
    pub fn dismiss(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.wish(Wish::NOTHING);
        }
    }
}
