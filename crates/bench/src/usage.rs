//! What moving costs the nodes: processor time and memory, from the control groups of the lab's hosts.
//!
//! A whole host is counted, for every tool spreads its work over other processes and groups, and restored processes do
//! part of it themselves. What the host does when nothing moves, and the memory that the container has itself, are taken
//! off.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::now_ns;
use crate::lab::{Pids, inside};
use crate::row::Usage;

/// The time from one sample to the next.
const INTERVAL: Duration = Duration::from_millis(50);
/// The server's name, as the kernel has it.
const SERVER: &str = "redis-server";
/// The part of its memory that a restored server has when all pages are said to be in place, and the bytes that it may
/// lack whatever it holds: what it takes anew while it serves.
const WHOLE: f64 = 0.995;
const SLACK: u64 = 2 << 20;
/// Bytes in a page.
const PAGE: u64 = 4096;

/// Counters of one host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counters {
    /// Processor time of all its processes, those that have ended among them, in seconds.
    cpu_s: f64,
    /// Memory in bytes: anonymous, files in tmpfs, and cached files, which are few.
    memory: u64,
}

/// One look at both hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    at_ns: u64,
    source: Counters,
    target: Counters,
    /// Resident bytes of the server on the target; 0 when it is not there.
    server: u64,
}

impl Counters {
    /// Reads them through the first process of a host. What is not there counts as nothing.
    fn read(pid: u32) -> Self {
        let group = |path: &str| fs::read_to_string(inside(pid, &format!("/sys/fs/cgroup/{path}"))).ok();
        let cpu_v1 = || group("cpuacct/cpuacct.usage").and_then(|text| text.trim().parse::<f64>().ok());
        let cpu_v2 = || group("cpu.stat").and_then(|text| value(&text, "usage_usec"));
        let cpu_s = cpu_v1().map(|ns| ns / 1e9).or_else(|| cpu_v2().map(|us| us as f64 / 1e6)).unwrap_or(0.0);
        // Not memory.stat: it may be two seconds old.
        let memory = group("memory/memory.usage_in_bytes").or_else(|| group("memory.current"));
        Self { cpu_s, memory: memory.and_then(|text| text.trim().parse().ok()).unwrap_or(0) }
    }
}

/// The number behind a word at the begin of a line.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The server of a host, found by its name and its control group.
fn find_server(lab: &str, host: &str) -> Option<PathBuf> {
    let group = format!("/drover-lab-{lab}/{host}/");
    let is_server = |process: &PathBuf| {
        let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
        read("comm").trim() == SERVER && read("cgroup").contains(&group)
    };
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    processes.filter(|path| path.join("comm").exists()).find(is_server)
}

fn resident(process: &Path) -> Option<u64> {
    // statm(5): size, resident, shared, … in pages.
    let text = fs::read_to_string(process.join("statm")).ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok().map(|pages| pages * PAGE)
}

/// A thread that takes samples until it is asked to end.
#[derive(Debug)]
pub struct Sampler {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    /// Begins.
    pub fn start(lab: &str, pids: &Pids) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (flag, lab, pids) = (ended.clone(), lab.to_owned(), pids.clone());
        let thread = thread::spawn(move || {
            let (mut samples, mut server): (_, Option<PathBuf>) = (Vec::new(), None);
            let mut next = Instant::now();
            while !flag.load(Ordering::Relaxed) {
                // The first of that name may have been there for the restore alone.
                let found = server.as_deref().and_then(resident).filter(|&bytes| bytes > 0);
                if found.is_none() {
                    server = find_server(&lab, crate::lab::TARGET);
                }
                samples.push(Sample {
                    at_ns: now_ns(),
                    source: Counters::read(pids.source),
                    target: Counters::read(pids.target),
                    server: found.or_else(|| server.as_deref().and_then(resident)).unwrap_or(0),
                });
                next = (next + INTERVAL).max(Instant::now());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            samples
        });
        Self { ended, thread }
    }

    /// Ends, and gives the samples.
    pub fn finish(self) -> Vec<Sample> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Resident bytes of the server on the target now.
pub fn resident_on_target(lab: &str) -> u64 {
    find_server(lab, crate::lab::TARGET).as_deref().and_then(resident).unwrap_or(0)
}

/// The moments of a move, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// The order.
    pub began: u64,
    /// The client's last answer before the longest gap.
    pub stopped: u64,
    /// Its first answer after it.
    pub resumed: u64,
    /// The mover was done.
    pub ended: u64,
}

/// When all pages were in place on the target: the first sample in which the server had what it has in the end.
pub fn filled_ns(samples: &[Sample], moments: Moments) -> u64 {
    let most = samples.iter().map(|sample| sample.server).max().unwrap_or(0);
    let enough = ((most as f64 * WHOLE) as u64).min(most.saturating_sub(SLACK)).max(1);
    let whole = |sample: &&Sample| sample.server >= enough;
    samples.iter().find(whole).map_or(moments.resumed, |sample| sample.at_ns.max(moments.resumed))
}

/// What source and target did in a move over what they did before it.
pub fn usage(samples: &[Sample], moments: Moments, filled_ns: u64) -> (Usage, Usage) {
    let end_ns = filled_ns.max(moments.ended);
    let before: Vec<&Sample> = samples.iter().filter(|sample| sample.at_ns <= moments.began).collect();
    let within: Vec<&Sample> = samples.iter().filter(|s| (moments.began..=end_ns).contains(&s.at_ns)).collect();
    // The container's last sample within the move is the one with all its pages.
    let (Some(first), Some(begin)) = (before.first(), before.last()) else { return Default::default() };
    let Some(end) = samples.iter().find(|sample| sample.at_ns >= end_ns).or(samples.last()) else {
        return Default::default();
    };
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
    let rest = seconds(first.at_ns, begin.at_ns);
    let rate = |of: fn(&Sample) -> f64| if rest > 0.0 { (of(begin) - of(first)) / rest } else { 0.0 };
    // The load is served on the source first and on the target then.
    let served = rate(|sample| sample.source.cpu_s);
    let idle = rate(|sample| sample.target.cpu_s);
    let on_source = served * seconds(moments.began, moments.stopped) + idle * seconds(moments.stopped, end_ns);
    let on_target = idle * seconds(moments.began, moments.resumed) + served * seconds(moments.resumed, end_ns);
    let peak = |of: fn(&Sample) -> u64| within.iter().map(|sample| of(sample)).max().unwrap_or(0);
    let source = Usage {
        cpu_s: (end.source.cpu_s - begin.source.cpu_s - on_source).max(0.0),
        memory_bytes: peak(|sample| sample.source.memory).saturating_sub(begin.source.memory),
    };
    let target = Usage {
        cpu_s: (end.target.cpu_s - begin.target.cpu_s - on_target).max(0.0),
        memory_bytes: peak(|sample| sample.target.memory).saturating_sub(begin.target.memory + end.server),
    };
    (source, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ms: u64, source: (f64, u64), target: (f64, u64), server: u64) -> Sample {
        let counters = |(cpu_s, memory)| Counters { cpu_s, memory };
        Sample { at_ns: ms * 1_000_000, source: counters(source), target: counters(target), server }
    }

    #[test]
    fn what_serving_costs_and_what_the_container_holds_is_taken_off() {
        // The load takes half a processor; the move two seconds of one on the source and one on the target.
        let samples = [
            sample(0, (10.0, 1000), (5.0, 10), 0),
            sample(2000, (11.0, 1000), (5.0, 10), 0),
            sample(3000, (13.5, 1600), (5.5, 900), 0),
            sample(4000, (13.5, 1200), (6.5, 2400 << 20), 700 << 20),
            sample(5000, (13.5, 0), (7.0, 1010), 1000 << 20),
        ];
        let ms = 1_000_000;
        let moments = Moments { began: 2000 * ms, stopped: 3000 * ms, resumed: 3000 * ms, ended: 4000 * ms };
        let filled = filled_ns(&samples, moments);
        assert_eq!(filled, 5000 * ms);
        let (source, target) = usage(&samples, moments, filled);
        assert!((source.cpu_s - 2.0).abs() < 1e-9 && (target.cpu_s - 1.0).abs() < 1e-9, "{source:?} {target:?}");
        assert_eq!((source.memory_bytes, target.memory_bytes), (600, (1400 << 20) - 10));
    }

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        assert_eq!(value("usage_usec 12\nuser_usec 3\n", "usage_usec"), Some(12));
        assert_eq!(value("usage_usec_more 9\n", "usage_usec"), None);
    }
}
