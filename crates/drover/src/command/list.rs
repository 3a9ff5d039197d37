//! `drover ps`.

use clap::Args;
use drover_api::Client;
use drover_model::{ContainerId, ContainerRecord, ContainerState, NodeName};

use super::open;
use crate::choice::settle;
use crate::failure::{Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only ids, one a line
    #[arg(short, long)]
    quiet: bool,
    /// Only those on this node
    #[arg(long)]
    node: Option<NodeName>,
}

/// How many digits of an id are shown; any beginning that is no other's will do.
const SHORT: usize = 12;

/// Lists the containers of all nodes that answer: one that does not is a warning, and an error only if none does.
pub async fn execute(args: PsArgs, printer: Printer) -> Result<(), Failure> {
    let action = || "list containers".to_owned();
    let cluster = open(printer, action)?;
    let answers = cluster.ask(args.node.as_ref(), async |client: Client| client.containers().await);
    let answers = answers.await.doing(action)?;
    let mut records = settle(answers.into_iter().flat_map(|(_, records)| records).collect());
    records.retain(|record| args.all || matches!(record.state, ContainerState::Running | ContainerState::Frozen));
    if args.quiet {
        let ids: Vec<&ContainerId> = records.iter().map(|record| &record.spec.id).collect();
        return printer.either(&ids, || ids.iter().map(|id| format!("{id}\n")).collect());
    }
    printer.either(&records, || table(&records))
}

fn table(records: &[ContainerRecord]) -> String {
    let mut table = Table::new(&["ID", "NAME", "NODE", "STATE", "IMAGE", "ADDRESS", "MOVES", "UP"]);
    for record in records {
        let running = matches!(record.state, ContainerState::Running | ContainerState::Frozen);
        let started = record.started_at.as_deref().filter(|_| running);
        let addresses = record.spec.interface.iter().flat_map(|interface| &interface.addresses);
        let addresses: Vec<String> = addresses.map(|address| address.addr().to_string()).collect();
        table.row([
            record.spec.id.as_str().chars().take(SHORT).collect(),
            record.spec.name.to_string(),
            record.node.to_string(),
            record.condition(),
            record.spec.image.clone(),
            addresses.join(","),
            record.generation.to_string(),
            started.and_then(print::since).unwrap_or_default(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::tests::record;

    #[test]
    fn memory_that_is_on_another_node_is_told() {
        let mut record = record("aa", "web", "n1", ContainerState::Running, 1);
        let since = "2026-01-01T00:00:00Z".to_owned();
        let mut follows = drover_model::Follows { from: "n2".parse().unwrap(), since, reachable: true };
        record.follows = Some(follows.clone());
        assert!(table(&[record.clone()]).contains("running, memory follows from n2"));
        follows.reachable = false;
        record.follows = Some(follows);
        assert!(table(&[record]).contains("running, waits for memory on n2"));
    }

    #[test]
    fn containers_are_listed_in_columns() {
        let mut other = record("bbbbbbbbbbbbbbbb", "worker", "n2", ContainerState::Exited { status: 137 }, 12);
        other.spec.interface = None;
        let records = [record("aa", "web", "n1", ContainerState::Running, 0), other];
        let expected = "ID             NAME     NODE   STATE          IMAGE     ADDRESS     MOVES   UP\n\
                        aa             web      n1     running        busybox   10.77.1.5   0       -\n\
                        bbbbbbbbbbbb   worker   n2     exited (137)   busybox   -           12      -\n";
        assert_eq!(table(&records), expected);
    }
}
