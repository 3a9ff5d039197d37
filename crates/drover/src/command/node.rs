//! `drover node`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use drover_api::{Client, ClientError, DrainRequest};
use drover_model::{DrainMove, DrainState, NodeInfo, NodeName, Outcome, Priority};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::membership::{self, MembershipCommand};
use super::settings::{SettingsArgs, Word};
use super::{OnNode, open};
use crate::failure::{Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes: what they have, whether they take containers, and how many moves they allow
    Ls(OnNode),
    /// Move everything that runs on a node to others; it takes nothing new until `undrain`
    Drain(Box<DrainArgs>),
    /// Let a drained node take containers again
    Undrain(UndrainArgs),
    #[command(flatten)]
    Membership(MembershipCommand),
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The node to empty
    node: NodeName,
    /// The nodes to move to [default: all others]
    #[arg(long, value_delimiter = ',', value_name = "NODE,NODE")]
    to: Vec<NodeName>,
    /// How many moves at a time, if fewer than the node allows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Option<u32>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Which other moves of the node these go before
    #[arg(long, default_value = "normal")]
    priority: Word<Priority>,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// The node
    node: NodeName,
}

/// The time between two looks at a drain.
const LOOK: Duration = Duration::from_millis(500);
/// How often in a row the node may not answer, and the pause after it: a restart of its agent takes seconds.
const LOST_LIMIT: u32 = 60;
const LOST_PAUSE: Duration = Duration::from_secs(1);
/// The exit status of a command that SIGINT ended: 128 + 2.
const INTERRUPTED: u8 = 130;

/// Does what was asked of the nodes.
pub async fn execute(command: NodeCommand, printer: Printer) -> Result<ExitCode, Failure> {
    match command {
        NodeCommand::Ls(args) => list(args, printer).await.map(|()| ExitCode::SUCCESS),
        NodeCommand::Drain(args) => drain(*args, printer).await,
        NodeCommand::Undrain(args) => undrain(&args.node, printer).await.map(|()| ExitCode::SUCCESS),
        NodeCommand::Membership(command) => membership::execute(command, printer).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn list(args: OnNode, printer: Printer) -> Result<(), Failure> {
    let action = || "list nodes".to_owned();
    let cluster = open(printer, action)?;
    let answers = cluster.ask(args.node.as_ref(), async |client: Client| client.node().await).await.doing(action)?;
    let nodes: Vec<NodeInfo> = answers.into_iter().map(|(_, node)| node).collect();
    printer.either(&nodes, || nodes_table(&nodes))
}

fn nodes_table(nodes: &[NodeInfo]) -> String {
    let headings = ["NAME", "VERSION", "STATE", "RUNNING", "ALL", "MEMORY FREE", "LEAVING", "QUEUED", "ARRIVING"];
    let mut table = Table::new(&headings);
    for node in nodes {
        let drained = node.drained_since.as_deref().map(|since| {
            let span = print::since(since).map(|span| format!(" ({span})")).unwrap_or_default();
            format!("drained{span}")
        });
        table.row([
            node.name.to_string(),
            node.version.clone(),
            drained.unwrap_or_else(|| "ready".into()),
            node.running.to_string(),
            node.containers.to_string(),
            node.memory_available.to_string(),
            format!("{} of {}", node.leaving, node.limits.outgoing),
            node.queued.to_string(),
            format!("{} of {}", node.arriving, node.limits.incoming),
        ]);
    }
    table.render()
}

async fn undrain(node: &NodeName, printer: Printer) -> Result<(), Failure> {
    let action = || format!("end the drain of {node}");
    let cluster = open(printer, action)?;
    cluster.client(node).doing(action)?.undrain().await.doing(action)?;
    printer.either(&json!({ "node": node, "drained": false }), || format!("{node} takes containers again"))
}

async fn drain(args: DrainArgs, printer: Printer) -> Result<ExitCode, Failure> {
    let DrainArgs { node, to, parallel, settings, priority, detach } = args;
    let action = || format!("drain {node}");
    let cluster = open(printer, action)?;
    let client = cluster.client(&node).doing(action)?;
    // Listened to before it begins: afterwards nobody may be left in doubt about what an interrupt did.
    let mut interrupted = signal(SignalKind::interrupt()).doing(action)?;
    let request = DrainRequest { to, parallel, settings: settings.settings(), priority: priority.0 };
    let begun = client.drain(&request).await.doing(action)?;
    if detach {
        let text = || format!("{node} takes nothing new, and what runs there moves; `drover migrations` shows how");
        return printer.either(&begun, text).map(|()| ExitCode::SUCCESS);
    }
    let mut ending = false;
    let ended = loop {
        let follow = follow(client, printer);
        tokio::select! {
            ended = follow => break Some(ended.doing(action)?),
            _ = interrupted.recv() => {
                if std::mem::replace(&mut ending, true) {
                    break None;
                }
                client.cancel_drain().await.doing(action)?;
                printer.warning("no further move begins, and those under way come to their end; ctrl-c again does not wait for them");
            }
        }
    };
    let Some(state) = ended else { return Ok(ExitCode::from(INTERRUPTED)) };
    printer.either(&state, || moves_table(&state))?;
    Ok(match (ending, state.stayed()) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    })
}

/// Follows a drain to its end.
async fn follow(client: &Client, printer: Printer) -> Result<DrainState, ClientError> {
    let shown = !printer.json && std::io::stderr().is_terminal();
    let mut lost = 0;
    loop {
        match client.drain_state(None).await {
            Ok(state) => {
                lost = 0;
                if shown {
                    // A terminal that is gone shows no progress.
                    let _ = write!(
                        std::io::stderr(),
                        "\r\x1b[K{}",
                        if state.ended { String::new() } else { progress(&state) }
                    );
                }
                if state.ended {
                    return Ok(state);
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(error) if error.is_lost() && lost < LOST_LIMIT => {
                lost += 1;
                tokio::time::sleep(LOST_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn progress(state: &DrainState) -> String {
    let (all, moved, stayed) = (state.moves.len(), state.moved(), state.stayed());
    let staying = if stayed > 0 { format!(", {stayed} cannot") } else { String::new() };
    format!("{}: {moved} of {all} have left{staying}", state.node)
}

fn moves_table(state: &DrainState) -> String {
    let mut table = Table::new(&["CONTAINER", "TO", "OUTCOME", "DOWNTIME", "TOTAL", "REASON"]);
    for one in &state.moves {
        table.row([
            one.container.to_string(),
            one.to
                .as_ref()
                .filter(|_| one.outcome == Some(Outcome::Moved))
                .map(NodeName::to_string)
                .unwrap_or_default(),
            outcome(one).into(),
            one.downtime_ms.map(print::millis).unwrap_or_default(),
            one.total_ms.map(print::millis).unwrap_or_default(),
            one.reason.clone().unwrap_or_else(|| one.why.clone()),
        ]);
    }
    let mut text = if state.moves.is_empty() { String::new() } else { table.render() };
    let (moved, stayed) = (state.moved(), state.stayed());
    text.push_str(&format!(
        "{}: {moved} have left, {stayed} stay; it takes nothing new until `drover node undrain {0}`\n",
        state.node
    ));
    let mut hints: Vec<&String> = state.moves.iter().filter_map(|one| one.hint.as_ref()).collect();
    hints.dedup();
    hints.iter().for_each(|hint| text.push_str(&format!("hint: {hint}\n")));
    text
}

fn outcome(one: &DrainMove) -> &'static str {
    match one.outcome {
        Some(Outcome::Moved) => "moved",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::RolledBack | Outcome::Synced) => "stayed",
        None if one.reason.is_some() => "ended",
        None => "under way",
    }
}

#[cfg(test)]
mod tests {
    use drover_model::{Bytes, MoveLimits};

    use super::*;

    fn one(name: &str, to: Option<&str>, outcome: Option<Outcome>, reason: Option<&str>) -> DrainMove {
        DrainMove {
            container: name.parse().unwrap(),
            id: "0a".parse().unwrap(),
            to: to.map(|to| to.parse().unwrap()),
            why: "1 container runs there; no other node has room".into(),
            migration: None,
            outcome,
            downtime_ms: to.map(|_| 80.0),
            total_ms: to.map(|_| 400.0),
            reason: reason.map(str::to_owned),
            hint: reason.map(|_| "end the debugger first".to_owned()),
        }
    }

    #[test]
    fn a_drain_ends_with_a_table_of_what_left_and_what_stays() {
        let moves = vec![
            one("web", Some("n2"), Some(Outcome::Moved), None),
            one("db", None, Some(Outcome::RolledBack), Some("process box in it is traced by process 9")),
        ];
        let node = "n1".parse().unwrap();
        let mut state = DrainState { node, since: String::new(), ended: true, cancelled: false, moves };
        let expected = "CONTAINER   TO   OUTCOME   DOWNTIME   TOTAL    REASON\n\
                        web         n2   moved     80.0 ms    400 ms   1 container runs there; no other node has room\n\
                        db          -    stayed    -          -        process box in it is traced by process 9\n\
                        n1: 1 have left, 1 stay; it takes nothing new until `drover node undrain n1`\n\
                        hint: end the debugger first\n";
        assert_eq!(moves_table(&state), expected);
        assert_eq!(progress(&state), "n1: 1 of 2 have left, 1 cannot");
        state.moves.clear();
        assert!(moves_table(&state).starts_with("n1: 0 have left"));
    }

    #[test]
    fn nodes_are_listed_with_what_they_take() {
        let node = NodeInfo {
            name: "n1".parse().unwrap(),
            version: "0.1.0".into(),
            kernel: "6.1".into(),
            criu: None,
            architecture: "x86_64".into(),
            containers: 5,
            running: 3,
            memory_available: Bytes(1 << 30),
            drained_since: Some("2999-01-01T00:00:00Z".into()),
            limits: MoveLimits { outgoing: 4, incoming: 2 },
            leaving: 1,
            arriving: 0,
            queued: 7,
        };
        let text = nodes_table(&[node]);
        let row = "n1     0.1.0     drained (0 s)   3         5     1.0 GiB       1 of 4    7        0 of 2";
        assert_eq!(text.lines().nth(1), Some(row), "{text}");
    }
}
