//! `drover check`.

use std::process::ExitCode;

use clap::Args;
use drover_api::MigrateRequest;
use drover_model::{Check, NodeName, Priority};

use super::settings::SettingsArgs;
use super::{Chosen, open};
use crate::failure::{Doing, Failure};
use crate::print::{self, Printer};

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// The node that it shall move to
    #[arg(long)]
    to: NodeName,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Says what is in the way of a move. Fails when something blocks it.
pub async fn execute(args: CheckArgs, printer: Printer) -> Result<ExitCode, Failure> {
    let CheckArgs { chosen, to, settings } = args;
    let action = || format!("check {} for a move to {to}", chosen.container);
    let cluster = open(printer, action)?;
    let located = chosen.locate(&cluster, "check").await?;
    let container = located.record.spec.id.to_string();
    let (settings, priority) = (settings.settings(), Priority::default());
    let request = MigrateRequest { container, to: to.clone(), settings, priority };
    let check = located.client.check(&request).await.doing(action)?;
    printer.either(&check, || text(&check))?;
    Ok(if check.blocks() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) fn text(check: &Check) -> String {
    let Check { container, from, to, findings, took_ms } = check;
    let blocks = findings.iter().filter(|finding| finding.blocks()).count();
    let verdict = match blocks {
        0 => "it can be moved".to_owned(),
        1 => "it cannot be moved, for 1 reason".to_owned(),
        _ => format!("it cannot be moved, for {blocks} reasons"),
    };
    let mut lines = vec![format!("{container}: {from} → {to}: {verdict} (looked at in {})", print::millis(*took_ms))];
    for finding in findings {
        lines.push(format!("{:<7} {finding}", finding.severity.to_string()));
        if !finding.hint.is_empty() {
            lines.push(format!("        hint: {}", finding.hint));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use drover_model::{Finding, Process, Severity};

    use super::*;

    #[test]
    fn what_is_in_the_way_is_listed_with_what_to_do() {
        let mut check = Check {
            container: "web".parse().unwrap(),
            from: "n1".parse().unwrap(),
            to: "n2".parse().unwrap(),
            findings: vec![],
            took_ms: 3.21,
        };
        assert_eq!(text(&check), "web: n1 → n2: it can be moved (looked at in 3.21 ms)");
        check.findings.push(Finding {
            severity: Severity::Blocks,
            kind: "io_uring".into(),
            process: Some(Process { pid: 7, name: "db".into() }),
            place: Some("descriptor 4".into()),
            reason: "it uses io_uring".into(),
            hint: "switch it off".into(),
        });
        let expected = "web: n1 → n2: it cannot be moved, for 1 reason (looked at in 3.21 ms)\n\
                        blocks  process db (7), descriptor 4: it uses io_uring\n        hint: switch it off";
        assert_eq!(text(&check), expected);
    }
}
