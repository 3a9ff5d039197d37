//! `drover migrate --resolve`: what only a person can know of a migration in doubt.

use clap::ValueEnum;
use drover_api::Client;
use drover_model::{MigrationState, NodeName, Outcome, Side};
use serde_json::json;

use super::open;
use crate::choice::ChoiceError;
use crate::cluster::ask_each;
use crate::failure::{Cause, Doing, Failure, Hinted};
use crate::print::Printer;

/// Whose the container is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Keeper {
    /// It goes on on the node that it was to leave
    Source,
    /// It goes on on the node that it was to go to
    Target,
}

/// Has each node that can be asked do its part. Without `certain` it only says what that risks.
pub async fn execute(keeper: Keeper, wanted: &str, certain: bool, printer: Printer) -> Result<(), Failure> {
    let action = || format!("resolve migration {wanted}");
    let cluster = open(printer, action)?;
    let answers = cluster.ask(None, async |client: Client| client.migrations().await).await.doing(action)?;
    let states = answers.into_iter().flat_map(|(_, states)| states).collect();
    let state = choose(states, wanted).doing(action)?;
    let risk = risk(&state, keeper);
    if !certain {
        let hint = format!("if you are certain: the same with --yes; {risk}");
        let why = Hinted::plain("it cannot be undone", hint);
        return Err(Failure::new(action(), why));
    }
    printer.warning(&risk);
    let keeps = match keeper {
        Keeper::Source => Side::Source,
        Keeper::Target => Side::Target,
    };
    let told = tell(cluster.some(None).doing(action)?, &state, keeps).await.doing(action)?;
    let names = told.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    let text = || format!("{}: {names} told; drover migrations {} shows what comes of it", state.container, state.id);
    printer.either(&json!({ "id": state.id, "container": state.container, "keeps": keeps, "told": told }), text)
}

/// The migration in doubt, or failed, of this id or container.
fn choose(states: Vec<MigrationState>, wanted: &str) -> Result<MigrationState, Cause> {
    let open = |state: &MigrationState| {
        let failed = state.report.as_ref().is_some_and(|report| report.outcome == Outcome::Failed);
        failed || state.report.is_none() && state.phase >= drover_model::Phase::Commit
    };
    let by_id = states.iter().find(|state| state.id.as_str() == wanted).cloned();
    let of_container = || states.iter().rev().find(|state| state.container.as_str() == wanted && open(state)).cloned();
    let not_found = || ChoiceError::NotFound { what: "migration", name: wanted.to_owned(), unreached: Vec::new() };
    Ok(by_id.or_else(of_container).ok_or_else(not_found)?)
}

/// What it means if the user is wrong.
fn risk(state: &MigrationState, keeper: Keeper) -> String {
    let MigrationState { container, from, to, .. } = state;
    let (here, there) = match keeper {
        Keeper::Source => (from, to),
        Keeper::Target => (to, from),
    };
    format!(
        "{container} goes on on {here}; if {there} runs it too, or ever runs it again, there are two copies with one \
         address, and what one of them does is lost"
    )
}

/// Tells both nodes of it that can be asked; which did.
async fn tell(clients: Vec<Client>, state: &MigrationState, keeps: Side) -> Result<Vec<NodeName>, Cause> {
    let parties = clients.into_iter().filter(|client| [&state.from, &state.to].contains(&client.node_name()));
    let id = state.id.clone();
    let answers = ask_each(parties.collect(), move |client: Client| {
        let id = id.clone();
        async move { client.resolve(&id, keeps).await }
    });
    let (mut told, mut refused) = (Vec::new(), None);
    for (client, answer) in answers.await {
        match answer {
            Ok(()) => told.push(client.node_name().clone()),
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    match refused.filter(|_| told.is_empty()) {
        Some(error) => Err(error.into()),
        None => Ok(told),
    }
}
