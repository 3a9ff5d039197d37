//! The machine that a session runs on: what it is, and its memory made ready.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::{Lab, SHORT, SOURCE};
use crate::row::Machine;

/// How much a pipe must be able to hold: CRIU's page server asks for that, and cannot raise the limit itself without
/// CAP_SYS_RESOURCE.
const PIPE: u64 = 64 << 20;
const PIPE_LIMIT: &str = "/proc/sys/fs/pipe-max-size";
/// MiB that are left alone when memory is warmed up.
const SPARED_MIB: u64 = 2048;

/// Describes this machine.
pub fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory, system) = (read("/proc/cpuinfo"), read("/proc/meminfo"), read("/etc/os-release"));
    Machine {
        processor: field(&cpu, "model name", ':').unwrap_or("unknown").to_owned(),
        cores: std::thread::available_parallelism().map_or(1, Into::into),
        memory_mib: kib(&memory, "MemTotal") >> 10,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        system: field(&system, "PRETTY_NAME", '=').unwrap_or("unknown").trim_matches('"').to_owned(),
    }
}

/// This machine in a few words.
pub fn summary() -> String {
    let Machine { processor, cores, memory_mib, kernel, system } = describe();
    format!("on {cores} cores of {processor} with {memory_mib} MiB of memory, {system}, kernel {kernel}")
}

/// What stands behind a name in the first line that begins with it.
fn field<'a>(text: &'a str, name: &str, separator: char) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(separator).map(|(_, value)| value.trim())
}

fn kib(meminfo: &str, name: &str) -> u64 {
    field(meminfo, name, ':').and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// What the contestants are, as they say themselves. One that says nothing is left out.
pub fn versions(lab: &Lab) -> BTreeMap<String, String> {
    let ask = |name: &str, command: &[&str]| {
        let said = lab.exec(SOURCE, command, SHORT).ok()?;
        let line = said.lines().next()?.trim();
        let word = line.split_whitespace().find(|word| word.contains(|c: char| c.is_ascii_digit()))?;
        Some((name.to_owned(), word.trim_start_matches("v=").to_owned()))
    };
    let programs = [
        ask("criu", &["criu", "--version"]),
        ask("runc", &["runc", "--version"]),
        ask("podman", &["podman", "--version"]),
        ask("rsync", &["rsync", "--version"]),
        ask("pgbench", &["pgbench", "--version"]),
        ask("redis", &["redis-server", "--version"]),
        lab.run(&["--version"], SHORT)
            .ok()
            .map(|said| ("drover".to_owned(), said.split_whitespace().last().unwrap_or_default().to_owned())),
    ];
    programs.into_iter().flatten().collect()
}

/// Touches memory once. A machine that is itself virtual gets it from its host on first touch, which takes seconds for
/// each GiB and would be measured as the slowness of whoever comes first. Gives the MiB that were touched.
pub fn warm_up(mib: u64) -> u64 {
    let available = kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable") >> 10;
    let mib = mib.min(available.saturating_sub(SPARED_MIB));
    // Blocks, so that a failure is none of all.
    let blocks: Vec<Vec<u8>> = (0..mib / 64).map(|number| vec![1 + (number % 7) as u8; 64 << 20]).collect();
    blocks.iter().map(|block| block.len() as u64 >> 20).sum()
}

/// The machine's limit on pipes, raised until this is dropped.
#[derive(Debug)]
pub struct PipeLimit {
    path: PathBuf,
    before: Option<u64>,
}

impl PipeLimit {
    /// Raises it, if it is lower than CRIU wants it and may be raised.
    pub fn raise() -> Self {
        Self::raise_at(Path::new(PIPE_LIMIT))
    }

    fn raise_at(path: &Path) -> Self {
        let now = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let before = now.filter(|&limit| limit < PIPE && fs::write(path, PIPE.to_string()).is_ok());
        Self { path: path.to_owned(), before }
    }
}

impl Drop for PipeLimit {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Nothing is lost if the higher limit stays.
            let _ = fs::write(&self.path, before.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_kernels_files_are_found() {
        assert_eq!(field("processor\t: 0\nmodel name\t: Some CPU\n", "model name", ':'), Some("Some CPU"));
        assert_eq!(kib("MemTotal:       24000 kB\n", "MemTotal"), 24_000);
        assert_eq!(field("A=1\nPRETTY_NAME=\"Debian\"\n", "PRETTY_NAME", '='), Some("\"Debian\""));
    }

    #[test]
    fn the_pipe_limit_is_put_back_and_never_lowered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "1048576\n").unwrap();
        let limit = PipeLimit::raise_at(file.path());
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "67108864");
        drop(limit);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "1048576");
        fs::write(file.path(), "134217728\n").unwrap();
        drop(PipeLimit::raise_at(file.path()));
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "134217728\n");
    }
}
