//! `drover audit`.

use clap::Args;
use drover_api::Client;
use drover_model::{AuditRecord, NodeName};

use super::open;
use crate::failure::{Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only what this node was asked
    #[arg(long)]
    node: Option<NodeName>,
    /// How many of the last records of each node
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    tail: usize,
}

/// Shows who did what on the nodes, and who was refused, the oldest first.
pub async fn execute(args: AuditArgs, printer: Printer) -> Result<(), Failure> {
    let action = || "show the audit log".to_owned();
    let cluster = open(printer, action)?;
    let tail = args.tail;
    let answers = cluster.ask(args.node.as_ref(), move |client: Client| async move { client.audit(tail).await });
    let mut records: Vec<AuditRecord> =
        answers.await.doing(action)?.into_iter().flat_map(|(_, records)| records).collect();
    records.sort_by(|a, b| a.time.cmp(&b.time));
    printer.either(&records, || table(&records))
}

fn table(records: &[AuditRecord]) -> String {
    let mut table = Table::new(&["TIME", "NODE", "WHO", "ROLE", "FROM", "DID", "CONTAINER", "STATUS", "TOOK"]);
    for record in records {
        table.row([
            record.time.clone(),
            record.node.to_string(),
            record.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            record.role.map(|role| role.to_string()).unwrap_or_default(),
            record.address.clone(),
            format!("{} {}", record.method, record.path).trim_end().to_owned(),
            record.container.as_ref().map(ToString::to_string).unwrap_or_default(),
            record.status.map(|status| status.to_string()).unwrap_or_default(),
            print::millis(record.duration_ms),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::{Identity, Role};

    #[test]
    fn audit_records_are_listed_in_columns() {
        let record = AuditRecord {
            time: "2026-01-01T00:00:00Z".into(),
            node: "n1".parse().unwrap(),
            identity: Some(Identity::User("alice".parse().unwrap())),
            role: Some(Role::Viewer),
            method: "POST".into(),
            path: "/v1/containers/web/stop".into(),
            container: None,
            status: Some(403),
            duration_ms: 0.25,
            address: "10.77.0.100:5".into(),
        };
        let expected = "TIME                   NODE   WHO          ROLE     FROM            DID                            \
                        CONTAINER   STATUS   TOOK\n\
                        2026-01-01T00:00:00Z   n1     user alice   viewer   10.77.0.100:5   POST /v1/containers/web/stop   \
                        -           403      0.25 ms\n";
        assert_eq!(table(&[record]), expected);
    }
}
