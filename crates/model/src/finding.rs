//! What stands in the way of a move, found before anything of it was begun.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::{read_plain, read_plain_hint, write_plain, write_plain_hint};
use crate::{ContainerName, Explained, NodeName};

/// How much it stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The container cannot be moved.
    Blocks,
    /// It can be moved, but something will not be as its user may expect.
    Warns,
}

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Its number inside the container.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    #[serde(serialize_with = "write_plain", deserialize_with = "read_plain")]
    pub name: String,
}

/// One finding. As in [`Explained`], what crosses has nothing in it that would steer a terminal: names of processes and files are
/// a program's to choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// How much it stands in the way.
    pub severity: Severity,
    /// What kind of thing it is, for programs: `io_uring`, `device`, `room`, and so on.
    #[serde(serialize_with = "write_plain", deserialize_with = "read_plain")]
    pub kind: String,
    /// The process concerned; none when it is about the container or a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Where: `descriptor 7`, `mapping 7f00…`, a path.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_plain_hint",
        deserialize_with = "read_plain_hint"
    )]
    pub place: Option<String>,
    /// Why it is in the way, in one sentence.
    #[serde(serialize_with = "write_plain", deserialize_with = "read_plain")]
    pub reason: String,
    /// What to do about it.
    #[serde(serialize_with = "write_plain", deserialize_with = "read_plain")]
    pub hint: String,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocks => "blocks",
            Self::Warns => "warns",
        })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// The container.
    pub container: ContainerName,
    /// Where it is.
    pub from: NodeName,
    /// Where it shall go.
    pub to: NodeName,
    /// What was found, what blocks first.
    pub findings: Vec<Finding>,
    /// How long it took, in milliseconds by the source's clock.
    pub took_ms: f64,
}

impl Check {
    /// Whether the container cannot be moved.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.findings.iter().any(Finding::blocks)
    }
}

impl Finding {
    /// Something that is about no process in particular.
    #[must_use]
    pub fn general(severity: Severity, kind: &str, why: Explained) -> Self {
        let Explained { reason, hint } = why;
        Self { severity, kind: kind.to_owned(), process: None, place: None, reason, hint: hint.unwrap_or_default() }
    }

    /// Whether the container cannot be moved because of it.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.severity == Severity::Blocks
    }

    /// The same as a reason and a hint.
    #[must_use]
    pub fn explained(&self) -> Explained {
        let hint = Some(self.hint.clone()).filter(|hint| !hint.is_empty());
        Explained { reason: self.to_string(), hint }
    }
}

/// What of `findings` keeps a container from moving, as one reason: the first one's, and how many others there are.
#[must_use]
pub fn objection(findings: &[Finding]) -> Option<Explained> {
    let mut blocking = findings.iter().filter(|finding| finding.blocks());
    let first = blocking.next()?.explained();
    let reason = match blocking.count() {
        0 => first.reason,
        others => format!("{} (and {others} more; `drover check` lists them)", first.reason),
    };
    Some(Explained { reason, ..first })
}

/// `process NAME (PID), PLACE: REASON`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = &self.process {
            write!(f, "process {process}")?;
        }
        if let (Some(_), Some(_)) = (&self.process, &self.place) {
            f.write_str(", ")?;
        }
        if let Some(place) = &self.place {
            f.write_str(place)?;
        }
        if self.process.is_some() || self.place.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, place: Option<&str>) -> Finding {
        Finding {
            severity,
            kind: "io_uring".into(),
            process: Some(Process { pid: 7, name: "redis".into() }),
            place: place.map(str::to_owned),
            reason: "it uses io_uring".into(),
            hint: "switch it off".into(),
        }
    }

    #[test]
    fn a_finding_names_the_process_and_the_place() {
        let text = finding(Severity::Blocks, Some("descriptor 4")).to_string();
        assert_eq!(text, "process redis (7), descriptor 4: it uses io_uring");
        assert_eq!(finding(Severity::Blocks, None).to_string(), "process redis (7): it uses io_uring");
        let why = Explained { reason: "no room".into(), hint: None };
        assert_eq!(Finding::general(Severity::Warns, "room", why).to_string(), "no room");
    }

    #[test]
    fn what_crosses_of_a_finding_steers_no_terminal() {
        let mut hostile = finding(Severity::Blocks, Some("\u{1b}[2J"));
        hostile.process = Some(Process { pid: 7, name: "\u{1b}]0;x\u{7}".into() });
        hostile.reason = "a\u{1b}b".into();
        let crossed = serde_json::to_string(&hostile).unwrap();
        let heard: Finding = serde_json::from_str(&crossed.replace("ab", "\u{9b}")).unwrap();
        assert!(!crossed.contains("u001b") && !heard.to_string().contains(char::is_control), "{crossed} {heard}");
    }

    #[test]
    fn only_what_blocks_is_an_objection() {
        let (blocks, warns) = (finding(Severity::Blocks, None), finding(Severity::Warns, None));
        assert_eq!(objection(std::slice::from_ref(&warns)), None);
        let one = objection(&[warns.clone(), blocks.clone()]).unwrap();
        assert_eq!(
            (one.reason.as_str(), one.hint.as_deref()),
            ("process redis (7): it uses io_uring", Some("switch it off"))
        );
        let two = objection(&[blocks.clone(), warns, blocks]).unwrap();
        assert!(two.reason.ends_with("(and 1 more; `drover check` lists them)"), "{}", two.reason);
    }
}
