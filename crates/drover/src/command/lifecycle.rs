//! `drover start`, `stop`, `kill` and `rm`.

use std::process::ExitCode;

use clap::Args;
use drover_api::{Client, KillRequest, StopRequest};
use drover_model::{ContainerId, ContainerRecord, NodeName};
use serde_json::json;

use super::{Chosen, open};
use crate::choice::ChoiceError;
use crate::cluster::{Cluster, Located, ask_each};
use crate::failure::{Doing, Failure};
use crate::print::Printer;

#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Seconds between SIGTERM and SIGKILL
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=86_400))]
    timeout: u64,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = drover_model::signal)]
    signal: i32,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names, ids, or beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
    /// The node that has them, when several have one of this name
    #[arg(long)]
    node: Option<NodeName>,
    /// Also while it runs: its program is killed
    #[arg(short, long)]
    force: bool,
}

/// Starts a program again.
pub async fn start(chosen: Chosen, printer: Printer) -> Result<(), Failure> {
    let Located { client, record } = find(&chosen, printer, "start").await?;
    let record = client.start(record.spec.id.as_str()).await.doing(|| format!("start {}", chosen.container))?;
    printer.either(&record, || record.spec.name.to_string())
}

/// Ends a program.
pub async fn stop(args: StopArgs, printer: Printer) -> Result<(), Failure> {
    let Located { client, record } = find(&args.chosen, printer, "stop").await?;
    let stopped = client.stop(record.spec.id.as_str(), &StopRequest { timeout_s: args.timeout }).await;
    let record = stopped.doing(|| format!("stop {}", args.chosen.container))?;
    printer.either(&record, || record.spec.name.to_string())
}

/// Sends a signal.
pub async fn kill(args: KillArgs, printer: Printer) -> Result<(), Failure> {
    let Located { client, record } = find(&args.chosen, printer, "kill").await?;
    let killed = client.kill(record.spec.id.as_str(), &KillRequest { signal: args.signal }).await;
    killed.doing(|| format!("kill {}", args.chosen.container))?;
    let value = json!({ "container": record.spec.name, "node": record.node, "signal": args.signal });
    printer.either(&value, || record.spec.name.to_string())
}

/// Removes containers, one after the other. One that cannot be removed keeps no other from it; the command fails then.
pub async fn rm(args: RmArgs, printer: Printer) -> Result<ExitCode, Failure> {
    let cluster = open(printer, || "remove containers".into())?;
    let mut removed = Vec::new();
    let mut status = ExitCode::SUCCESS;
    for container in args.containers {
        let chosen = Chosen { container, node: args.node.clone() };
        match remove(&cluster, &chosen, args.force).await {
            Ok(record) => {
                if !printer.json {
                    crate::print::line(record.spec.name.as_str())?;
                }
                removed.push(json!({ "container": record.spec.name, "node": record.node }));
            }
            Err(failure) => {
                printer.failure(&failure);
                status = ExitCode::FAILURE;
            }
        }
    }
    if printer.json {
        printer.value(&removed)?;
    }
    Ok(status)
}

async fn remove(cluster: &Cluster, chosen: &Chosen, force: bool) -> Result<ContainerRecord, Failure> {
    let Located { client, record } = chosen.locate(cluster, "remove").await?;
    let action = || format!("remove {}", chosen.container);
    client.remove(record.spec.id.as_str(), force).await.doing(action)?;
    remove_copies(cluster, &record.spec.id).await.doing(action)?;
    Ok(record)
}

/// What is removed shall not live on where it has been.
async fn remove_copies(cluster: &Cluster, id: &ContainerId) -> Result<(), ChoiceError> {
    let own = id.clone();
    let answers = ask_each(cluster.some(None)?, move |client: Client| {
        let id = own.clone();
        async move { client.remove_copy(&id).await }
    });
    for (_, answer) in answers.await {
        if let Err(error) = answer
            && !error.is_not_found()
        {
            cluster.warn(&error);
        }
    }
    Ok(())
}

async fn find(chosen: &Chosen, printer: Printer, action: &str) -> Result<Located, Failure> {
    let cluster = open(printer, || format!("{action} {}", chosen.container))?;
    chosen.locate(&cluster, action).await
}
