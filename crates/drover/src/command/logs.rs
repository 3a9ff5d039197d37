//! `drover logs`.

use clap::Args;
use drover_api::LogQuery;

use super::{Chosen, open};
use crate::failure::{Doing, Failure};
use crate::follow::Follower;
use crate::print::Printer;

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Stay and print what comes, on whatever node the container will be
    #[arg(short, long)]
    follow: bool,
    /// Only this many of the newest lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
}

/// Prints a container's log. With `--json` one record a line.
pub async fn execute(args: LogsArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("read the log of {}", args.chosen.container);
    let cluster = open(printer, action)?;
    let located = args.chosen.locate(&cluster, "read the log of").await?;
    if args.follow {
        return Follower::new(&cluster, printer).follow(located, args.tail).await;
    }
    let query = LogQuery { follow: false, tail: args.tail };
    let mut lines = located.client.logs(located.record.spec.id.as_str(), &query).await.doing(action)?;
    while let Some(record) = lines.next().await.doing(action)? {
        printer.log(&record)?;
    }
    Ok(())
}
