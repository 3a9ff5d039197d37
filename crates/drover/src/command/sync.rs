//! `drover sync`.

use clap::Args;
use drover_model::{Bandwidth, Compression, NodeName, Outcome, Priority, Report, Settings};

use super::migrate::{self, Progress};
use super::settings::Word;
use super::{Chosen, open};
use crate::failure::{Doing, Failure};
use crate::print::{self, Printer};

#[derive(Debug, Args)]
pub struct SyncArgs {
    #[command(flatten)]
    container: Chosen,
    /// The node that its files are sent to
    #[arg(long)]
    to: NodeName,
    /// The most that may cross, as in 100mbit
    #[arg(long, allow_hyphen_values = true, value_name = "RATE")]
    bandwidth: Option<Bandwidth>,
    /// How files are packed
    #[arg(long, default_value = "auto")]
    compress: Word<Compression>,
}

/// Sends a container's files ahead, and leaves it where it is.
pub async fn execute(args: SyncArgs, printer: Printer) -> Result<(), Failure> {
    let SyncArgs { container, to, bandwidth, compress } = args;
    let action = || format!("send the files of {} to {to}", container.container);
    let cluster = open(printer, action)?;
    let located = container.locate(&cluster, "send the files of").await?;
    let settings = Settings { bandwidth, compression: compress.0, sync: true, ..Settings::default() };
    let begun = migrate::begin(&located, &to, settings, Priority::Normal).await.doing(action)?;
    let report = migrate::follow(&located.client, begun, Progress::new(printer)).await.doing(action)?;
    let report = migrate::ended(report, Outcome::Synced).doing(action)?;
    printer.either(&report, || summary(&report))
}

/// One sentence for people.
fn summary(report: &Report) -> String {
    format!(
        "{}: its files are on {}, {} sent ({} of the image) in {}; it goes on on {}\n",
        report.container,
        report.to,
        report.bytes_sent,
        report.bytes_image,
        print::millis(report.total_ms),
        report.from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_ahead_is_summed_up_in_one_sentence() {
        let report = migrate::tests::report(Outcome::Synced, 0.0);
        let expected =
            "web: its files are on n2, 34.0 MiB sent (0 B of the image) in 1.40 s; it goes on on n1\n".to_owned();
        assert_eq!(summary(&migrate::ended(report, Outcome::Synced).unwrap()), expected);
    }
}
