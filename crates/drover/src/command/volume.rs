//! `drover volume`.

use clap::{Args, Subcommand};
use drover_api::{Client, CreateVolumeRequest};
use drover_model::{Driver, NodeName, UserName, VolumeName, VolumeRecord, WhenLost};
use serde_json::json;

use super::{OnNode, open};
use crate::choice::ChoiceError;
use crate::cluster::{Cluster, ask_each};
use crate::failure::{Cause, Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Declare a volume
    Create(CreateArgs),
    /// List volumes
    Ls(OnNode),
    /// Show everything about a volume
    Inspect(OneArgs),
    /// Remove a volume that no container uses, with its files if it is a local one
    Rm(OneArgs),
    /// Remove all local volumes that no container uses, with their files
    Prune(OnNode),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The volume's name
    name: VolumeName,
    /// The node; by default all nodes, for a local one needed when there is more than one
    #[arg(long)]
    node: Option<NodeName>,
    /// Where its files are: local, bind, nfs, sshfs or fuse
    #[arg(long, default_value = "local")]
    driver: Driver,
    /// What is mounted: /PATH (bind), HOST:/PATH (nfs), [USER@]HOST:PATH (sshfs), or a command with {target} (fuse)
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,
    /// An option for whatever mounts it; may be repeated
    #[arg(short, long = "option", value_name = "OPTION")]
    options: Vec<String>,
    /// The user who has it; by default you
    #[arg(long)]
    owner: Option<UserName>,
    /// What happens to containers when it is lost: freeze or stop
    #[arg(long = "lost", value_name = "POLICY", default_value = "freeze")]
    when_lost: WhenLost,
}

#[derive(Debug, Args)]
pub struct OneArgs {
    /// The volume's name
    name: VolumeName,
    /// The node; by default all nodes that have one of this name
    #[arg(long)]
    node: Option<NodeName>,
}

/// Does what was asked of the volumes.
pub async fn execute(command: VolumeCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create(args) => create(args, printer).await,
        VolumeCommand::Ls(args) => list(args, printer).await,
        VolumeCommand::Inspect(args) => inspect(args, printer).await,
        VolumeCommand::Rm(args) => remove(args, printer).await,
        VolumeCommand::Prune(args) => prune(args, printer).await,
    }
}

async fn create(args: CreateArgs, printer: Printer) -> Result<(), Failure> {
    let CreateArgs { name, node, driver, source, options, owner, when_lost } = args;
    let action = || format!("create volume {name}");
    let cluster = open(printer, action)?;
    // A local one is on one node; a shared one must be known to whichever the container may move to.
    let clients = match driver {
        Driver::Local => vec![cluster.one(node.as_ref()).doing(action)?.clone()],
        _ => cluster.some(node.as_ref()).doing(action)?,
    };
    let request = CreateVolumeRequest { name: name.clone(), driver, source, options, when_lost, owner };
    let answers = ask_each(clients, move |client: Client| {
        let request = request.clone();
        async move { client.create_volume(&request).await }
    });
    let mut records = Vec::new();
    let mut failed = None;
    for (client, answer) in answers.await {
        match answer {
            Ok(record) => records.push(record),
            Err(error) if failed.is_none() => failed = Some((client, error)),
            Err(error) => cluster.warn(&error),
        }
    }
    if !records.is_empty() {
        printer.either(&records, || table(&records))?;
    }
    match failed {
        None => Ok(()),
        Some((client, error)) => Err(error).doing(|| format!("{} on {}", action(), client.node_name())),
    }
}

async fn all(cluster: &Cluster, node: Option<&NodeName>) -> Result<Vec<(Client, VolumeRecord)>, Cause> {
    let answers = cluster.ask(node, async |client: Client| client.volumes().await).await?;
    let each = |(client, volumes): (Client, Vec<VolumeRecord>)| {
        volumes.into_iter().map(move |volume| (client.clone(), volume))
    };
    Ok(answers.into_iter().flat_map(each).collect())
}

async fn list(args: OnNode, printer: Printer) -> Result<(), Failure> {
    let action = || "list volumes".to_owned();
    let cluster = open(printer, action)?;
    let mut records: Vec<_> =
        all(&cluster, args.node.as_ref()).await.doing(action)?.into_iter().map(|(_, record)| record).collect();
    records.sort_by(|a, b| (&a.spec.name, &a.node).cmp(&(&b.spec.name, &b.node)));
    printer.either(&records, || table(&records))
}

/// All nodes that have it tell about it.
async fn inspect(args: OneArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("show volume {}", args.name);
    let cluster = open(printer, action)?;
    let mut records: Vec<_> =
        all(&cluster, args.node.as_ref()).await.doing(action)?.into_iter().map(|(_, record)| record).collect();
    records.retain(|record| record.spec.name == args.name);
    if records.is_empty() {
        return Err(missing(&args.name)).doing(action);
    }
    printer.value(&records)
}

fn missing(name: &VolumeName) -> ChoiceError {
    ChoiceError::NotFound { what: "volume", name: name.to_string(), unreached: Vec::new() }
}

/// Nodes that do not have it do not matter, as long as one has.
async fn remove(args: OneArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("remove volume {}", args.name);
    let cluster = open(printer, action)?;
    let name = args.name.clone();
    let answers = ask_each(cluster.some(args.node.as_ref()).doing(action)?, move |client: Client| {
        let name = name.clone();
        async move { client.remove_volume(&name).await }
    });
    let mut removed = Vec::new();
    let (mut absent, mut failed) = (None, None);
    for (client, answer) in answers.await {
        match answer {
            Ok(()) => removed.push(client.node_name().clone()),
            Err(error) if error.is_not_found() => absent = Some(error),
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => cluster.warn(&error),
        }
    }
    let lost = if removed.is_empty() { failed.or(absent) } else { failed };
    let value: Vec<_> = removed.iter().map(|node| json!({ "volume": args.name, "node": node })).collect();
    if !removed.is_empty() {
        printer.either(&value, || removed.iter().map(|node| format!("{node}: {}\n", args.name)).collect())?;
    }
    lost.map_or(Ok(()), Err).doing(action)
}

/// One that a container took meanwhile stays: the node refuses, and that is a warning.
async fn prune(args: OnNode, printer: Printer) -> Result<(), Failure> {
    let action = || "remove volumes".to_owned();
    let cluster = open(printer, action)?;
    let mut removed = Vec::new();
    for (client, record) in all(&cluster, args.node.as_ref()).await.doing(action)? {
        if record.spec.driver != Driver::Local || !record.used_by.is_empty() {
            continue;
        }
        match client.remove_volume(&record.spec.name).await {
            Ok(()) => removed.push((record.spec.name, record.node)),
            Err(error) => cluster.warn(&error),
        }
    }
    let value: Vec<_> = removed.iter().map(|(name, node)| json!({ "volume": name, "node": node })).collect();
    printer.either(&value, || removed.iter().map(|(name, node)| format!("{node}: {name}\n")).collect())
}

fn table(records: &[VolumeRecord]) -> String {
    let mut table = Table::new(&["NAME", "NODE", "DRIVER", "SOURCE", "CREATED", "USED BY"]);
    for VolumeRecord { spec, node, used_by, lost, .. } in records {
        let created = print::since(&spec.created_at).map(|span| format!("{span} ago"));
        let users: Vec<&str> = used_by.iter().map(|name| name.as_str()).collect();
        table.row([
            spec.name.to_string(),
            node.to_string(),
            if lost.is_some() { format!("{} (lost)", spec.driver) } else { spec.driver.to_string() },
            spec.source.clone(),
            created.unwrap_or_default(),
            users.join(","),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::VolumeSpec;

    #[test]
    fn volumes_are_listed_with_their_users() {
        let record = |name: &str, users: &[&str], lost: Option<&str>| {
            let mut spec = VolumeSpec::local(name.parse().unwrap(), String::new());
            if lost.is_some() {
                (spec.driver, spec.source) = (Driver::Nfs, "server:/data".into());
            }
            let used_by = users.iter().map(|user| user.parse().unwrap()).collect();
            VolumeRecord { spec, node: "n1".parse().unwrap(), used_by, path: None, lost: lost.map(str::to_owned) }
        };
        let expected = "NAME    NODE   DRIVER       SOURCE         CREATED   USED BY\n\
                        data    n1     local        -              -         web\n\
                        spare   n1     nfs (lost)   server:/data   -         -\n";
        assert_eq!(table(&[record("data", &["web"], None), record("spare", &[], Some("it is gone"))]), expected);
    }
}
