//! Two containers of one image move to a node that does not have it.

use std::path::Path;

use super::Turn;
use super::turn::{Measured, TurnError, forget_image};
use crate::lab::{LONG, Lab, SHORT, SOURCE, TARGET};
use crate::mover::by_drover;

const IMAGE: &str = "redis";
const CONTAINERS: [&str; 2] = ["first", "second"];

/// Moves one after the other.
pub fn turn(lab: &Lab, image: &Path, turn: &Turn) -> Result<Measured, TurnError> {
    lab.run(&["image", "import", "--node", SOURCE, IMAGE, &image.to_string_lossy()], LONG)?;
    forget_image(lab, TARGET, IMAGE)?;
    for name in CONTAINERS {
        lab.run(&["run", "--node", SOURCE, "--name", name, "-d", IMAGE], SHORT)?;
    }
    lab.link(turn.link)?;
    let mut measured = Measured::default();
    for name in CONTAINERS {
        let moved = by_drover(lab, name, TARGET, &[])?;
        let report = moved.report.unwrap_or_default();
        measured.note_from(&format!("{name}_image_bytes"), &report, "/bytes_image");
        measured.note_from(&format!("{name}_total_ms"), &report, "/total_ms");
        measured.reports.push(report);
    }
    for name in CONTAINERS {
        lab.run(&["rm", "-f", name], SHORT)?;
    }
    Ok(measured)
}
