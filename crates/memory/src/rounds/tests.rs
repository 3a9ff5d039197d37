//! Rounds of real processes: what is stored in the end is what they have.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::last::Last;
use crate::store::store_whole;
use crate::stored::Stored;

const PAGE: u64 = PageCount::PAGE;

/// A program that ends with the test, also when it stands still and the test fails.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// A shell that does what it is told, line by line.
    fn start(script: &str) -> Self {
        let script = format!("{script}; echo ready; while read -r line; do eval \"$line\"; echo done; done");
        let mut command = Command::new("bash");
        let mut child = command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut program = Self { child, input, output };
        assert_eq!(program.heard(), "ready\n");
        program
    }

    fn heard(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn stop(&self) {
        self.signal(Signal::STOP);
        while !std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A round of one process, which need not stand still for it.
fn round(rounds: &mut Rounds<&mut Vec<u8>>, pid: u32) -> Result<Sums, RoundError> {
    assert!(!rounds.meet(&[pid]));
    rounds.round(&[pid])
}

/// Ends the rounds of a program that stands still, stores them, and compares. Gives how many pages were stored.
fn stored_of(rounds: Rounds<&mut Vec<u8>>, pid: u32) -> u64 {
    let Last { covered, rest, .. } = rounds.last(&[pid]).unwrap();
    let (_, stream) = rest.send().unwrap();
    let directory = tempfile::tempdir().unwrap();
    store_whole(directory.path(), std::mem::take(stream));
    let stored = Stored::open(directory.path()).unwrap().unwrap();
    let mut content = Vec::new();
    (&stored.content).read_to_end(&mut content).unwrap();
    let pieces = &stored.processes[&u64::from(pid)];
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut pages = 0;
    for run in &covered[&pid] {
        for address in (run.start..run.end).step_by(PAGE as usize) {
            let mut own = [0; PAGE as usize];
            // What may not be read has nothing in it, as behind a stack.
            memory.read_exact_at(&mut own, address).unwrap_or_default();
            let found = pieces.at(address);
            let stored = found.map_or(vec![0; PAGE as usize], |(slot, _)| {
                content[(slot * PAGE) as usize..][..PAGE as usize].to_vec()
            });
            assert!(own[..] == stored[..], "page {address:#x}, stored {}", found.is_some());
            pages += u64::from(found.is_some());
        }
    }
    pages
}

fn stored_is_what_it_has(backend: Backend) {
    let mut program =
        Program::start("x=$(head -c 2000000 /dev/zero | tr '\\0' a); y=$(head -c 999999 /dev/zero | tr '\\0' b)");
    let pid = program.pid();
    let mut stream = Vec::new();
    let mut rounds = Rounds::new(&mut stream, Compression::Auto, 1, Some(backend)).unwrap();
    let first = round(&mut rounds, pid).unwrap();
    assert!(first.pages > 600, "{first:?}");
    for line in ["y=; z=$(head -c 500000 /dev/zero | tr '\\0' c)", "x=${x/aaa/xyz}"] {
        program.tell(line);
        assert_eq!(program.heard(), "done\n");
        assert!(rounds.survey().0 > 0);
        assert!(round(&mut rounds, pid).unwrap().pages > 0);
    }
    assert!(rounds.follows() && rounds.refusal().is_none());
    program.stop();
    let pages = stored_of(rounds, pid);
    assert!(pages > 600, "{pages}");
}

/// It stands still while it is surveyed, if it must, and writes at all other times.
fn no_write_is_lost(backend: Backend) {
    const ROUNDS: usize = 12;
    let mut program = Program::start("x=$(head -c 2000 /dev/zero | tr '\\0' a); for i in {0..499}; do a[i]=$x; done");
    let pid = program.pid();
    program.tell("while :; do for i in {0..499}; do a[i]=$RANDOM$x; b=${a[i]}; done; done");
    let mut stream = Vec::new();
    let mut rounds = Rounds::new(&mut stream, Compression::None, 1, Some(backend)).unwrap();
    round(&mut rounds, pid).unwrap();
    for _ in 0..ROUNDS {
        if backend.needs_standstill() {
            program.stop();
        }
        rounds.survey();
        program.signal(Signal::CONT);
        round(&mut rounds, pid).unwrap();
    }
    assert!(rounds.follows() && rounds.refusal().is_none());
    program.stop();
    let pages = stored_of(rounds, pid);
    assert!(pages > 200, "{pages}");
}

#[test]
fn what_a_program_has_in_the_end_is_what_was_stored() {
    stored_is_what_it_has(Backend::Userfaultfd);
}

#[test]
fn no_write_is_lost_of_a_program_that_writes_all_the_time() {
    no_write_is_lost(Backend::Userfaultfd);
}

#[test]
#[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
fn soft_dirty_stores_what_a_program_has_in_the_end() {
    stored_is_what_it_has(Backend::SoftDirty);
}

#[test]
#[ignore = "needs a kernel with soft-dirty bits: make test-vm"]
fn soft_dirty_loses_no_write_of_a_program_that_writes_all_the_time() {
    no_write_is_lost(Backend::SoftDirty);
}
