//! `drover-bench report`: pictures from the rows, and tables between the markers of a document.

use std::path::{Path, PathBuf};

use crate::disk;
use crate::plot::{self, PlotError, QUANTITIES};
use crate::row::{self, Row, RowError, Session};
use crate::statistics::{blocks, last_session};
use crate::suite::Suite;
use crate::table;

/// What to render.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The directory with the rows; pictures are written there, too
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The document with the markers
    #[arg(long, value_name = "FILE")]
    pub document: PathBuf,
}

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The rows.
    #[error("cannot render the results")]
    Rows(#[from] RowError),
    /// A picture.
    #[error("cannot render the results")]
    Plot(#[from] PlotError),
    /// The document.
    #[error("cannot use document {0}")]
    Document(PathBuf, #[source] std::io::Error),
    /// A marker is missing.
    #[error("cannot find the markers of {0} in the document: <!-- bench:{0} --> and <!-- /bench:{0} -->")]
    Marker(&'static str),
}

/// Renders everything.
pub fn run(options: &Options) -> Result<(), ReportError> {
    let rows: Vec<Row> = row::read(&row::rows_file(&options.out))?;
    let sessions: Vec<Session> = row::read(&row::sessions_file(&options.out))?;
    let failed = |error| ReportError::Document(options.document.clone(), error);
    let mut text = std::fs::read_to_string(&options.document).map_err(failed)?;
    let files: Vec<disk::Row> = row::read(&disk::rows_file(&options.out))?;
    for suite in Suite::ALL {
        let content = match suite {
            Suite::Disk => disk_content(&files, &sessions),
            _ => content(options, &rows, &sessions, suite)?,
        };
        text = replace(&text, suite.name(), &content).ok_or(ReportError::Marker(suite.name()))?;
    }
    std::fs::write(&options.document, text).map_err(failed)
}

/// What stands between a suite's markers. What was not run says so.
fn content(options: &Options, rows: &[Row], sessions: &[Session], suite: Suite) -> Result<String, ReportError> {
    let blocks = blocks(rows, suite);
    let Some(id) = last_session(rows, suite) else { return Ok("Not run yet.\n".to_owned()) };
    let mut text = sessions.iter().find(|session| session.session == id).map(table::machine).unwrap_or_default();
    text.push('\n');
    for quantity in QUANTITIES {
        let name = format!("{}-{}.svg", suite.name(), quantity.name);
        let path = options.out.join(&name);
        if plot::draw(&blocks, quantity, &path)?
            && let Some(link) = link(&options.document, &path)
        {
            text.push_str(&format!("![{}, {}]({link})\n\n", suite.name(), quantity.title));
        }
    }
    text.push_str(&table::tables(&blocks));
    Ok(text)
}

/// The same of the suite `disk`, which has rows of its own.
fn disk_content(rows: &[disk::Row], sessions: &[Session]) -> String {
    let Some(id) = disk::last_session(rows) else { return "Not run yet.\n".to_owned() };
    let machine = sessions.iter().find(|session| session.session == id).map(table::machine).unwrap_or_default();
    format!("{machine}\n{}", disk::tables(rows))
}

/// How a document refers to a file below its directory; a file elsewhere is not referred to.
fn link(document: &Path, file: &Path) -> Option<String> {
    let directory = document.parent()?.canonicalize().ok()?;
    let file = file.canonicalize().ok()?;
    file.strip_prefix(directory).ok().map(|path| path.to_string_lossy().into_owned())
}

/// The text with something else between two markers; none when they are not there.
pub fn replace(text: &str, name: &str, content: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{}\n\n{end}{after}", content.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    fn document() -> String {
        let markers = Suite::ALL.map(|suite| format!("<!-- bench:{0} -->\n<!-- /bench:{0} -->\n", suite.name()));
        format!("# Title\n\n{}\nEnd.\n", markers.join("\n"))
    }

    #[test]
    fn a_report_fills_the_markers_and_may_be_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let (out, file) = (directory.path().join("results"), directory.path().join("b.md"));
        std::fs::create_dir(&out).unwrap();
        std::fs::write(&file, document()).unwrap();
        for row in [row("drover", 1, 100.0), row("runc", 1, 500.0)] {
            row::append(&row::rows_file(&out), &row).unwrap();
        }
        let options = Options { out, document: file.clone() };
        run(&options).unwrap();
        let once = std::fs::read_to_string(&file).unwrap();
        assert!(once.contains("![core, longest time without an answer, ms](results/core-gap.svg)"), "{once}");
        assert!(once.contains("| runc | 1 | **500** (500–500) | 5.0 |") && once.ends_with("End.\n"), "{once}");
        assert!(once.contains("<!-- bench:alpha -->\n\nNot run yet.\n\n<!-- /bench:alpha -->"), "{once}");
        run(&options).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), once);
    }

    #[test]
    fn a_document_without_markers_is_left_alone() {
        assert_eq!(replace("no markers", "core", "x"), None);
    }
}
