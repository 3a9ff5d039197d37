//! `drover pong`: back and forth.

use std::time::Duration;

use clap::Args;
use drover_model::{NodeName, Priority, Report};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::migrate::{Progress, begin, follow, moved};
use super::settings::SettingsArgs;
use super::{Chosen, open};
use crate::failure::{Cause, Doing, Failure};
use crate::print::{self, Printer};
use crate::unit;

#[derive(Debug, Args)]
pub struct PongArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// The nodes to move between
    #[arg(long, value_delimiter = ',', required = true, value_name = "NODE,NODE")]
    nodes: Vec<NodeName>,
    /// How many moves; by default until ctrl-c
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The time between two moves
    #[arg(long, default_value = "2s", value_parser = unit::span, value_name = "TIME")]
    dwell: Duration,
    /// Choose each next node by chance, and dwell up to twice the time
    #[arg(long)]
    random: bool,
    /// The seed of that chance: the same seed, the same way
    #[arg(long, requires = "random")]
    seed: Option<u64>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
struct Tally {
    container: String,
    moves: u64,
    downtime_min_ms: f64,
    downtime_median_ms: f64,
    downtime_max_ms: f64,
    bytes_sent: u64,
    reports: Vec<Report>,
}

/// Moves a container until it was moved often enough, a move fails, or the user has seen enough.
pub async fn execute(args: PongArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("move {} back and forth", args.chosen.container);
    let cluster = open(printer, action)?;
    for node in &args.nodes {
        cluster.client(node).doing(action)?;
    }
    let mut located = args.chosen.locate(&cluster, "move").await?;
    let mut chance = StdRng::seed_from_u64(args.seed.unwrap_or_else(|| rand::rng().random()));
    let mut interrupted = signal(SignalKind::interrupt()).doing(action)?;
    let mut reports = Vec::new();
    let mut failed = None;
    while args.count.is_none_or(|count| (reports.len() as u64) < count) {
        if !reports.is_empty() && dwell(&args, &mut chance, &mut interrupted).await {
            break;
        }
        let here = located.client.node_name().clone();
        let there = next_node(&args.nodes, &here, args.random.then_some(&mut chance));
        let there = there.ok_or(Cause::Invalid("--nodes names no other node")).doing(action)?;
        let source = located.clone();
        let moving = async {
            let begun = begin(&source, &there, args.settings.settings(), Priority::Normal).await?;
            moved(follow(&source.client, begun, Progress::new(printer)).await?)
        };
        tokio::pin!(moving);
        let (mut stop, mut report) = (false, None);
        while report.is_none() {
            tokio::select! {
                ended = &mut moving => report = Some(ended),
                _ = interrupted.recv() => {
                    if std::mem::replace(&mut stop, true) {
                        break;
                    }
                    printer.warning("stopping after this move; ctrl-c again leaves it alone");
                }
            }
        }
        match report {
            Some(Ok(report)) => {
                if !printer.json {
                    print::line(&step(reports.len() + 1, &report))?;
                }
                reports.push(report);
            }
            Some(Err(cause)) => {
                let number = reports.len() + 1;
                let action = format!("move {} to {there} (move {number})", located.record.spec.name);
                failed = Some(Failure::new(action, cause));
                break;
            }
            None => break,
        }
        if stop {
            break;
        }
        located.client = cluster.client(&there).doing(action)?.clone();
    }
    if let Some(tally) = tally(located.record.spec.name.to_string(), reports) {
        printer.either(&tally, || summary(&tally))?;
    }
    failed.map_or(Ok(()), Err)
}

/// Waits; whether the user has seen enough.
async fn dwell(args: &PongArgs, chance: &mut StdRng, interrupted: &mut Signal) -> bool {
    let time = if args.random { args.dwell.mul_f64(chance.random_range(0.0..2.0)) } else { args.dwell };
    tokio::select! {
        () = tokio::time::sleep(time) => false,
        _ = interrupted.recv() => true,
    }
}

/// The listed node after the present one; the first other one when the present one is not listed.
fn next_node(nodes: &[NodeName], here: &NodeName, chance: Option<&mut StdRng>) -> Option<NodeName> {
    if let Some(chance) = chance {
        return nodes.iter().filter(|&node| node != here).choose(chance).cloned();
    }
    let after = nodes.iter().position(|node| node == here).map_or(0, |at| at + 1);
    nodes.iter().cycle().skip(after).take(nodes.len()).find(|&node| node != here).cloned()
}

fn step(number: usize, report: &Report) -> String {
    let (downtime, total) = (print::some_millis(report.downtime_ms), print::millis(report.total_ms));
    format!("{number}: {} → {}   downtime {downtime}, total {total}, {}", report.from, report.to, report.bytes_sent)
}

fn tally(container: String, reports: Vec<Report>) -> Option<Tally> {
    let mut downtimes: Vec<f64> = reports.iter().filter_map(|report| report.downtime_ms).collect();
    downtimes.sort_by(f64::total_cmp);
    let (&min, &max) = (downtimes.first()?, downtimes.last()?);
    let median = (downtimes[(downtimes.len() - 1) / 2] + downtimes[downtimes.len() / 2]) / 2.0;
    Some(Tally {
        container,
        moves: reports.len() as u64,
        downtime_min_ms: min,
        downtime_median_ms: median,
        downtime_max_ms: max,
        bytes_sent: reports.iter().map(|report| report.bytes_sent.0).sum(),
        reports,
    })
}

fn summary(tally: &Tally) -> String {
    format!(
        "{}: {} moves, downtime min {}, median {}, max {}",
        tally.container,
        tally.moves,
        print::millis(tally.downtime_min_ms),
        print::millis(tally.downtime_median_ms),
        print::millis(tally.downtime_max_ms),
    )
}

#[cfg(test)]
mod tests {
    use super::super::migrate::tests::report;
    use super::*;
    use drover_model::Outcome;

    fn nodes(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn it_goes_round_and_first_to_where_it_is_not() {
        let listed = nodes(&["n1", "n2", "n3"]);
        let next = |here: &str| next_node(&listed, &here.parse().unwrap(), None).unwrap().to_string();
        assert_eq!(["n1", "n2", "n3", "n9"].map(next), ["n2", "n3", "n1", "n1"]);
        assert_eq!(next_node(&nodes(&["n1", "n1"]), &"n1".parse().unwrap(), None), None);
    }

    #[test]
    fn chance_never_stays_and_depends_on_the_seed_alone() {
        let listed = nodes(&["n1", "n2", "n3"]);
        let way = |seed| {
            let mut chance = StdRng::seed_from_u64(seed);
            let mut here = listed[0].clone();
            let mut way = Vec::new();
            for _ in 0..20 {
                let there = next_node(&listed, &here, Some(&mut chance)).unwrap();
                assert_ne!(there, here);
                way.push(there.clone());
                here = there;
            }
            way
        };
        assert_eq!(way(7), way(7));
    }

    #[test]
    fn downtimes_are_summed_up() {
        let reports = [30.0, 10.0, 20.0, 40.0].map(|ms| report(Outcome::Moved, ms)).into();
        let tally = tally("web".into(), reports).unwrap();
        let expected = "web: 4 moves, downtime min 10.0 ms, median 25.0 ms, max 40.0 ms";
        assert_eq!(summary(&tally), expected);
    }
}
