//! Which container, which node: decided from the answers of all nodes. Pure.

use std::collections::BTreeMap;

use drover_model::{ContainerRecord, ContainerState, NodeName};

/// A name that does not lead to one thing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// No node has it.
    #[error("{}", no_node_has(what, name, unreached))]
    NotFound { what: &'static str, name: String, unreached: Vec<NodeName> },
    /// The node that was asked for does not.
    #[error("{node} has no container {name}")]
    NotThere { name: String, node: NodeName },
    /// Several nodes have one.
    #[error("{} each have a container {name}", list(nodes, "and"))]
    Ambiguous { name: String, nodes: Vec<NodeName> },
    /// The context does not name this node.
    #[error("the context names no node {name}")]
    UnknownNode { name: NodeName, known: Vec<NodeName> },
    /// A node must be chosen.
    #[error("the context names more than one node: {}", list(known, "and"))]
    NodeNeeded { known: Vec<NodeName> },
    /// The context is empty.
    #[error("the context names no node")]
    NoNode,
}

impl ChoiceError {
    /// What the reader can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { unreached, .. } if !unreached.is_empty() => None,
            Self::NotFound { what: "container", .. } => Some("`drover ps -a` lists all containers".into()),
            Self::NotFound { what: "volume", .. } => Some("`drover volume ls` lists the volumes".into()),
            Self::NotFound { what: "migration", .. } => Some("`drover migrations` lists all migrations".into()),
            Self::NotFound { .. } => Some("`drover copies ls` lists the copies".into()),
            Self::NotThere { .. } => Some("`drover ps -a` says where each container is".into()),
            Self::Ambiguous { .. } => Some("choose one with --node".into()),
            Self::UnknownNode { known, .. } => Some(format!("use {}", list(known, "or"))),
            Self::NodeNeeded { .. } => Some("choose one with --node".into()),
            Self::NoNode => None,
        }
    }
}

fn no_node_has(what: &str, name: &str, unreached: &[NodeName]) -> String {
    match unreached {
        [] => format!("no node has a {what} {name}"),
        nodes => format!("no node that answers has a {what} {name}, and {} could not be asked", list(nodes, "and")),
    }
}

fn list(nodes: &[NodeName], word: &str) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    match names.as_slice() {
        [] => "none".into(),
        [one] => (*one).into(),
        [most @ .., last] => format!("{} {word} {last}", most.join(", ")),
    }
}

/// One record for each container: while one moves, both nodes know it. The node where it runs speaks for it; where it
/// runs nowhere, the one that has it after more moves and is not only receiving it.
pub fn settle(records: Vec<ContainerRecord>) -> Vec<ContainerRecord> {
    let liveliness = |state| match state {
        ContainerState::Running => 2,
        ContainerState::Arriving => 0,
        _ => 1,
    };
    let rank = |record: &ContainerRecord| (liveliness(record.state), record.generation);
    let mut best: BTreeMap<_, ContainerRecord> = BTreeMap::new();
    for record in records {
        match best.get(&record.spec.id) {
            Some(known) if rank(known) >= rank(&record) => {}
            _ => {
                best.insert(record.spec.id.clone(), record);
            }
        }
    }
    let mut settled: Vec<_> = best.into_values().collect();
    settled.sort_by(|a, b| (&a.spec.name, &a.node).cmp(&(&b.spec.name, &b.node)));
    settled
}

/// The one container that `name` means, of those that nodes found under it.
pub fn choose(
    name: &str,
    found: Vec<ContainerRecord>,
    unreached: Vec<NodeName>,
) -> Result<ContainerRecord, ChoiceError> {
    let mut found = settle(found);
    // A whole name wins over the beginning of another container's id.
    if found.iter().any(|record| record.spec.name.as_str() == name) {
        found.retain(|record| record.spec.name.as_str() == name);
    }
    match found.len() {
        0 => Err(ChoiceError::NotFound { what: "container", name: name.into(), unreached }),
        1 => Ok(found.remove(0)),
        _ => {
            let nodes = found.into_iter().map(|record| record.node).collect();
            Err(ChoiceError::Ambiguous { name: name.into(), nodes })
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A container as a node would report it.
    pub fn record(id: &str, name: &str, node: &str, state: ContainerState, generation: u64) -> ContainerRecord {
        let mut value = serde_json::json!({
            "spec": {
                "id": id, "name": name, "image": "busybox", "hostname": name, "restart": "no",
                "image_digest": format!("sha256:{}", "0".repeat(64)), "created_at": "2026-01-01T00:00:00Z",
                "process": { "args": ["sh"], "env": [], "cwd": "/", "uid": 0, "gid": 0, "terminal": false,
                    "stdin_open": false },
                "limits": {}, "interface": { "mac": "02:00:00:00:00:01", "addresses": ["10.77.1.5/16"],
                    "gateways": [] },
            },
            "node": node, "generation": generation, "restarts": 0,
        });
        let state = serde_json::to_value(state).unwrap();
        value.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_container_on_its_way_is_one_container() {
        let leaving = record("aa", "web", "n1", ContainerState::Frozen, 1);
        let arriving = record("aa", "web", "n2", ContainerState::Arriving, 2);
        let arrived = record("aa", "web", "n2", ContainerState::Running, 2);
        assert_eq!(choose("web", vec![arriving, leaving.clone()], vec![]).unwrap().node.as_str(), "n1");
        assert_eq!(choose("web", vec![leaving, arrived], vec![]).unwrap().node.as_str(), "n2");
    }

    #[test]
    fn a_copy_that_waits_for_a_decision_does_not_hide_the_one_that_runs() {
        let running = record("aa", "web", "n1", ContainerState::Running, 1);
        let promised = record("aa", "web", "n2", ContainerState::Frozen, 2);
        assert_eq!(choose("web", vec![promised, running], vec![]).unwrap().node.as_str(), "n1");
    }

    #[test]
    fn two_containers_of_one_name_are_told_apart_by_node() {
        let found = ["n2", "n1"].map(|node| record(&node.replace('n', "a"), "web", node, ContainerState::Running, 0));
        let error = choose("web", found.into(), vec![]).unwrap_err();
        assert_eq!(error.to_string(), "n1 and n2 each have a container web");
    }

    #[test]
    fn a_name_wins_over_the_beginning_of_an_id() {
        let by_id = record("abc1", "web", "n1", ContainerState::Running, 0);
        let by_name = record("dd", "abc", "n2", ContainerState::Running, 0);
        assert_eq!(choose("abc", vec![by_id, by_name], vec![]).unwrap().node.as_str(), "n2");
    }

    #[test]
    fn what_was_not_found_may_be_where_nobody_answered() {
        let error = choose("web", vec![], vec![]).unwrap_err();
        assert_eq!(error.to_string(), "no node has a container web");
        let unreached = vec!["n3".parse().unwrap(), "n4".parse().unwrap()];
        let error = choose("web", vec![], unreached).unwrap_err();
        let expected = "no node that answers has a container web, and n3 and n4 could not be asked";
        assert_eq!(error.to_string(), expected);
    }
}
