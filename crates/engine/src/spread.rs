//! Which node each container of a drained one goes to: pure.

use drover_model::{Bytes, NodeName};

/// A node that containers may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub name: NodeName,
    /// How many containers run there, those among them that are on their way.
    pub running: u64,
    /// The memory that they could still get, in bytes.
    pub memory: u64,
}

/// Where a container may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The best node first, and then where else it has room; empty: nowhere.
    pub nodes: Vec<NodeName>,
    pub why: String,
}

/// A target needs twice a container's memory for a moment: in what has crossed, and in its processes.
const TIMES: u64 = 2;

/// Chooses for containers of these sizes in bytes; the choices are in their order. Large ones choose first, for they fit in
/// fewer places. A container goes where the fewest run, and of these where the most memory is left.
pub(crate) fn spread(sizes: &[u64], mut nodes: Vec<Candidate>) -> Vec<Choice> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(sizes[*index]));
    let mut choices = vec![Choice { nodes: Vec::new(), why: String::new() }; sizes.len()];
    for index in order {
        choices[index] = choose(sizes[index], &mut nodes);
    }
    choices
}

fn choose(size: u64, nodes: &mut [Candidate]) -> Choice {
    nodes.sort_by(|a, b| (a.running, b.memory, &a.name).cmp(&(b.running, a.memory, &b.name)));
    let needed = size.saturating_mul(TIMES);
    let with_room: Vec<NodeName> =
        nodes.iter().filter(|node| node.memory >= needed).map(|node| node.name.clone()).collect();
    let Some(best) = with_room.first().and_then(|best| nodes.iter_mut().find(|node| node.name == *best)) else {
        return Choice { nodes: Vec::new(), why: nowhere(needed, nodes) };
    };
    let run =
        if best.running == 1 { "1 container runs".to_owned() } else { format!("{} containers run", best.running) };
    let why = match with_room.len() {
        1 => format!("{run} there; no other node has room"),
        several => format!("{run} there, the fewest of {several} nodes with room"),
    };
    best.running += 1;
    best.memory = best.memory.saturating_sub(size);
    Choice { nodes: with_room, why }
}

fn nowhere(needed: u64, nodes: &[Candidate]) -> String {
    let left = nodes.iter().map(|node| format!("{} has {}", node.name, Bytes(node.memory)));
    match left.collect::<Vec<_>>().join(", ") {
        left if left.is_empty() => "there is no node that takes it".to_owned(),
        left => format!("no node has the {} that it needs for a moment: {left}", Bytes(needed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn candidate(name: &str, running: u64, memory: u64) -> Candidate {
        Candidate { name: name.parse().unwrap(), running, memory: memory * MIB }
    }

    fn first(choices: &[Choice]) -> Vec<&str> {
        choices.iter().map(|choice| choice.nodes.first().map_or("-", NodeName::as_str)).collect()
    }

    #[test]
    fn containers_go_where_the_fewest_run() {
        let nodes = vec![candidate("n2", 3, 1000), candidate("n3", 1, 1000), candidate("n4", 1, 900)];
        let choices = spread(&[MIB; 7], nodes);
        assert_eq!(first(&choices), ["n3", "n4", "n3", "n4", "n2", "n3", "n4"]);
        assert_eq!(choices[0].why, "1 container runs there, the fewest of 3 nodes with room");
        assert_eq!(choices[0].nodes.len(), 3, "the others are where it may go instead");
    }

    #[test]
    fn a_large_container_goes_where_it_has_room_and_chooses_first() {
        let nodes = vec![candidate("n2", 9, 200), candidate("n3", 0, 50)];
        let choices = spread(&[10 * MIB, 100 * MIB, 10 * MIB], nodes);
        assert_eq!(first(&choices), ["n3", "n2", "n3"]);
        assert_eq!(choices[1].why, "9 containers run there; no other node has room");
    }

    #[test]
    fn what_was_given_away_is_gone() {
        let choices = spread(&[40 * MIB; 3], vec![candidate("n2", 0, 100)]);
        assert_eq!(first(&choices), ["n2", "-", "-"]);
        assert_eq!(choices[2].why, "no node has the 80.0 MiB that it needs for a moment: n2 has 60.0 MiB");
        assert_eq!(spread(&[1], Vec::new())[0].why, "there is no node that takes it");
    }
}
