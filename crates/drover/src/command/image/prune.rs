//! `drover image prune`.

use clap::Args;
use drover_api::{Client, PruneReport};
use drover_model::NodeName;
use serde::Serialize;

use crate::command::open;
use crate::failure::{Doing, Failure};
use crate::print::Printer;

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Also images with names, when no container needs them
    #[arg(short, long)]
    all: bool,
    /// The node; by default all nodes
    #[arg(long)]
    node: Option<NodeName>,
}

/// What was removed on one node.
#[derive(Debug, Serialize)]
struct Placed {
    node: NodeName,
    #[serde(flatten)]
    report: PruneReport,
}

/// Removes what nobody needs, on all nodes at once.
pub async fn execute(args: PruneArgs, printer: Printer) -> Result<(), Failure> {
    let action = || "prune images".to_owned();
    let cluster = open(printer, action)?;
    let all = args.all;
    let answers = cluster.ask(args.node.as_ref(), move |client: Client| async move { client.prune_images(all).await });
    let pruned: Vec<Placed> = answers
        .await
        .doing(action)?
        .into_iter()
        .map(|(client, report)| Placed { node: client.node_name().clone(), report })
        .collect();
    printer.either(&pruned, || pruned.iter().map(line).collect())
}

fn line(Placed { node, report: PruneReport { images, layers, partial } }: &Placed) -> String {
    format!("{node}: {} images, {} layers, {partial} broken transfers\n", images.len(), layers.len())
}
