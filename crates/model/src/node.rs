//! A node, and an explanation that is sent between machines.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{Bytes, NodeName};

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Drover's version on it.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// CRIU's version, if CRIU answers.
    pub criu: Option<String>,
    /// The processor architecture.
    pub architecture: String,
    /// How many containers it has.
    #[serde(default)]
    pub containers: u32,
    /// How many of them run.
    #[serde(default)]
    pub running: u32,
    /// The memory that programs could still get.
    #[serde(default)]
    pub memory_available: Bytes,
    /// Since when it takes nothing new, if somebody drained it: RFC 3339, UTC.
    #[serde(default)]
    pub drained_since: Option<String>,
    /// How many moves may be under way at one time.
    #[serde(default)]
    pub limits: MoveLimits,
    /// How many moves away are under way.
    #[serde(default)]
    pub leaving: u32,
    /// How many moves towards it are under way.
    #[serde(default)]
    pub arriving: u32,
    /// How many moves away wait for their turn.
    #[serde(default)]
    pub queued: u32,
}

/// How many moves of a node may be under way at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveLimits {
    /// Away from it.
    pub outgoing: u32,
    /// Towards it.
    pub incoming: u32,
}

impl Default for MoveLimits {
    /// By measurement on two processors: `docs/many.md`.
    fn default() -> Self {
        Self { outgoing: 2, incoming: 2 }
    }
}

/// What a node's machine can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeFeatures {
    /// The node's name.
    pub node: NodeName,
    /// How the writes of containers are followed, `userfaultfd` or `soft-dirty`; absent: they cannot be.
    pub tracking: Option<String>,
    /// What was probed.
    pub features: Vec<Feature>,
}

/// One thing that a machine can do, or cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it works.
    pub available: bool,
    /// What it is for.
    pub purpose: String,
    /// What was found: a version, a kind, or why it does not work.
    pub found: Option<String>,
    /// What to do where it does not work.
    pub hint: Option<String>,
}

/// Why something did not happen, in words for people, fit to cross from one node to another: what crosses has a bounded
/// length, and nothing in it that would steer a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{reason}")]
pub struct Explained {
    /// What failed and because of what: `cannot X: because Y`.
    #[serde(serialize_with = "write_plain", deserialize_with = "read_plain")]
    pub reason: String,
    /// What the reader can do about it.
    #[serde(default, serialize_with = "write_plain_hint", deserialize_with = "read_plain_hint")]
    pub hint: Option<String>,
}

/// The longest text of an explanation that crosses, in bytes: any chain of errors, with paths in it, is shorter.
const LONGEST_TEXT: usize = 16 << 10;

/// The beginning of a text, without characters that are for terminals and not for people.
fn plain(text: &str) -> Cow<'_, str> {
    let control = |c: char| c.is_control() && c != '\n';
    if text.len() <= LONGEST_TEXT && !text.contains(control) {
        return text.into();
    }
    let mut plain = String::new();
    for c in text.chars().map(|c| if control(c) { char::REPLACEMENT_CHARACTER } else { c }) {
        if plain.len() + c.len_utf8() > LONGEST_TEXT {
            break;
        }
        plain.push(c);
    }
    plain.into()
}

pub(crate) fn write_plain<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&plain(text))
}

pub(crate) fn write_plain_hint<S: Serializer>(hint: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    hint.as_deref().map(plain).serialize(serializer)
}

pub(crate) fn read_plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| plain(&text).into_owned())
}

pub(crate) fn read_plain_hint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|hint| hint.map(|text| plain(&text).into_owned()))
}

impl Explained {
    /// From the whole chain of an error's sources, `: ` between them.
    #[must_use]
    pub fn from_chain(error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { reason, hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_explains_has_an_end_and_does_not_steer_a_terminal() {
        let hostile = Explained { reason: "\u{1b}[2J\u{7}gone".repeat(100_000), hint: Some("do\nthis\u{9b}".into()) };
        let sent = serde_json::to_string(&hostile).unwrap();
        assert!(sent.len() < 4 * LONGEST_TEXT, "{}", sent.len());
        let raw = serde_json::json!({ "reason": hostile.reason, "hint": hostile.hint });
        for json in [sent, raw.to_string()] {
            let heard: Explained = serde_json::from_str(&json).unwrap();
            assert!(heard.reason.len() <= LONGEST_TEXT && !heard.reason.contains(char::is_control));
            assert_eq!(heard.hint.as_deref(), Some("do\nthis\u{fffd}"));
        }
        let usual = Explained { reason: "cannot move it: no room".into(), hint: None };
        assert_eq!(serde_json::from_str::<Explained>(&serde_json::to_string(&usual).unwrap()).unwrap(), usual);
    }
}
