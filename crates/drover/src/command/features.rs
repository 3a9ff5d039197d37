//! `drover agent features`.

use clap::Args;
use drover_api::{Client, ContextError};
use drover_model::{NodeFeatures, NodeName};

use crate::cluster::Cluster;
use crate::failure::{Cause, Doing, Failure};
use crate::print::Printer;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct FeaturesArgs {
    /// Only those of this node
    #[arg(long)]
    node: Option<NodeName>,
    /// Those of this machine, without asking an agent
    #[arg(long, conflicts_with = "node")]
    here: bool,
}

/// Shows what the machines of all nodes can do; where there is no context, what this one can.
pub async fn execute(args: FeaturesArgs, printer: Printer) -> Result<(), Failure> {
    let action = || "show what machines can do".to_owned();
    let cluster = match Cluster::open(printer) {
        _ if args.here => None,
        Err(Cause::Context(ContextError::Unknown)) if args.node.is_none() => None,
        opened => Some(opened.doing(action)?),
    };
    let all = match cluster {
        Some(cluster) => {
            let answers = cluster.ask(args.node.as_ref(), async |client: Client| client.features().await);
            answers.await.doing(action)?.into_iter().map(|(_, features)| features).collect()
        }
        None => vec![drover_agent::features_here()],
    };
    printer.either(&all, || all.iter().map(text).collect::<Vec<_>>().join("\n"))
}

fn text(node: &NodeFeatures) -> String {
    let tracking = node.tracking.as_deref().unwrap_or("nothing: no rounds of memory while a container runs");
    let mut table = Table::new(&["FEATURE", "", "FOUND", "FOR"]);
    for feature in &node.features {
        table.row([
            feature.name.clone(),
            if feature.available { "yes" } else { "no" }.into(),
            feature.found.clone().unwrap_or_default(),
            feature.purpose.clone(),
        ]);
    }
    let mut text = format!("{}: writes are followed by {tracking}\n{}", node.node, table.render());
    for feature in &node.features {
        if let Some(hint) = &feature.hint {
            text.push_str(&format!("hint: {}: {hint}\n", feature.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use drover_model::Feature;

    use super::*;

    #[test]
    fn what_is_missing_is_followed_by_what_to_do() {
        let feature = |name: &str, found: Option<&str>, hint: Option<&str>| Feature {
            name: name.into(),
            available: hint.is_none(),
            purpose: "moving".into(),
            found: found.map(str::to_owned),
            hint: hint.map(str::to_owned),
        };
        let features = vec![feature("criu", Some("4.2.0"), None), feature("wings", Some("none"), Some("grow some"))];
        let node = NodeFeatures { node: "n1".parse().unwrap(), tracking: Some("soft-dirty".into()), features };
        let expected = "n1: writes are followed by soft-dirty\n\
                        FEATURE         FOUND   FOR\n\
                        criu      yes   4.2.0   moving\n\
                        wings     no    none    moving\n\
                        hint: wings: grow some\n";
        assert_eq!(text(&node), expected);
    }
}
