//! `drover inspect`.

use super::{Chosen, open};
use crate::failure::Failure;
use crate::print::Printer;

/// Prints the whole record, as JSON in any case.
pub async fn execute(chosen: Chosen, printer: Printer) -> Result<(), Failure> {
    let cluster = open(printer, || format!("inspect {}", chosen.container))?;
    let located = chosen.locate(&cluster, "inspect").await?;
    printer.value(&located.record)
}
