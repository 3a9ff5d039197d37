//! `drover migrations`.

use clap::Args;
use drover_api::Client;
use drover_model::{MigrationId, MigrationState, NodeName, Outcome, Phase};

use super::open;
use crate::choice::ChoiceError;
use crate::cluster::{Cluster, ask_each};
use crate::failure::{Cause, Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Args)]
pub struct MigrationsArgs {
    /// Only this one, with all its numbers
    id: Option<MigrationId>,
    /// Only those away from this node
    #[arg(long)]
    node: Option<NodeName>,
}

/// Lists migrations, or shows one.
pub async fn execute(args: MigrationsArgs, printer: Printer) -> Result<(), Failure> {
    if let Some(id) = args.id {
        let action = || format!("show migration {id}");
        let cluster = open(printer, action)?;
        let (_, state) = find(&cluster, &id).await.doing(action)?;
        return printer.either(&state, || details(&state));
    }
    let action = || "list migrations".to_owned();
    let cluster = open(printer, action)?;
    let answers = cluster.ask(args.node.as_ref(), async |client: Client| client.migrations().await);
    let answers = answers.await.doing(action)?;
    let states: Vec<MigrationState> = answers.into_iter().flat_map(|(_, states)| states).collect();
    printer.either(&states, || table(&states))
}

/// The source that knows a migration, and its state.
pub(super) async fn find(cluster: &Cluster, id: &MigrationId) -> Result<(Client, MigrationState), Cause> {
    let wanted = id.clone();
    let answers = ask_each(cluster.some(None)?, move |client: Client| {
        let wanted = wanted.clone();
        async move { client.migration(&wanted, None).await }
    });
    let mut unreached = Vec::new();
    for (client, answer) in answers.await {
        match answer {
            Ok(state) => return Ok((client, state)),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                cluster.warn(&error);
                unreached.push(client.node_name().clone());
            }
        }
    }
    Err(ChoiceError::NotFound { what: "migration", name: id.to_string(), unreached }.into())
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Moved => "moved",
        Outcome::RolledBack => "rolled back",
        Outcome::Failed => "failed",
    }
}

fn standing(state: &MigrationState) -> String {
    match &state.report {
        Some(report) => outcome(report.outcome).into(),
        None if state.in_doubt => format!("{} (in doubt)", state.phase),
        None => state.phase.to_string(),
    }
}

fn table(states: &[MigrationState]) -> String {
    let mut table = Table::new(&["ID", "CONTAINER", "FROM", "TO", "STATE", "DOWNTIME", "TOTAL", "SENT"]);
    for state in states {
        let report = state.report.as_ref();
        table.row([
            state.id.to_string(),
            state.container.to_string(),
            state.from.to_string(),
            state.to.to_string(),
            standing(state),
            report.map(|report| print::millis(report.downtime_ms)).unwrap_or_default(),
            report.map(|report| print::millis(report.total_ms)).unwrap_or_default(),
            state.bytes_sent.to_string(),
        ]);
    }
    table.render()
}

/// One line for each number.
fn details(state: &MigrationState) -> String {
    let mut rows = vec![
        ("migration", state.id.to_string()),
        ("container", state.container.to_string()),
        ("way", format!("{} → {}", state.from, state.to)),
        ("state", standing(state)),
        ("sent", state.bytes_sent.to_string()),
    ];
    if let Some(report) = &state.report {
        rows.extend([
            ("memory", report.bytes_memory.to_string()),
            ("files", report.bytes_disk.to_string()),
            ("mode", report.mode.as_str().to_owned()),
            ("downtime", print::millis(report.downtime_ms)),
            ("total", print::millis(report.total_ms)),
        ]);
        for phase in Phase::ALL {
            if let Some(&ms) = report.phases.get(&phase) {
                rows.push((phase.as_str(), print::millis(ms)));
            }
        }
        rows.push(("reason", report.reason.clone()));
        rows.extend(report.hint.iter().map(|hint| ("hint", hint.clone())));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    rows.into_iter().map(|(name, value)| format!("{name:width$}{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::migrate::tests::report;
    use super::*;
    use drover_model::Bytes;

    fn state(report: Option<drover_model::Report>) -> MigrationState {
        MigrationState {
            id: "0a".parse().unwrap(),
            container: "web".parse().unwrap(),
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            phase: Phase::Copy,
            in_doubt: false,
            delayed: None,
            bytes_sent: Bytes(34 << 20),
            report,
        }
    }

    #[test]
    fn migrations_are_listed_with_where_they_are_or_how_they_ended() {
        let states = [state(None), state(Some(report(Outcome::RolledBack, 12.0)))];
        let expected = "ID   CONTAINER   FROM   TO   STATE         DOWNTIME   TOTAL    SENT\n\
                        0a   web         n1     n2   copy          -          -        34.0 MiB\n\
                        0a   web         n1     n2   rolled back   12.0 ms    1.40 s   34.0 MiB\n";
        assert_eq!(table(&states), expected);
    }

    #[test]
    fn one_migration_is_shown_with_its_phases() {
        let mut ended = report(Outcome::Moved, 12.0);
        ended.phases.insert(Phase::Freeze, 3.0);
        let text = details(&state(Some(ended)));
        assert!(text.starts_with("migration  0a\ncontainer  web\nway        n1 → n2\nstate      moved\n"), "{text}");
        assert!(text.contains("\nfreeze     3.00 ms\n"), "{text}");
    }
}
