//! What a turn gives, or why it does not count.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::command::CommandError;
use crate::lab::{Lab, SHORT};
use crate::mover::MoveError;

/// What was measured in a turn.
#[derive(Debug, Default)]
pub struct Measured {
    /// Milliseconds and bytes by name.
    pub measures: BTreeMap<String, f64>,
    /// Drover's own reports.
    pub reports: Vec<Value>,
}

impl Measured {
    /// Notes one number.
    pub fn note(&mut self, name: &str, value: f64) {
        self.measures.insert(name.to_owned(), value);
    }

    /// Notes the number behind this path in a JSON document, such as `/downtime_ms`. What is not there is not noted: it
    /// shows as a dash.
    pub fn note_from(&mut self, name: &str, document: &Value, pointer: &str) {
        if let Some(value) = document.pointer(pointer).and_then(Value::as_f64) {
            self.note(name, value);
        }
    }
}

/// A turn that does not count.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A move failed.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// A file of a host cannot be used.
    #[error("cannot use the host's file {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// A program did not begin to answer.
    #[error("cannot begin: {0} is not ready")]
    Unready(&'static str),
    /// A program printed something else than expected.
    #[error("cannot read what {0} printed: {1}")]
    Answer(&'static str, String),
    /// Connections broke.
    #[error("cannot count a move that {0} of {1} connections survived")]
    Connections(usize, usize),
    /// The load saw nothing.
    #[error("cannot find the move in the log of pgbench")]
    NoGap,
    /// Transactions were lost.
    #[error("cannot count a move after which the database's sums differ: {0}")]
    Sums(String),
}

/// Removes an image from a node, if it is there.
pub fn forget_image(lab: &Lab, node: &str, name: &str) -> Result<(), TurnError> {
    #[derive(Deserialize)]
    struct Image {
        node: String,
        names: Vec<String>,
    }
    let images: Vec<Image> = lab.ask(&["image", "ls"], SHORT)?;
    if images.iter().any(|image| image.node == node && image.names.iter().any(|other| other == name)) {
        lab.run(&["image", "rm", "--node", node, name], SHORT)?;
    }
    Ok(())
}
