//! `drover stats`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use drover_api::Client;
use drover_model::{Bytes, ContainerId, ContainerName, ContainerRecord, ContainerState, ContainerStats, NodeName};
use serde::Serialize;

use super::open;
use crate::choice::settle;
use crate::cluster::Cluster;
use crate::failure::{Cause, Doing, Failure};
use crate::print::Printer;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only these containers
    containers: Vec<String>,
    /// Only those on this node
    #[arg(long)]
    node: Option<NodeName>,
    /// One sample instead of one every second
    #[arg(long)]
    no_stream: bool,
}

/// The time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a container used, seen from the command line.
#[derive(Debug, Serialize)]
struct Usage {
    id: ContainerId,
    name: ContainerName,
    node: NodeName,
    /// Of one processor; absent at the first sample on a node.
    cpu_percent: Option<f64>,
    #[serde(flatten)]
    stats: ContainerStats,
}

/// The processor time that each container had used on its node, and when.
type Before = BTreeMap<(ContainerId, NodeName), (Instant, u64)>;

/// Prints what containers use. With `--json` one array for each sample.
pub async fn execute(args: StatsArgs, printer: Printer) -> Result<(), Failure> {
    let action = || "show what containers use".to_owned();
    let cluster = open(printer, action)?;
    let wanted = wanted(&cluster, &args).await?;
    let mut before = Before::new();
    sample(&cluster, &args, &wanted, &mut before).await.doing(action)?;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let usages = sample(&cluster, &args, &wanted, &mut before).await.doing(action)?;
        let clear = !printer.json && !args.no_stream && std::io::stdout().is_terminal();
        let prefix = if clear { "\x1b[H\x1b[J" } else { "" };
        if printer.json && !args.no_stream {
            printer.record(&usages)?;
        } else {
            printer.either(&usages, || format!("{prefix}{}", table(&usages)))?;
        }
        if args.no_stream {
            return Ok(());
        }
    }
}

/// The containers that were asked for, each of which must be there and run; none: all.
async fn wanted(cluster: &Cluster, args: &StatsArgs) -> Result<Vec<ContainerId>, Failure> {
    let mut wanted = Vec::new();
    for name in &args.containers {
        let action = || format!("show what {name} uses");
        let record = cluster.locate(name, args.node.as_ref()).await.doing(action)?.record;
        if !matches!(record.state, ContainerState::Running | ContainerState::Frozen) {
            return Err(Failure::new(action(), Cause::State(record.state)));
        }
        wanted.push(record.spec.id);
    }
    Ok(wanted)
}

async fn sample(
    cluster: &Cluster,
    args: &StatsArgs,
    wanted: &[ContainerId],
    before: &mut Before,
) -> Result<Vec<Usage>, Cause> {
    let wanted = wanted.to_vec();
    let answers = cluster.ask(args.node.as_ref(), move |client: Client| {
        let wanted = wanted.clone();
        async move {
            // All at once, however many there are.
            let (records, stats) = (client.containers().await?, client.all_stats().await?);
            let at = Instant::now();
            let asked = |id: &ContainerId| wanted.is_empty() || wanted.contains(id);
            let stats: BTreeMap<_, _> = stats.into_iter().map(|entry| (entry.id, entry.stats)).collect();
            // One that has gone since has none.
            let sampled = records.into_iter().filter(|record| asked(&record.spec.id));
            let sampled = sampled.filter_map(|record| Some((*stats.get(&record.spec.id)?, record, at)));
            Ok(sampled.collect::<Vec<_>>())
        }
    });
    let sampled: Vec<_> = answers.await?.into_iter().flat_map(|(_, sampled)| sampled).collect();
    let key = |record: &ContainerRecord| (record.spec.id.clone(), record.node.clone());
    let seen: BTreeMap<_, _> = sampled.iter().map(|(stats, record, at)| (key(record), (*stats, *at))).collect();
    let settled = settle(sampled.into_iter().map(|(_, record, _)| record).collect());
    let mut now = Before::new();
    let usages = settled.into_iter().filter_map(|record| {
        let (stats, at) = *seen.get(&key(&record))?;
        Some(usage(record, stats, at, before, &mut now))
    });
    let usages = usages.collect();
    *before = now;
    Ok(usages)
}

fn usage(record: ContainerRecord, stats: ContainerStats, at: Instant, before: &Before, now: &mut Before) -> Usage {
    let key = (record.spec.id.clone(), record.node.clone());
    let cpu_percent = before.get(&key).map(|&(then, cpu_ns)| {
        let elapsed = at.saturating_duration_since(then).as_nanos().max(1) as f64;
        stats.cpu_ns.saturating_sub(cpu_ns) as f64 / elapsed * 100.0
    });
    now.insert(key, (at, stats.cpu_ns));
    Usage { id: record.spec.id, name: record.spec.name, node: record.node, cpu_percent, stats }
}

fn table(usages: &[Usage]) -> String {
    let mut table = Table::new(&["NAME", "NODE", "CPU", "MEMORY", "LIMIT", "TASKS"]);
    for Usage { name, node, cpu_percent, stats, .. } in usages {
        table.row([
            name.to_string(),
            node.to_string(),
            cpu_percent.map(|percent| format!("{percent:.1} %")).unwrap_or_default(),
            stats.memory.to_string(),
            stats.memory_limit.map(|limit: Bytes| limit.to_string()).unwrap_or_default(),
            stats.pids.to_string(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::tests::record;

    #[test]
    fn processor_time_becomes_a_share() {
        let stats = |cpu_ns| ContainerStats { cpu_ns, memory: Bytes(3 << 20), memory_limit: None, pids: 2 };
        let container = record("aa", "web", "n1", ContainerState::Running, 0);
        let (start, mut now) = (Instant::now(), Before::new());
        let first = usage(container.clone(), stats(0), start, &Before::new(), &mut now);
        assert_eq!(first.cpu_percent, None);
        let later = start + Duration::from_secs(2);
        let second = usage(container, stats(500_000_000), later, &now.clone(), &mut now);
        let expected = "NAME   NODE   CPU      MEMORY    LIMIT   TASKS\n\
                        web    n1     25.0 %   3.0 MiB   -       2\n";
        assert_eq!(table(&[second]), expected);
    }
}
