//! When a move comes into a phase: the log of the source's agent says so, and is looked at without a pause worth the name.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The pause between two looks.
const LOOK: Duration = Duration::from_micros(200);
/// What the agent says when a phase begins, before the phase's word.
const BEGINS: &str = "phase begins";
const PHASE: &str = "phase=";
/// What it says when the move is over.
const ENDED: &str = "migration ended";
/// The phase of a move that is over.
pub const AFTER: &str = "after the end";

/// The log of an agent, from now on.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// The last line, while it has no end.
    rest: String,
    /// Where the move is: the last phase that was said to begin.
    phase: Option<String>,
}

impl Log {
    /// What is said from now on.
    pub fn from_now(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, rest: String::new(), phase: None })
    }

    /// Where the move is now.
    pub fn phase(&mut self) -> std::io::Result<Option<&str>> {
        let mut said = Vec::new();
        self.file.read_to_end(&mut said)?;
        self.hear(&String::from_utf8_lossy(&said));
        Ok(self.phase.as_deref())
    }

    fn hear(&mut self, said: &str) {
        self.rest.push_str(said);
        while let Some((line, rest)) = self.rest.split_once('\n') {
            if line.contains(ENDED) {
                self.phase = Some(AFTER.to_owned());
            } else if line.contains(BEGINS) && self.phase.as_deref() != Some(AFTER) {
                let word = line.split_whitespace().find_map(|word| word.strip_prefix(PHASE));
                self.phase = word.map(str::to_owned).or(self.phase.take());
            }
            self.rest = rest.to_owned();
        }
    }

    /// Waits until the move is in `phase`; whether it was seen there, and not later.
    pub fn await_phase(&mut self, phase: &str, patience: Duration) -> std::io::Result<bool> {
        let begin = Instant::now();
        let wanted = super::plan::PHASES.iter().position(|word| *word == phase);
        while begin.elapsed() < patience {
            match self.phase()? {
                Some(seen) if seen == phase => return Ok(true),
                Some(AFTER) => return Ok(false),
                Some(seen) if super::plan::PHASES.iter().position(|word| *word == seen) > wanted => return Ok(false),
                _ => thread::sleep(LOOK),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_phase_counts_and_the_end_is_the_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "phase begins migration=0 phase=settle").unwrap();
        let mut log = Log::from_now(file.path()).unwrap();
        assert_eq!(log.phase().unwrap(), None);
        write!(file, "DEBUG phase begins migration=1 phase=prepare\nDEBUG phase begins migration=1 pha").unwrap();
        assert_eq!(log.phase().unwrap(), Some("prepare"));
        writeln!(file, "se=copy").unwrap();
        assert!(log.await_phase("copy", Duration::from_secs(5)).unwrap());
        writeln!(file, "DEBUG phase begins migration=1 phase=checkpoint").unwrap();
        assert!(!log.await_phase("freeze", Duration::from_secs(5)).unwrap());
        writeln!(file, "INFO migration ended migration=1 outcome=Moved").unwrap();
        assert_eq!(log.phase().unwrap(), Some(AFTER));
    }
}
