//! `drover migrate --dry-run`: what a move would take.

use std::process::ExitCode;

use drover_api::MigrateRequest;
use drover_model::{NodeName, Plan, Priority, RateSource, Settings, TargetRoom};

use super::check;
use crate::cluster::Located;
use crate::failure::{Doing, Failure};
use crate::print::{self, Printer};

/// Prints the plan of a move. Fails when something blocks it.
pub async fn execute(
    located: &Located,
    to: NodeName,
    settings: Settings,
    priority: Priority,
    printer: Printer,
) -> Result<ExitCode, Failure> {
    let container = located.record.spec.id.to_string();
    let name = &located.record.spec.name;
    let request = MigrateRequest { container, to: to.clone(), settings, priority };
    let plan = located.client.plan(&request).await.doing(|| format!("plan the move of {name} to {to}"))?;
    printer.either(&plan, || text(&plan))?;
    Ok(if plan.check.blocks() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(plan: &Plan) -> String {
    let mut lines = vec![check::text(&plan.check)];
    let mut say = |name: &str, what: String| lines.push(format!("{name:<8}{what}"));
    let rounds = plan.rounds.len();
    let rounds = format!("{rounds} round{}", if rounds == 1 { "" } else { "s" });
    match &plan.predicted {
        Some(predicted) => {
            let (pause, total) = (print::millis(predicted.downtime_ms), print::millis(predicted.total_ms));
            say("plan", format!("{}, {rounds}, a pause of about {pause}, {total} in all", plan.mode.as_str()));
            say("why", plan.reason.clone());
            say("bytes", format!("{} before packing", predicted.bytes));
        }
        None => say("plan", format!("it would stay: {}", plan.reason)),
    }
    let written = plan.written.iter().map(|seen| format!("{} pages in {}", seen.pages.0, print::millis(seen.ms)));
    let written = written.collect::<Vec<_>>().join(", ");
    let written =
        if written.is_empty() { "what it writes cannot be followed".to_owned() } else { format!("it wrote {written}") };
    say("memory", format!("{}; {written}", plan.memory));
    say("files", format!("{} of its own", plan.files));
    let source = match plan.rate.source {
        RateSource::Moves => "as in earlier moves there",
        RateSource::Measured => "measured now",
        RateSource::Assumed => "assumed: it could not be measured",
    };
    say("link", format!("{}/s, {source}", drover_model::Bytes(plan.rate.bytes_per_second as u64)));
    if let Some(TargetRoom { memory_available, disk_free, image, copy }) = plan.room {
        let lacks = if image.0 > 0 { format!("; it lacks {image} of the image") } else { String::new() };
        let keeps = if copy.0 > 0 { format!("; it keeps {copy} of the files") } else { String::new() };
        let room = format!("{memory_available} of memory, {disk_free} of disk on {}{lacks}{keeps}", plan.check.to);
        say("room", room);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_says_what_is_expected_and_where_that_is_known_from() {
        let plan: Plan = serde_json::from_value(json!({
            "container": "web", "from": "n1", "to": "n2", "findings": [], "took_ms": 512.0, "mode": "pre-copy",
            "predicted": { "downtime_ms": 81.2, "total_ms": 640.0, "rounds": 2, "bytes": 272 << 20 },
            "reason": "a pause of 81 ms was predicted after 2 rounds, within the budget of 300 ms",
            "rounds": [{ "pages": 65536, "bytes": 0, "ms": 400.0, "dirty_after": 900 },
                       { "pages": 900, "bytes": 0, "ms": 8.0, "dirty_after": 20 }],
            "memory": 256 << 20, "written": [{ "ms": 30.0, "pages": 61 }, { "ms": 100.2, "pages": 180 }],
            "files": 2 << 20, "rate": { "bytes_per_second": 671_088_640.0, "source": "moves" },
            "room": { "memory_available": 8_u64 << 30, "disk_free": 40_u64 << 30, "copy": 1 << 20 },
        }))
        .unwrap();
        let expected = "web: n1 → n2: it can be moved (looked at in 512 ms)\n\
                        plan    pre-copy, 2 rounds, a pause of about 81.2 ms, 640 ms in all\n\
                        why     a pause of 81 ms was predicted after 2 rounds, within the budget of 300 ms\n\
                        bytes   272.0 MiB before packing\n\
                        memory  256.0 MiB; it wrote 61 pages in 30.0 ms, 180 pages in 100 ms\n\
                        files   2.0 MiB of its own\n\
                        link    640.0 MiB/s, as in earlier moves there\n\
                        room    8.0 GiB of memory, 40.0 GiB of disk on n2; it keeps 1.0 MiB of the files";
        assert_eq!(text(&plan), expected);
    }
}
