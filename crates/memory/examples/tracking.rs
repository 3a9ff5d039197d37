//! What it costs a process to be followed; `make bench-tracking` runs it, and `docs/tracking.md` has the results.
//!
//! `tracking follow PID MS` surveys a process every MS milliseconds until its input ends, and prints how many surveys there
//! were, how long one took (median, microseconds) and how many pages it found. `tracking writes PAGES` prints what the first
//! write to a page costs with and without protection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use drover_memory::{Backend, Motion, Tracker};

const PAGE: usize = 4096;
/// How often writes are timed in each way.
const TURNS: usize = 21;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["follow", pid, ms] => follow(pid.parse()?, Duration::from_millis(ms.parse()?)),
        ["writes", pages] => writes(pages.parse()?),
        ["writer", pages] => Ok(writer(pages.parse()?)?),
        _ => Err("usage: tracking follow PID MS | tracking writes PAGES".into()),
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn backend() -> Result<Backend, &'static str> {
    let backend = Backend::probe().ok_or("writes cannot be followed here")?;
    // Nobody stands still for it: what is found may lack something, but costs as much.
    eprintln!("followed by {}", backend.name());
    Ok(backend)
}

fn follow(pid: u32, every: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let mut tracker = Tracker::attach(pid, backend()?)?;
    let (end, ended) = channel::<()>();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        drop(end);
    });
    let (mut took, mut found) = (Vec::new(), Vec::new());
    loop {
        let begun = Instant::now();
        let written = tracker.written(Motion::Running)?;
        tracker.rearm()?;
        took.push(begun.elapsed().as_micros() as u64);
        found.push(written.iter().map(|run| (run.end - run.start) / PAGE as u64).sum());
        if ended.recv_timeout(every) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    println!("{} {} {}", took.len(), median(took), median(found));
    Ok(())
}

/// Times writes of a child of our own, by turns with and without protection.
fn writes(pages: usize) -> Result<(), Box<dyn std::error::Error>> {
    let own = std::env::current_exe()?;
    let mut child =
        Command::new(own).args(["writer", &pages.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut turn = || -> Result<u64, Box<dyn std::error::Error>> {
        let mut line = String::new();
        input.write_all(b"\n")?;
        output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    };
    turn()?;
    let mut plain = Vec::new();
    for _ in 0..TURNS {
        plain.push(turn()?);
    }
    let mut tracker = Tracker::attach(child.id(), backend()?)?;
    let (mut first, mut again, mut survey) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let begun = Instant::now();
        tracker.written(Motion::Running)?;
        tracker.rearm()?;
        survey.push(begun.elapsed().as_micros() as u64);
        first.push(turn()?);
        again.push(turn()?);
    }
    let per_page = |values| median(values) / pages as u64;
    println!("pages {pages}");
    println!("not followed: {} ns for each page", per_page(plain));
    println!("first write after a survey: {} ns for each page", per_page(first));
    println!("write after that: {} ns for each page", per_page(again));
    println!("survey that finds all of them: {} us", median(survey));
    drop(input);
    child.wait()?;
    Ok(())
}

/// Writes to each of its pages whenever a line comes, and says how many nanoseconds that took.
fn writer(pages: usize) -> io::Result<()> {
    let mut memory = vec![1_u8; pages * PAGE];
    for line in io::stdin().lines() {
        line?;
        let begun = Instant::now();
        for page in memory.chunks_exact_mut(PAGE) {
            page[0] = std::hint::black_box(page[0].wrapping_add(1));
        }
        println!("{}", begun.elapsed().as_nanos());
    }
    Ok(())
}
