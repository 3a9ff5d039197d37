//! `drover commit`.

use clap::Args;
use drover_api::CommitRequest;

use super::{Chosen, open};
use crate::cluster::Located;
use crate::failure::{Doing, Failure};
use crate::print::Printer;

#[derive(Debug, Args)]
pub struct CommitArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// The new image's name
    image: String,
}

/// Makes an image on the node that has the container.
pub async fn execute(args: CommitArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("commit {}", args.chosen.container);
    let cluster = open(printer, action)?;
    let Located { client, record } = args.chosen.locate(&cluster, "commit").await?;
    let request = CommitRequest { image: args.image.clone() };
    let image = client.commit(record.spec.id.as_str(), &request).await.doing(action)?;
    printer.either(&image, || format!("{}: {} ({})", client.node_name(), image.digest, image.size))
}
