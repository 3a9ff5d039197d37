//! `drover image`.

mod look;
mod overlay;
mod prune;
mod registry;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_api::{Client, ClientError, ImageInfo, ImportQuery};
use drover_model::{Digest, NodeName};
use serde::Serialize;

use super::{OnNode, open};
use crate::archive;
use crate::cluster::{Cluster, ask_each};
use crate::failure::{Cause, Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import an image: a directory, a tar archive, an OCI image layout, or what `docker save` wrote
    Import(ImportArgs),
    /// Pull an image from a registry
    Pull(registry::PullArgs),
    /// Push an image to a registry
    Push(registry::PushArgs),
    /// Write the difference between two images to a file
    Overlay(overlay::OverlayArgs),
    /// Make an image of another one and such a file, bit for bit
    Synthesize(overlay::SynthesizeArgs),
    /// List images
    Ls(OnNode),
    /// Show everything about an image
    Inspect(look::LookArgs),
    /// Show how an image was made
    History(look::LookArgs),
    /// Remove an image
    Rm(RmArgs),
    /// Remove images that no container needs and no name leads to, and what is left of broken transfers
    Prune(prune::PruneArgs),
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The image's name
    name: String,
    /// The directory or the archive, which may be compressed by gzip or zstd
    path: PathBuf,
    /// Which image of an archive of several: its tag, or its name with the tag
    #[arg(long)]
    tag: Option<String>,
    /// For which platform, as in linux/arm64; by default the node's own
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
    /// The node; by default all nodes
    #[arg(long)]
    node: Option<NodeName>,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// The image's name
    name: String,
    /// The node; by default all nodes
    #[arg(long)]
    node: Option<NodeName>,
}

/// An image on one node.
#[derive(Debug, Serialize)]
struct Placed {
    node: NodeName,
    #[serde(flatten)]
    image: ImageInfo,
}

/// Does what was asked of the images.
pub async fn execute(command: ImageCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        ImageCommand::Import(args) => import(args, printer).await,
        ImageCommand::Pull(args) => registry::pull(args, printer).await,
        ImageCommand::Push(args) => registry::push(args, printer).await,
        ImageCommand::Overlay(args) => overlay::overlay(args, printer).await,
        ImageCommand::Synthesize(args) => overlay::synthesize(args, printer).await,
        ImageCommand::Ls(args) => list(args, printer).await,
        ImageCommand::Inspect(args) => look::inspect(args, printer).await,
        ImageCommand::History(args) => look::history(args, printer).await,
        ImageCommand::Rm(args) => remove(args, printer).await,
        ImageCommand::Prune(args) => prune::execute(args, printer).await,
    }
}

/// To all nodes at once; the first that fails makes the command fail, after the others have ended.
async fn import(args: ImportArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("import {} as {}", args.path.display(), args.name);
    std::fs::metadata(&args.path).map_err(|error| Cause::Read(args.path.clone(), error)).doing(action)?;
    let cluster = open(printer, action)?;
    let (name, path) = (args.name.clone(), args.path.clone());
    let query = ImportQuery { tag: args.tag.clone(), platform: args.platform.clone() };
    let answers = ask_each(cluster.some(args.node.as_ref()).doing(action)?, move |client: Client| {
        let (name, path, query) = (name.clone(), path.clone(), query.clone());
        async move { client.import_image(&name, &query, archive::stream(&path)).await }
    });
    show_placed(&cluster, printer, answers.await, action)
}

/// Shows the nodes that have an image now; the first that failed makes the command fail.
fn show_placed(
    cluster: &Cluster,
    printer: Printer,
    answers: Vec<(Client, Result<ImageInfo, ClientError>)>,
    action: impl Fn() -> String,
) -> Result<(), Failure> {
    let mut placed = Vec::new();
    let mut failed = None;
    for (client, answer) in answers {
        match answer {
            Ok(image) => placed.push(Placed { node: client.node_name().clone(), image }),
            Err(error) if failed.is_none() => failed = Some((client, error)),
            Err(error) => cluster.warn(&error),
        }
    }
    if !placed.is_empty() {
        printer.either(&placed, || table(&placed))?;
    }
    match failed {
        None => Ok(()),
        Some((client, error)) => Err(error).doing(|| format!("{} on {}", action(), client.node_name())),
    }
}

async fn list(args: OnNode, printer: Printer) -> Result<(), Failure> {
    let action = || "list images".to_owned();
    let cluster = open(printer, action)?;
    let answers = cluster.ask(args.node.as_ref(), async |client: Client| client.images().await);
    let placed: Vec<Placed> = answers
        .await
        .doing(action)?
        .into_iter()
        .flat_map(|(client, images)| {
            images.into_iter().map(move |image| Placed { node: client.node_name().clone(), image })
        })
        .collect();
    printer.either(&placed, || table(&placed))
}

/// Nodes that do not have it do not matter, as long as one has.
async fn remove(args: RmArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("remove image {}", args.name);
    let cluster = open(printer, action)?;
    let name = args.name.clone();
    let answers = ask_each(cluster.some(args.node.as_ref()).doing(action)?, move |client: Client| {
        let name = name.clone();
        async move { client.remove_image(&name).await }
    });
    let mut removed = Vec::new();
    let (mut missing, mut failed) = (None, None);
    for (client, answer) in answers.await {
        match answer {
            Ok(digest) => removed.push((client.node_name().clone(), digest)),
            Err(error) if error.is_not_found() => missing = Some(error),
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => cluster.warn(&error),
        }
    }
    let lost = if removed.is_empty() { failed.or(missing) } else { failed };
    let value: Vec<_> =
        removed.iter().map(|(node, digest)| serde_json::json!({ "node": node, "digest": digest })).collect();
    if !removed.is_empty() {
        let lines = removed.iter().map(|(node, digest)| format!("{node}: {digest}\n"));
        printer.either(&value, || lines.collect())?;
    }
    lost.map_or(Ok(()), Err).doing(action)
}

/// One row for each name of each content, with the nodes that have it.
fn table(placed: &[Placed]) -> String {
    let mut rows: BTreeMap<(&str, &Digest), (Vec<&str>, &ImageInfo)> = BTreeMap::new();
    for Placed { node, image } in placed {
        let names = image.names.iter().map(String::as_str);
        let nameless = image.names.is_empty().then_some("");
        for name in names.chain(nameless) {
            rows.entry((name, &image.digest)).or_insert((Vec::new(), image)).0.push(node.as_str());
        }
    }
    let mut table = Table::new(&["NAME", "DIGEST", "SIZE", "IMPORTED", "NODES"]);
    for ((name, digest), (nodes, image)) in rows {
        let imported = print::since(&image.imported_at).map(|span| format!("{span} ago"));
        let short = digest.hex()[..12].to_owned();
        table.row([name.into(), short, image.size.to_string(), imported.unwrap_or_default(), nodes.join(",")]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::Bytes;

    #[test]
    fn an_image_on_two_nodes_is_one_row() {
        let image = |names: &[&str], byte| ImageInfo {
            digest: Digest::from_sha256([byte; 32]),
            names: names.iter().map(|&name| name.into()).collect(),
            size: Bytes(5 << 20),
            imported_at: String::new(),
        };
        let placed = |node: &str, image| Placed { node: node.parse().unwrap(), image };
        let all = [
            placed("n1", image(&["web", "app"], 0xab)),
            placed("n2", image(&["web"], 0xab)),
            placed("n2", image(&[], 0xcd)),
        ];
        let expected = "NAME   DIGEST         SIZE      IMPORTED   NODES\n\
                        -      cdcdcdcdcdcd   5.0 MiB   -          n2\n\
                        app    abababababab   5.0 MiB   -          n1\n\
                        web    abababababab   5.0 MiB   -          n1,n2\n";
        assert_eq!(table(&all), expected);
    }
}
