//! `drover migrate`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use drover_api::{Client, ClientError, MigrateRequest};
use drover_model::{MigrationId, MigrationState, NodeName, Outcome, Priority, Report, Settings};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::resolve::{self, Keeper};
use super::settings::{SettingsArgs, Word};
use super::{Chosen, migrations, open, plan};
use crate::cluster::Located;
use crate::failure::{Cause, Doing, Failure};
use crate::print::{self, Printer};

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Name, id, or beginning of an id; with --resolve a migration's id will do
    #[arg(required_unless_present = "cancel")]
    container: Option<String>,
    /// The node to move to
    #[arg(long, required_unless_present_any = ["cancel", "resolve"])]
    to: Option<NodeName>,
    /// The node that has the container, when several have one of this name
    #[arg(long)]
    node: Option<NodeName>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Which other moves of the same node it goes before
    #[arg(long, default_value = "normal")]
    priority: Word<Priority>,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
    /// Say what the move would take, and move nothing
    #[arg(long, conflicts_with = "detach")]
    dry_run: bool,
    /// Cancel this migration
    #[arg(long, value_name = "ID", conflicts_with_all = ["container", "to", "node", "detach", "dry_run", "priority", "SettingsArgs"])]
    cancel: Option<MigrationId>,
    /// Say which node has the container of a migration in doubt, when the other one is lost for good
    #[arg(long, value_name = "NODE", conflicts_with_all = ["cancel", "to", "node", "detach", "dry_run", "SettingsArgs"])]
    resolve: Option<Keeper>,
    /// With --resolve: be certain of it
    #[arg(long, requires = "resolve", conflicts_with = "to")]
    yes: bool,
}

/// The time after which a poll answers without a change: short on a terminal, which shows the time that passes.
const POLL_SHOWN: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_secs(20);
/// How often in a row the source may not answer, and the pause after it: a restart of its agent takes seconds.
const LOST_LIMIT: u32 = 60;
const LOST_PAUSE: Duration = Duration::from_secs(1);
/// The exit status of a command that SIGINT ended: 128 + 2.
const INTERRUPTED: u8 = 130;

/// Moves a container, or cancels a migration.
pub async fn execute(args: MigrateArgs, printer: Printer) -> Result<ExitCode, Failure> {
    if let Some(id) = args.cancel {
        return cancel(&id, printer).await.map(|()| ExitCode::SUCCESS);
    }
    if let (Some(keeper), Some(wanted)) = (args.resolve, &args.container) {
        return resolve::execute(keeper, wanted, args.yes, printer).await.map(|()| ExitCode::SUCCESS);
    }
    let (Some(container), Some(to)) = (args.container, args.to) else { return Ok(ExitCode::SUCCESS) };
    let action = || format!("move {container} to {to}");
    let cluster = open(printer, action)?;
    let chosen = Chosen { container: container.clone(), node: args.node };
    let located = chosen.locate(&cluster, "move").await?;
    if args.dry_run {
        return plan::execute(&located, to, args.settings.settings(), args.priority.0, printer).await;
    }
    // Listened to before it begins: afterwards nobody may be left in doubt about what an interrupt did.
    let mut interrupted = signal(SignalKind::interrupt()).doing(action)?;
    let begun = begin(&located, &to, args.settings.settings(), args.priority.0).await.doing(action)?;
    if args.detach {
        return printer.either(&begun, || begun.id.to_string()).map(|()| ExitCode::SUCCESS);
    }
    let id = begun.id.clone();
    let followed = tokio::select! {
        report = follow(&located.client, begun, Progress::new(printer)) => Some(report),
        _ = interrupted.recv() => None,
    };
    let Some(report) = followed else {
        printer.note(&left_alone(&id));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let report = report.doing(action)?;
    if printer.json {
        printer.value(&report)?;
    }
    let report = moved(report).doing(action)?;
    if !printer.json {
        print::line(&summary(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What becomes of a move that nobody waits for any more.
fn left_alone(id: &MigrationId) -> String {
    format!("the move goes on; drover migrations {id} shows it, drover migrate --cancel {id} ends it")
}

/// Begins a migration.
pub(super) async fn begin(
    located: &Located,
    to: &NodeName,
    settings: Settings,
    priority: Priority,
) -> Result<MigrationState, ClientError> {
    let container = located.record.spec.id.to_string();
    located.client.migrate(&MigrateRequest { container, to: to.clone(), settings, priority }).await
}

/// Follows a migration to its end.
pub(super) async fn follow(
    source: &Client,
    mut state: MigrationState,
    mut progress: Progress,
) -> Result<Report, ClientError> {
    let mut lost = 0;
    loop {
        if let Some(report) = state.report {
            return Ok(report);
        }
        progress.show(&state);
        let wait = if progress.shown { POLL_SHOWN } else { POLL };
        match source.migration(&state.id, Some(wait)).await {
            Ok(next) => {
                lost = 0;
                state = next;
            }
            Err(error) if error.is_lost() && lost < LOST_LIMIT => {
                lost += 1;
                tokio::time::sleep(LOST_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The report of a migration that moved the container; otherwise why it did not.
pub(super) fn moved(report: Report) -> Result<Report, Cause> {
    ended(report, Outcome::Moved)
}

/// The report of a migration that ended as was wished; otherwise why it did not.
pub(super) fn ended(report: Report, wish: Outcome) -> Result<Report, Cause> {
    if report.outcome == wish {
        return Ok(report);
    }
    let Report { outcome, reason, hint, .. } = report;
    Err(Cause::Unmoved { outcome, reason, hint })
}

async fn cancel(id: &MigrationId, printer: Printer) -> Result<(), Failure> {
    let action = || format!("cancel migration {id}");
    let cluster = open(printer, action)?;
    let (client, _) = migrations::find(&cluster, id).await.doing(action)?;
    client.cancel(id).await.doing(action)?;
    printer.either(&json!({ "id": id, "source": client.node_name() }), || id.to_string())
}

/// One sentence for people.
fn summary(report: &Report) -> String {
    let moved = format!(
        "{} moved from {} to {}: downtime {}, total {}, {} sent ({} memory, {} files)",
        report.container,
        report.from,
        report.to,
        print::some_millis(report.downtime_ms),
        print::millis(report.total_ms),
        report.bytes_sent,
        report.bytes_memory,
        report.bytes_disk,
    );
    let (Some(predicted), Some(error)) = (report.predicted, report.prediction_error()) else { return moved };
    let off = |error: f64| format!("{:+.0} %", error * 100.0);
    format!(
        "{moved}\nexpected: downtime {} (off by {}), total {} (off by {})",
        print::millis(predicted.downtime_ms),
        off(error.downtime),
        print::millis(predicted.total_ms),
        off(error.total),
    )
}

/// A line on the terminal that is written over as a migration goes on.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    begun: Instant,
}

impl Progress {
    /// Shown when standard error is a terminal and people read it.
    pub(super) fn new(printer: Printer) -> Self {
        Self { shown: !printer.json && std::io::stderr().is_terminal(), begun: Instant::now() }
    }

    fn show(&mut self, state: &MigrationState) {
        if self.shown {
            self.write(&progress(state, self.begun.elapsed()));
        }
    }

    fn write(&self, text: &str) {
        // A terminal that is gone shows no progress.
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            self.write("");
        }
    }
}

fn progress(state: &MigrationState, elapsed: Duration) -> String {
    let MigrationState { container, from, to, phase, bytes_sent, .. } = state;
    if let Some(place) = state.queued {
        return format!("{container}: {from} → {to}   waits for its turn, {place} in the queue");
    }
    let doubt = match &state.delayed {
        Some(why) => format!(", {to} has not confirmed yet: {why}"),
        None if state.in_doubt => format!(", {to} has not confirmed yet"),
        None => String::new(),
    };
    format!("{container}: {from} → {to}   {phase}{doubt}   {bytes_sent}   {:.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use drover_model::{Bytes, Phase, Prediction};

    /// A report as a source would make it.
    pub fn report(outcome: Outcome, downtime_ms: f64) -> Report {
        serde_json::from_value(json!({
            "id": "0a", "container": "web", "from": "n1", "to": "n2", "outcome": outcome, "downtime_ms": downtime_ms,
            "total_ms": 1400.0, "phases": {}, "rounds": [], "bytes_sent": 34 << 20, "bytes_memory": 31 << 20,
            "bytes_disk": 2 << 20, "mode": "stop-and-copy", "reason": "n2 refused: no room", "hint": "make room",
        }))
        .unwrap()
    }

    #[test]
    fn a_move_is_summed_up_in_one_sentence() {
        let expected = "web moved from n1 to n2: downtime 212 ms, total 1.40 s, 34.0 MiB sent (31.0 MiB memory, \
                        2.0 MiB files)";
        let mut report = report(Outcome::Moved, 200.0);
        assert_eq!(summary(&report), expected.replace("212", "200"));
        let (downtime_ms, total_ms) = (150.0, 1540.0);
        report.predicted = Some(Prediction { downtime_ms, total_ms, rounds: 2, bytes: Bytes(1) });
        let line = summary(&report).lines().nth(1).unwrap().to_owned();
        assert_eq!(line, "expected: downtime 150 ms (off by +25 %), total 1.54 s (off by -10 %)");
    }

    #[test]
    fn what_did_not_move_is_a_failure_with_reason_and_hint() {
        let failure = moved(report(Outcome::RolledBack, 0.0)).doing(|| "move web to n2".into()).unwrap_err();
        let explained = failure.explain();
        assert_eq!(explained.error, "cannot move web to n2: n2 refused: no room");
        assert_eq!(explained.hint.as_deref(), Some("make room"));
    }

    #[test]
    fn progress_names_the_phase_and_the_doubt() {
        let mut state = MigrationState {
            id: "0a".parse().unwrap(),
            container: "web".parse().unwrap(),
            owner: None,
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            priority: Priority::Normal,
            queued: None,
            phase: Phase::Commit,
            began_at: String::new(),
            in_doubt: true,
            delayed: None,
            bytes_sent: Bytes(1 << 20),
            report: None,
        };
        let expected = "web: n1 → n2   commit, n2 has not confirmed yet   1.0 MiB   1.5 s";
        assert_eq!(progress(&state, Duration::from_millis(1500)), expected);
        state.queued = Some(3);
        assert_eq!(progress(&state, Duration::ZERO), "web: n1 → n2   waits for its turn, 3 in the queue");
    }
}
