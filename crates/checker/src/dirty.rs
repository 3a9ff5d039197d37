//! A load that dirties memory: so many distinct pages of the server in each second, over a connection of its own.
//!
//! A SET of a value of one page would be no honest page: it takes a slot of 5 KiB, writes two pages of it, and frees
//! another. Here the server holds long strings, and `SETRANGE` changes eight bytes in place, each time in another page.
//! The order is a permutation of all pages, far from sequential, so that none is written twice before all were. Besides
//! them a handful of pages with the server's own records is written again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::connection::{Connection, ConnectionError};
use crate::resp::{Reply, write_command};
use crate::stop::Stop;
use crate::value::Values;

/// Bytes in a page.
pub const PAGE: usize = 4096;
/// Pages in one string.
const STRING: usize = 4096;
/// Bytes that a write changes.
const STAMP: usize = 8;
/// The time from one batch of writes to the next.
const BATCH: Duration = Duration::from_millis(1);
/// A batch that took longer is a pause of the server: what was due meanwhile is left out, and the time does not count.
const PAUSE: Duration = Duration::from_millis(100);
/// An odd number makes a permutation of any power of two; this one (the golden ratio) strides far.
const STRIDE: usize = 0x9e37_79b1;
/// Keeps these values apart from those of the other keys.
const SEED: u64 = 0x6469_7274;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Pages that were written.
    pub pages: u64,
    /// Pages written per second, pauses not counted.
    pub pages_per_s: f64,
    /// Pages that did not hold what was written last.
    pub wrong: u64,
    /// Whether the connection held to the end and all pages were read back.
    pub complete: bool,
}

impl Report {
    /// Whether the server passed.
    pub fn passed(&self) -> bool {
        self.complete && self.wrong == 0
    }
}

/// The strings, and what is known of them.
#[derive(Debug)]
pub struct Dirt {
    values: Values,
    /// How often each page was written, as far as the server has confirmed.
    stamps: Vec<u32>,
    written: u64,
    wrong: u64,
    active: Duration,
}

impl Dirt {
    /// Strings of `mib` MiB in all, or the next lower power of two.
    pub fn new(seed: u64, mib: u64) -> Self {
        let pages = ((mib << 20) as usize / PAGE).max(1);
        let pages = if pages.is_power_of_two() { pages } else { pages.next_power_of_two() / 2 };
        Self {
            values: Values { seed: seed ^ SEED, length: PAGE, random: PAGE },
            stamps: vec![0; pages],
            written: 0,
            wrong: 0,
            active: Duration::ZERO,
        }
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.stamps.len()
    }

    fn strings(&self) -> usize {
        self.stamps.len().div_ceil(STRING)
    }

    /// What string `number` holds now.
    fn content(&self, number: usize) -> Vec<u8> {
        let pages = number * STRING..((number + 1) * STRING).min(self.stamps.len());
        let mut content = Vec::with_capacity(pages.len() * PAGE);
        let mut block = Vec::new();
        for page in pages {
            self.values.fill(page as u64, 0, &mut block);
            if self.stamps[page] > 0 {
                block[..STAMP].copy_from_slice(&stamp(page, self.stamps[page]));
            }
            content.extend_from_slice(&block);
        }
        content
    }

    /// Stores the strings; what the server did not take is given.
    pub fn load(&self, connection: &mut Connection, stop: &Stop) -> Result<Option<Reply>, ConnectionError> {
        let mut command = Vec::new();
        for number in 0..self.strings() {
            command.clear();
            write_command(&mut command, &[b"SET", name(number).as_bytes(), &self.content(number)]);
            connection.send(&command, stop)?;
            match connection.receive(stop)? {
                Reply::Status(text) if text == "OK" => {}
                reply => return Ok(Some(reply)),
            }
        }
        Ok(None)
    }

    /// Writes `rate` pages in each second until `ended` is raised.
    pub fn run(&mut self, address: SocketAddr, rate: u64, ended: Arc<AtomicBool>) -> Result<(), ConnectionError> {
        let stop = Stop::on_flag(ended);
        let Some(mut connection) = Connection::open(address, &stop)? else { return Ok(()) };
        let (mut commands, mut batch, mut due) = (Vec::new(), Vec::new(), 0.0);
        let mut last = Instant::now();
        while !stop.asked() {
            stop.sleep_until(last + BATCH);
            let now = Instant::now();
            let passed = now - last;
            last = now;
            if passed > PAUSE {
                continue;
            }
            self.active += passed;
            due += rate as f64 * passed.as_secs_f64();
            commands.clear();
            batch.clear();
            while due >= 1.0 {
                due -= 1.0;
                let page = (self.written as usize + batch.len()).wrapping_mul(STRIDE) & (self.stamps.len() - 1);
                let offset = page % STRING * PAGE;
                let stamp = stamp(page, self.stamps[page] + 1);
                let (name, offset) = (name(page / STRING), offset.to_string());
                write_command(&mut commands, &[b"SETRANGE", name.as_bytes(), offset.as_bytes(), &stamp]);
                batch.push(page);
            }
            connection.send(&commands, &stop)?;
            for &page in &batch {
                match connection.receive(&stop)? {
                    Reply::Integer(_) => self.stamps[page] += 1,
                    _ => self.wrong += 1,
                }
            }
            self.written += batch.len() as u64;
        }
        Ok(())
    }

    /// Reads all strings back.
    pub fn read_back(&mut self, connection: &mut Connection, stop: &Stop) -> Result<(), ConnectionError> {
        let mut command = Vec::new();
        for number in 0..self.strings() {
            command.clear();
            write_command(&mut command, &[b"GET", name(number).as_bytes()]);
            connection.send(&command, stop)?;
            let expected = self.content(number);
            let found = match connection.receive(stop)? {
                Reply::Bulk(bytes) if bytes.len() == expected.len() => bytes,
                _ => {
                    self.wrong += (expected.len() / PAGE) as u64;
                    continue;
                }
            };
            let pairs = expected.chunks(PAGE).zip(found.chunks(PAGE));
            self.wrong += pairs.filter(|(expected, found)| expected != found).count() as u64;
        }
        Ok(())
    }

    /// What came of it; `complete` says whether all of it could be done.
    pub fn report(&self, complete: bool) -> Report {
        let seconds = self.active.as_secs_f64();
        let pages_per_s = if seconds > 0.0 { (self.written as f64 / seconds).round() } else { 0.0 };
        Report { pages: self.written, pages_per_s, wrong: self.wrong, complete }
    }
}

/// What the write number `count` puts at the begin of a page.
fn stamp(page: usize, count: u32) -> [u8; STAMP] {
    ((page as u64) << 32 | u64::from(count)).to_be_bytes()
}

fn name(number: usize) -> String {
    format!("d{number}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_page_is_written_twice_before_all_were() {
        let dirt = Dirt::new(1, 33);
        assert_eq!(dirt.pages(), 32 << 8, "the next lower power of two");
        let pages: HashSet<usize> =
            (0..dirt.pages()).map(|count| count.wrapping_mul(STRIDE) & (dirt.pages() - 1)).collect();
        assert_eq!(pages.len(), dirt.pages());
    }

    #[test]
    fn a_write_changes_the_begin_of_its_page_alone() {
        let mut dirt = Dirt::new(1, 1);
        let before = dirt.content(0);
        dirt.stamps[7] = 3;
        let after = dirt.content(0);
        let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
        assert!(changed.iter().all(|at| (7 * PAGE..7 * PAGE + STAMP).contains(at)) && !changed.is_empty());
    }
}
