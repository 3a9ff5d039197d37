//! Both backends against real processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use drover_sys::words::{Sharing, Words};

use super::*;
use crate::mappings::followed;
use crate::pages::PageSet;

/// A shell that keeps text in its memory and changes it when told.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start() -> Self {
        let script = "x=$(head -c 4000000 /dev/zero | tr '\\0' a); echo ready
            while read -r line; do eval \"$line\"; echo done; done";
        let mut child =
            Command::new("bash").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut program = Self { output: BufReader::new(child.stdout.take().unwrap()), child, input };
        program.heard("ready");
        program
    }

    fn heard(&mut self, wanted: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), wanted);
    }

    fn does(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
        self.heard("done");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pages(runs: &[Range<u64>]) -> u64 {
    runs.iter().map(|run| (run.end - run.start) / 4096).sum()
}

/// Whether writes are found, and only those; `rearm` is part of the survey.
fn writes_are_found(backend: Backend) {
    let mut program = Program::start();
    let mut tracker = Tracker::attach(program.child.id(), backend).unwrap();
    // Nobody stands still for it: the shell waits for its next line.
    let mut survey = || {
        let written = tracker.written(Motion::Running).unwrap();
        tracker.rearm().unwrap();
        (pages(&written), pages(&tracker.present().unwrap()))
    };
    let (first, present) = survey();
    assert!(first > 900, "all that it has counts as written: {first}");
    assert_eq!(present, first);
    assert_eq!(survey().0, 0, "it waits, and writes nothing");
    program.does("true");
    let few = survey().0;
    assert!(few > 0 && few < 200, "{few}");
    program.does("y=$x");
    let more = survey().0;
    assert!(more > 900, "a copy of four million letters was written to new memory: {more}");
}

fn another_program_is_not_followed(backend: Backend) {
    let mut program = Program::start();
    let mut tracker = Tracker::attach(program.child.id(), backend).unwrap();
    tracker.written(Motion::Running).unwrap();
    writeln!(program.input, "exec sleep 1000").unwrap();
    let path = format!("/proc/{}/comm", program.child.id());
    while std::fs::read_to_string(&path).unwrap().trim() != "sleep" {
        std::thread::yield_now();
    }
    // At first it has no memory that could be followed.
    while tracker.written(Motion::Running).is_ok() {
        assert!(tracker.present().unwrap().is_empty());
    }
}

#[test]
fn what_a_program_writes_is_found_and_only_that() {
    writes_are_found(Backend::Userfaultfd);
}

#[test]
fn a_program_that_becomes_another_one_is_no_longer_followed() {
    another_program_is_not_followed(Backend::Userfaultfd);
}

/// The program of the next test: it lets memory grow and moves it, until the input ends.
#[test]
#[ignore = "a program, not a test"]
fn moves_memory_that_grew_until_the_input_ends() {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            ended.store(true, Ordering::Relaxed);
        });
        let mut memory = Words::anonymous(16, Sharing::Private).unwrap();
        while !ended.load(Ordering::Relaxed) {
            memory.resize(8).unwrap();
            memory.resize(16).unwrap();
            memory.relocate().unwrap();
        }
    });
}

#[test]
fn memory_that_grows_while_it_is_listed_can_be_moved_by_its_program() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tracker::tests::moves_memory_that_grew_until_the_input_ends", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tracker = Tracker::attach(child.id(), Backend::Userfaultfd).unwrap();
    let mut followed = 0;
    for _ in 0..300 {
        followed += pages(&tracker.written(Motion::Running).unwrap());
    }
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(followed > 0, "nothing was followed");
}

#[test]
fn the_backend_that_is_chosen_works() {
    let program = Program::start();
    if let Some(backend) = Backend::probe() {
        let mut tracker = Tracker::attach(program.child.id(), backend).unwrap();
        assert!(!tracker.written(Motion::Running).unwrap().is_empty());
        assert_eq!(backend.needs_standstill(), backend.name() == "soft-dirty");
    }
}

#[test]
fn the_page_map_knows_what_a_scan_finds() {
    let program = Program::start();
    let mappings = followed(program.child.id()).unwrap();
    let read = soft_dirty::present(program.child.id(), &mappings).unwrap();
    assert!(pages(&read) > 900);
    // The page of zeros is in memory for one, and has no content for the other.
    if let Ok(found) = protected::find_present(&Scan::open(program.child.id()).unwrap(), &mappings) {
        assert_eq!(PageSet::of(found.clone()).and(&PageSet::of(read)), PageSet::of(found));
    }
}

/// On a kernel that has soft-dirty bits and no `PAGEMAP_SCAN`: `make test-vm`.
mod in_a_vm {
    use drover_sys::map::Anonymous;

    use super::*;

    const PAGE: u64 = 4096;
    /// `MADV_DONTNEED` (`madvise(2)`): pages are given back.
    const DONT_NEED: i32 = 4;
    /// What one table of pages maps.
    const TABLE: u64 = 512 * PAGE;

    /// Two pieces of memory and a survey of them, in a process of our own that writes to them and nowhere near.
    struct Own {
        tracker: Tracker,
    }

    impl Own {
        fn attach() -> Self {
            Self { tracker: Tracker::attach(std::process::id(), Backend::SoftDirty).unwrap() }
        }

        /// The pages of `range` that were written, by their numbers in it.
        fn survey(&mut self, range: &Range<u64>) -> Vec<u64> {
            let written = PageSet::of(self.tracker.written(Motion::Running).unwrap());
            self.tracker.rearm().unwrap();
            let within = written.and(&PageSet::of(vec![range.clone()]));
            let pages = within.runs().iter().flat_map(|run| run.clone().step_by(PAGE as usize));
            pages.map(|address| (address - range.start) / PAGE).collect()
        }
    }

    fn range(memory: &Anonymous, length: u64) -> Range<u64> {
        memory.address()..memory.address() + length
    }

    #[test]
    #[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
    fn soft_dirty_is_what_an_old_kernel_has() {
        drover_sys::probe::soft_dirty().unwrap();
        assert!(drover_sys::probe::write_protection().is_err(), "this kernel is not old");
        assert_eq!(Backend::probe(), Some(Backend::SoftDirty));
    }

    #[test]
    #[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
    fn soft_dirty_finds_what_a_program_writes_and_only_that() {
        writes_are_found(Backend::SoftDirty);
    }

    #[test]
    #[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
    fn soft_dirty_does_not_follow_a_program_that_becomes_another_one() {
        another_program_is_not_followed(Backend::SoftDirty);
    }

    #[test]
    #[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
    fn soft_dirty_finds_single_pages() {
        let memory = Anonymous::new(64 * PAGE as usize).unwrap();
        let range = range(&memory, 64 * PAGE);
        let mut own = Own::attach();
        for page in [3, 4, 9] {
            memory.write(page * PAGE as usize, 1);
        }
        assert_eq!(own.survey(&range), [3, 4, 9]);
        assert_eq!(own.survey(&range), [0_u64; 0], "nothing since");
        memory.write(4 * PAGE as usize, 2);
        memory.write(60 * PAGE as usize, 2);
        assert_eq!(own.survey(&range), [4, 60]);
    }

    #[test]
    #[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
    fn soft_dirty_finds_pages_that_were_given_back_and_read() {
        let memory = Anonymous::new(8 * PAGE as usize).unwrap();
        let range = range(&memory, 8 * PAGE);
        let mut own = Own::attach();
        (0..8).for_each(|page| memory.write(page * PAGE as usize, 1));
        assert_eq!(own.survey(&range).len(), 8);
        memory.advise(DONT_NEED).unwrap();
        assert_eq!(own.survey(&range), [0_u64; 0]);
        let present = PageSet::of(own.tracker.present().unwrap());
        assert_eq!(present.and(&PageSet::of(vec![range.clone()])).count(), 0, "they have no content");
        assert_eq!(memory.read(5 * PAGE as usize), 0);
        assert_eq!(own.survey(&range), [5], "it is the page of zeros now, and was something else");
    }

    #[test]
    #[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
    fn soft_dirty_finds_whole_tables_that_were_moved() {
        let (one, two) = (Anonymous::new(3 * TABLE as usize).unwrap(), Anonymous::new(3 * TABLE as usize).unwrap());
        let mut own = Own::attach();
        for page in 0..3 * 512 {
            one.write(page * PAGE as usize, 1);
            two.write(page * PAGE as usize, 2);
        }
        let table = |memory: &Anonymous| memory.address().next_multiple_of(TABLE) - memory.address();
        let (from, to) = (table(&one), table(&two));
        let target = two.address() + to..two.address() + to + TABLE;
        assert_eq!(own.survey(&target).len(), 512);
        assert_eq!(own.survey(&target), [0_u64; 0]);
        one.move_onto(from as usize, &two, to as usize, TABLE as usize).unwrap();
        let mut bits = 0;
        let mut map = drover_sys::softdirty::PageMap::open(std::process::id()).unwrap();
        map.read(target.start, target.end, |_, entry| bits += u32::from(entry.is_dirty())).unwrap();
        println!("of 512 pages that were moved the kernel says of {bits} that they were written");
        assert_eq!(two.read(to as usize), 1);
        assert_eq!(own.survey(&target).len(), 512, "what is there now was elsewhere");
    }
}
