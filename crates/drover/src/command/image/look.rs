//! `drover image inspect` and `drover image history`.

use clap::Args;
use drover_api::{Client, ImageDetail};
use drover_model::{ImageStep, NodeName};
use serde::Serialize;

use crate::cluster::ask_each;
use crate::command::open;
use crate::failure::{Doing, Failure};
use crate::print::{self, Printer};
use crate::table::Table;

#[derive(Debug, Args)]
pub struct LookArgs {
    /// The image's name or digest
    name: String,
    /// The node; by default all nodes that have it
    #[arg(long)]
    node: Option<NodeName>,
}

/// An image on one node.
#[derive(Debug, Serialize)]
struct Placed {
    node: NodeName,
    #[serde(flatten)]
    image: ImageDetail,
}

/// Prints all that is known of an image on each node that has it, as JSON in any case.
pub async fn inspect(args: LookArgs, printer: Printer) -> Result<(), Failure> {
    printer.value(&find(&args, printer, "inspect").await?)
}

/// Prints an image's steps, the last one first. Where the name leads to several images it is that of the first node.
pub async fn history(args: LookArgs, printer: Printer) -> Result<(), Failure> {
    let found = find(&args, printer, "show the history of").await?;
    let steps = found.first().map(|placed| steps(&placed.image)).unwrap_or_default();
    printer.either(&steps, || table(&steps))
}

/// Asks the nodes; those that do not have it do not matter, as long as one has.
async fn find(args: &LookArgs, printer: Printer, verb: &str) -> Result<Vec<Placed>, Failure> {
    let action = || format!("{verb} image {}", args.name);
    let cluster = open(printer, action)?;
    let name = args.name.clone();
    let answers = ask_each(cluster.some(args.node.as_ref()).doing(action)?, move |client: Client| {
        let name = name.clone();
        async move { client.image(&name).await }
    });
    let mut found = Vec::new();
    let (mut missing, mut failed) = (None, None);
    for (client, answer) in answers.await {
        match answer {
            Ok(image) => found.push(Placed { node: client.node_name().clone(), image }),
            Err(error) if error.is_not_found() => missing = Some(error),
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => cluster.warn(&error),
        }
    }
    match (found.is_empty(), failed.or(missing)) {
        (true, Some(error)) => Err(error).doing(action),
        (false, Some(error)) if !error.is_not_found() => {
            cluster.warn(&error);
            Ok(found)
        }
        _ => Ok(found),
    }
}

/// A step with what it made.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Step {
    #[serde(flatten)]
    step: ImageStep,
    /// The layer, if it made one.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<drover_model::ImageLayer>,
}

/// The steps with their layers, the last one first. Layers that no step tells of have steps of their own.
fn steps(image: &ImageDetail) -> Vec<Step> {
    let mut layers = image.layers.iter().cloned();
    let told = image.history.iter().map(|step| {
        let layer = if step.empty_layer { None } else { layers.next() };
        Step { step: step.clone(), layer }
    });
    let mut steps: Vec<_> = told.collect();
    steps.extend(layers.map(|layer| Step { step: ImageStep::default(), layer: Some(layer) }));
    steps.reverse();
    steps
}

fn table(steps: &[Step]) -> String {
    const LONGEST: usize = 60;
    let mut table = Table::new(&["CREATED", "LAYER", "SIZE", "CREATED BY"]);
    for Step { step, layer } in steps {
        let created = step.created.as_deref().and_then(print::since).map(|span| format!("{span} ago"));
        let by = step.created_by.clone().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let by: String = by.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        let (id, size) = match layer {
            Some(layer) => (layer.diff_id.hex()[..12].to_owned(), layer.size.to_string()),
            None => Default::default(),
        };
        table.row([created.unwrap_or_default(), id, size, by]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use drover_api::ImageInfo;
    use drover_model::{Bytes, Digest, ImageConfig, ImageLayer};

    use super::*;

    #[test]
    fn steps_have_their_layers_and_the_last_is_first() {
        let step =
            |by: &str, empty_layer| ImageStep { created_by: Some(by.into()), empty_layer, ..ImageStep::default() };
        let layer = |byte| ImageLayer {
            diff_id: Digest::from_sha256([byte; 32]),
            size: Bytes(1 << 20),
            tar_size: Bytes(2 << 20),
        };
        let digest = Digest::from_sha256([9; 32]);
        let image = ImageDetail {
            info: ImageInfo { digest, names: vec![], size: Bytes(0), imported_at: String::new() },
            architecture: "amd64".into(),
            config: ImageConfig::default(),
            history: vec![step("RUN  make\tall", false), step("CMD", true), step("COPY", false)],
            layers: vec![layer(0xaa), layer(0xbb), layer(0xcc)],
            references: vec![],
        };
        let expected = "CREATED   LAYER          SIZE      CREATED BY\n\
                        -         cccccccccccc   1.0 MiB   -\n\
                        -         bbbbbbbbbbbb   1.0 MiB   COPY\n\
                        -         -              -         CMD\n\
                        -         aaaaaaaaaaaa   1.0 MiB   RUN make all\n";
        assert_eq!(table(&steps(&image)), expected);
    }
}
