//! `drover copies`.

use clap::{Args, Subcommand};
use drover_api::Client;
use drover_model::{CopyRecord, NodeName};
use serde_json::json;

use super::{OnNode, open};
use crate::choice::ChoiceError;
use crate::cluster::Cluster;
use crate::failure::{Cause, Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub enum CopiesCommand {
    /// List copies
    Ls(OnNode),
    /// Remove the copies of a container's files
    Rm(RmArgs),
    /// Remove all copies
    Prune(OnNode),
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Name, id, or beginning of an id
    container: String,
    /// The node; by default all nodes that have one
    #[arg(long)]
    node: Option<NodeName>,
}

/// Does what was asked of the copies.
pub async fn execute(command: CopiesCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        CopiesCommand::Ls(args) => {
            let action = || "list copies".to_owned();
            let cluster = open(printer, action)?;
            let copies = all(&cluster, args.node.as_ref()).await.doing(action)?;
            let records: Vec<_> = copies.into_iter().map(|(_, record)| record).collect();
            printer.either(&records, || table(&records))
        }
        CopiesCommand::Rm(args) => {
            let action = || format!("remove copies of the files of {}", args.container);
            let cluster = open(printer, action)?;
            let mut copies = all(&cluster, args.node.as_ref()).await.doing(action)?;
            copies.retain(|(_, record)| is_called(record, &args.container));
            if copies.is_empty() {
                let name = args.container.clone();
                let missing = ChoiceError::NotFound { what: "copy of files of container", name, unreached: Vec::new() };
                return Err(missing).doing(action);
            }
            report(&remove(copies).await.doing(action)?, printer)
        }
        CopiesCommand::Prune(args) => {
            let action = || "remove copies".to_owned();
            let cluster = open(printer, action)?;
            let copies = all(&cluster, args.node.as_ref()).await.doing(action)?;
            report(&remove(copies).await.doing(action)?, printer)
        }
    }
}

fn is_called(record: &CopyRecord, name: &str) -> bool {
    record.name.as_str() == name || (name.len() >= 4 && record.id.as_str().starts_with(name))
}

async fn all(cluster: &Cluster, node: Option<&NodeName>) -> Result<Vec<(Client, CopyRecord)>, Cause> {
    let answers = cluster.ask(node, async |client: Client| client.copies().await).await?;
    let each = |(client, copies): (Client, Vec<CopyRecord>)| copies.into_iter().map(move |copy| (client.clone(), copy));
    Ok(answers.into_iter().flat_map(each).collect())
}

async fn remove(copies: Vec<(Client, CopyRecord)>) -> Result<Vec<CopyRecord>, Cause> {
    let mut removed = Vec::new();
    for (client, record) in copies {
        match client.remove_copy(&record.id).await {
            Ok(()) => removed.push(record),
            // Its container has come back meanwhile, or it has become too old.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

fn report(removed: &[CopyRecord], printer: Printer) -> Result<(), Failure> {
    let value: Vec<_> = removed.iter().map(|copy| json!({ "id": copy.id, "node": copy.node })).collect();
    let lines = || removed.iter().map(|copy| format!("{}: {}\n", copy.node, copy.name)).collect();
    printer.either(&value, lines)
}

fn table(records: &[CopyRecord]) -> String {
    let mut table = Table::new(&["CONTAINER", "ID", "NODE", "KEPT", "FOR", "SIZE"]);
    for CopyRecord { id, name, node, kept_at, kept_days, bytes, .. } in records {
        let since = print::since(kept_at).map(|span| format!("{span} ago"));
        table.row([
            name.to_string(),
            id.as_str()[..id.as_str().len().min(12)].to_owned(),
            node.to_string(),
            since.unwrap_or_default(),
            format!("{kept_days} d"),
            bytes.to_string(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::Bytes;

    #[test]
    fn copies_are_listed_and_called_by_name_or_id() {
        let copy = CopyRecord {
            id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            name: "web".parse().unwrap(),
            owner: None,
            node: "n1".parse().unwrap(),
            kept_at: String::new(),
            kept_days: 7,
            bytes: Bytes(3 << 20),
        };
        assert!(
            is_called(&copy, "web") && is_called(&copy, "0123") && !is_called(&copy, "012") && !is_called(&copy, "w")
        );
        let expected = "CONTAINER   ID             NODE   KEPT   FOR   SIZE\n\
                        web         0123456789ab   n1     -      7 d   3.0 MiB\n";
        assert_eq!(table(&[copy]), expected);
    }
}
