//! `drover migrations`.

use clap::Args;
use drover_api::Client;
use drover_model::{MigrationId, MigrationState, NodeName, Outcome, PackedPages, Phase, Round};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
    let states = in_order(once(answers.into_iter().flat_map(|(_, states)| states).collect()));
    printer.either(&states, || table(&states))
}

/// The source that knows a migration, and its state.
pub(super) async fn find(cluster: &Cluster, id: &MigrationId) -> Result<(Client, MigrationState), Cause> {
    let wanted = id.clone();
    let answers = ask_each(cluster.some(None)?, move |client: Client| {
        let wanted = wanted.clone();
        async move { client.migration(&wanted, None).await }
    });
    let (mut unreached, mut lost) = (Vec::new(), None);
    let answers = answers.await;
    let count = answers.len();
    for (client, answer) in answers {
        match answer {
            Ok(state) => return Ok((client, state)),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                unreached.push(client.node_name().clone());
                lost.get_or_insert(error);
            }
        }
    }
    if let Some(error) = lost.filter(|_| unreached.len() == count) {
        return Err(error.into());
    }
    Err(ChoiceError::NotFound { what: "migration", name: id.to_string(), unreached }.into())
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Moved => "moved",
        Outcome::RolledBack => "rolled back",
        Outcome::Failed => "failed",
        Outcome::Synced => "synced",
    }
}

fn standing(state: &MigrationState) -> String {
    match (&state.report, state.queued) {
        (Some(report), _) => outcome(report.outcome).into(),
        (None, Some(place)) => format!("queued ({place})"),
        (None, None) if state.in_doubt => format!("{} (in doubt)", state.phase),
        (None, None) => state.phase.to_string(),
    }
}

/// Each once: what its source says counts, and its target's word where the source cannot be asked.
fn once(states: Vec<MigrationState>) -> Vec<MigrationState> {
    let mut seen: Vec<MigrationState> = Vec::new();
    for state in states {
        match seen.iter_mut().find(|known| known.id == state.id) {
            // A source knows how much has crossed.
            Some(known) if known.report.is_none() && state.bytes_sent > known.bytes_sent => *known = state,
            Some(_) => {}
            None => seen.push(state),
        }
    }
    seen
}

/// By the time they began, on whatever node; those of which that is not known come first.
fn in_order(mut states: Vec<MigrationState>) -> Vec<MigrationState> {
    states.sort_by_key(|state| OffsetDateTime::parse(&state.began_at, &Rfc3339).ok());
    states
}

/// Why a migration did not do what was wished.
fn reason(state: &MigrationState) -> Option<String> {
    let report = state.report.as_ref().filter(|report| !matches!(report.outcome, Outcome::Moved | Outcome::Synced))?;
    Some(report.reason.clone())
}

fn table(states: &[MigrationState]) -> String {
    const HEADINGS: [&str; 10] =
        ["ID", "CONTAINER", "FROM", "TO", "BEGAN", "STATE", "DOWNTIME", "TOTAL", "SENT", "REASON"];
    let mut table = Table::new(&HEADINGS);
    for state in states {
        let report = state.report.as_ref();
        let began = print::since(&state.began_at).map(|span| format!("{span} ago"));
        table.row([
            state.id.to_string(),
            state.container.to_string(),
            state.from.to_string(),
            state.to.to_string(),
            began.unwrap_or_default(),
            standing(state),
            report.map(|report| print::some_millis(report.downtime_ms)).unwrap_or_default(),
            report.map(|report| print::millis(report.total_ms)).unwrap_or_default(),
            report.map_or(state.bytes_sent, |report| report.bytes_sent).to_string(),
            reason(state).unwrap_or_default(),
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
        ("began", state.began_at.clone()),
        ("priority", state.priority.to_string()),
        ("state", standing(state)),
        ("sent", state.bytes_sent.to_string()),
    ];
    rows.extend(state.delayed.iter().filter(|_| state.report.is_none()).map(|why| ("delayed", why.clone())));
    if let Some(report) = &state.report {
        rows.extend([
            ("memory", report.bytes_memory.to_string()),
            ("files", report.bytes_disk.to_string()),
            ("mode", report.mode.as_str().to_owned()),
            ("downtime", print::some_millis(report.downtime_ms)),
            ("total", print::millis(report.total_ms)),
        ]);
        rows.extend(report.exposure_ms.map(|ms| ("exposure", print::millis(ms))));
        let PackedPages { none, lz4, zstd } = report.packed;
        if none.0 + lz4.0 + zstd.0 > 0 {
            rows.push(("packed", format!("{} pages by lz4, {} by zstd, {} not", lz4.0, zstd.0, none.0)));
        }
        for Round { pages, bytes, ms, dirty_after, files, files_after } in &report.rounds {
            let (pages, time, dirty) = (pages.0, print::millis(*ms), dirty_after.0);
            let text = format!(
                "{pages} pages and {files} of files, {bytes} in {time}; {dirty} pages and {files_after} written meanwhile"
            );
            rows.push(("round", text));
        }
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
            owner: None,
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            priority: drover_model::Priority::Normal,
            queued: None,
            phase: Phase::Copy,
            began_at: "2999-01-01T00:00:00Z".into(),
            in_doubt: false,
            delayed: None,
            bytes_sent: Bytes(34 << 20),
            report,
        }
    }

    #[test]
    fn migrations_are_listed_with_where_they_are_or_how_they_ended() {
        let mut rolled_back = state(Some(report(Outcome::RolledBack, 12.0)));
        // The report counts what was sent.
        rolled_back.bytes_sent = Bytes(7);
        let header = "ID   CONTAINER   FROM   TO   BEGAN     STATE         DOWNTIME   TOTAL    SENT       REASON\n";
        let going = "0a   web         n1     n2   0 s ago   copy          -          -        34.0 MiB   -\n";
        let back = "0a   web         n1     n2   0 s ago   rolled back   12.0 ms    1.40 s   34.0 MiB   \
                    n2 refused: no room\n";
        assert_eq!(table(&[state(None), rolled_back]), format!("{header}{going}{back}"));
        let waiting = MigrationState { queued: Some(2), ..state(None) };
        assert_eq!(standing(&waiting), "queued (2)");
    }

    #[test]
    fn migrations_of_all_nodes_are_in_the_order_in_which_they_began() {
        let times = ["2026-01-01T00:00:02Z", "2026-01-01T00:00:01.5Z", "", "2026-01-01T00:00:01Z"];
        let began = |&began_at: &&str| MigrationState { began_at: began_at.into(), ..state(None) };
        let ordered = in_order(times.iter().map(began).collect());
        let ordered: Vec<_> = ordered.iter().map(|state| state.began_at.as_str()).collect();
        assert_eq!(ordered, ["", times[3], times[1], times[0]]);
    }

    #[test]
    fn one_migration_is_shown_with_its_phases() {
        let mut ended = report(Outcome::Moved, 12.0);
        ended.phases.insert(Phase::Freeze, 3.0);
        let text = details(&state(Some(ended)));
        assert!(text.starts_with("migration  0a\ncontainer  web\nway        n1 → n2\nbegan      2999-"), "{text}");
        assert!(text.contains("\nfreeze     3.00 ms\n"), "{text}");
    }
}
