//! The nodes of the context, asked all at once.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drover_api::tls::API_PROTOCOL;
use drover_api::{Client, ClientError, Context};
use drover_model::{ContainerId, ContainerRecord, ContainerState, NodeName};
use tokio::task::JoinSet;

use crate::choice::{ChoiceError, choose};
use crate::failure::Cause;
use crate::print::Printer;

/// The nodes of the context.
#[derive(Debug)]
pub struct Cluster {
    clients: Vec<Client>,
    printer: Printer,
    /// What was warned of: a node that is down for one question is down for the next.
    warned: Mutex<BTreeSet<String>>,
}

/// A container and the node that has it.
#[derive(Debug, Clone)]
pub struct Located {
    pub client: Client,
    pub record: ContainerRecord,
}

/// How long a container that was on its way is looked for.
const SEARCH_LIMIT: u32 = 150;
/// How often no node may have it in a row before it counts as gone.
const SEARCH_MISSES: u32 = 5;
/// The pause between two searches.
const SEARCH_PAUSE: Duration = Duration::from_millis(200);

impl Cluster {
    /// The cluster of the context file.
    pub fn open(printer: Printer) -> Result<Self, Cause> {
        let context = Context::find()?;
        let tls = context.credentials()?.client(API_PROTOCOL)?;
        let clients = context.nodes.into_iter().map(|endpoint| Client::new(endpoint, tls.clone())).collect();
        Ok(Self { clients, printer, warned: Mutex::default() })
    }

    /// The client of the node of this name.
    pub fn client(&self, name: &NodeName) -> Result<&Client, ChoiceError> {
        let known = || self.clients.iter().map(|client| client.node_name().clone()).collect();
        let found = self.clients.iter().find(|client| client.node_name() == name);
        found.ok_or_else(|| ChoiceError::UnknownNode { name: name.clone(), known: known() })
    }

    /// The chosen node, or the only one.
    pub fn one(&self, node: Option<&NodeName>) -> Result<&Client, ChoiceError> {
        match (node, self.clients.as_slice()) {
            (Some(name), _) => self.client(name),
            (None, [only]) => Ok(only),
            (None, []) => Err(ChoiceError::NoNode),
            (None, many) => {
                Err(ChoiceError::NodeNeeded { known: many.iter().map(|client| client.node_name().clone()).collect() })
            }
        }
    }

    /// The chosen node, or all.
    pub fn some(&self, node: Option<&NodeName>) -> Result<Vec<Client>, ChoiceError> {
        match node {
            Some(name) => Ok(vec![self.client(name)?.clone()]),
            None if self.clients.is_empty() => Err(ChoiceError::NoNode),
            None => Ok(self.clients.clone()),
        }
    }

    /// Asks all or one; warns of nodes that cannot be asked, unless none can: that is an error.
    pub async fn ask<T: Send + 'static, F: Future<Output = Result<T, ClientError>> + Send + 'static>(
        &self,
        node: Option<&NodeName>,
        call: impl Fn(Client) -> F,
    ) -> Result<Vec<(Client, T)>, Cause> {
        let mut answers = Vec::new();
        let mut errors = Vec::new();
        for (client, answer) in ask_each(self.some(node)?, call).await {
            match answer {
                Ok(answer) => answers.push((client, answer)),
                Err(error) => errors.push(error),
            }
        }
        if answers.is_empty() && !errors.is_empty() {
            return Err(errors.remove(0).into());
        }
        errors.iter().for_each(|error| self.warn(error));
        Ok(answers)
    }

    /// Finds a container by name, id or the beginning of an id.
    pub async fn locate(&self, name: &str, node: Option<&NodeName>) -> Result<Located, Cause> {
        let (located, errors) = self.search(name, node).await?;
        errors.iter().for_each(|error| self.warn(error));
        Ok(located)
    }

    async fn search(&self, name: &str, node: Option<&NodeName>) -> Result<(Located, Vec<ClientError>), Cause> {
        let wanted = name.to_owned();
        let asked = ask_each(self.some(node)?, move |client: Client| {
            let wanted = wanted.clone();
            async move { client.container(&wanted).await }
        });
        let (mut found, mut unreached, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let asked = asked.await;
        let count = asked.len();
        for (client, answer) in asked {
            match answer {
                Ok(record) => found.push(record),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    unreached.push(client.node_name().clone());
                    errors.push(error);
                }
            }
        }
        if errors.len() == count {
            return Err(errors.remove(0).into());
        }
        let record = match (choose(name, found, unreached), node) {
            (Err(ChoiceError::NotFound { name, .. }), Some(node)) => {
                return Err(ChoiceError::NotThere { name, node: node.clone() }.into());
            }
            (chosen, _) => chosen?,
        };
        Ok((Located { client: self.client(&record.node)?.clone(), record }, errors))
    }

    /// Finds a container again that may be on its way between two nodes; none when it is gone. A node that cannot be
    /// asked for so long that it may have the container is an error.
    pub async fn locate_again(&self, id: &ContainerId) -> Result<Option<Located>, Cause> {
        let mut misses = 0;
        let mut unreached = None;
        for _ in 0..SEARCH_LIMIT {
            match self.search(id.as_str(), None).await {
                Ok((located, _)) => match located.record.state {
                    ContainerState::Frozen | ContainerState::Arriving => misses = 0,
                    _ => return Ok(Some(located)),
                },
                Err(Cause::Choice(ChoiceError::NotFound { unreached, .. })) if unreached.is_empty() => misses += 1,
                Err(cause @ (Cause::Choice(ChoiceError::NotFound { .. }) | Cause::Client(_))) => {
                    unreached = Some(cause)
                }
                Err(cause) => return Err(cause),
            }
            if misses == SEARCH_MISSES {
                break;
            }
            tokio::time::sleep(SEARCH_PAUSE).await;
        }
        if let Some(cause) = unreached.filter(|_| misses < SEARCH_MISSES) {
            return Err(cause);
        }
        Ok(None)
    }

    /// Warns of a node that could not be asked; once, however often it is asked.
    pub fn warn(&self, error: &ClientError) {
        let text = drover_model::Explained::from_chain(error).reason;
        if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
            self.printer.warning(&text);
        }
    }
}

/// Asks several nodes at once; the answers in the order of the nodes.
pub async fn ask_each<T: Send + 'static, F: Future<Output = Result<T, ClientError>> + Send + 'static>(
    clients: Vec<Client>,
    call: impl Fn(Client) -> F,
) -> Vec<(Client, Result<T, ClientError>)> {
    let mut calls = JoinSet::new();
    for (index, client) in clients.iter().enumerate() {
        let call = call(client.clone());
        calls.spawn(async move { (index, call.await) });
    }
    let mut answers = calls.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    clients.into_iter().zip(answers.into_iter().map(|(_, answer)| answer)).collect()
}
