//! `drover image pull` and `drover image push`.

use std::io::Read;

use clap::Args;
use drover_api::{Client, PullRequest, PushRequest, RegistryCredentials};
use drover_model::NodeName;

use super::show_placed;
use crate::cluster::ask_each;
use crate::command::open;
use crate::failure::{Doing, Failure};
use crate::print::Printer;

/// The longest password in bytes.
const LONGEST_PASSWORD: u64 = 64 << 10;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// The image: [HOST/]REPOSITORY[:TAG][@DIGEST]
    reference: String,
    /// What it shall be called; by default as the reference
    #[arg(long)]
    name: Option<String>,
    /// For which platform, as in linux/arm64; by default the node's own
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
    #[command(flatten)]
    asker: Asker,
    /// The node; by default all nodes
    #[arg(long)]
    node: Option<NodeName>,
}

#[derive(Debug, Args)]
pub struct PushArgs {
    /// The image's name or digest
    name: String,
    /// Where to: [HOST/]REPOSITORY[:TAG]; by default its name
    reference: Option<String>,
    #[command(flatten)]
    asker: Asker,
    /// The node; by default the first that has it
    #[arg(long)]
    node: Option<NodeName>,
}

/// Who asks; by default whom the node's configuration names.
#[derive(Debug, Args)]
struct Asker {
    /// The user's name at the registry
    #[arg(long, requires = "password_stdin")]
    user: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "user")]
    password_stdin: bool,
}

impl Asker {
    fn credentials(self) -> std::io::Result<Option<RegistryCredentials>> {
        let Some(user) = self.user else { return Ok(None) };
        let mut password = String::new();
        std::io::stdin().lock().take(LONGEST_PASSWORD).read_to_string(&mut password)?;
        Ok(Some(RegistryCredentials { user, password: password.trim_end_matches(['\r', '\n']).to_owned() }))
    }
}

/// On all nodes at once; the first that fails makes the command fail, after the others have ended.
pub async fn pull(args: PullArgs, printer: Printer) -> Result<(), Failure> {
    let PullArgs { reference, name, platform, asker, node } = args;
    let action = || format!("pull {reference}");
    let cluster = open(printer, action)?;
    let credentials = asker.credentials().doing(action)?;
    let request = PullRequest { reference: reference.clone(), name, platform, credentials };
    let answers = ask_each(cluster.some(node.as_ref()).doing(action)?, move |client: Client| {
        let request = request.clone();
        async move { client.pull_image(&request).await }
    });
    show_placed(&cluster, printer, answers.await, action)
}

/// From one node that has it.
pub async fn push(args: PushArgs, printer: Printer) -> Result<(), Failure> {
    let PushArgs { name, reference, asker, node } = args;
    let action = || format!("push {name}");
    let cluster = open(printer, action)?;
    let credentials = asker.credentials().doing(action)?;
    let request =
        PushRequest { reference: reference.unwrap_or_else(|| name.clone()), image: name.clone(), credentials };
    let mut missing = None;
    for client in cluster.some(node.as_ref()).doing(action)? {
        match client.image(&name).await {
            Ok(_) => {
                let report = client.push_image(&request).await.doing(action)?;
                return printer.either(&report, || report.reference.clone());
            }
            Err(error) if error.is_not_found() => missing = Some(error),
            Err(error) => {
                cluster.warn(&error);
                missing.get_or_insert(error);
            }
        }
    }
    missing.map_or(Ok(()), Err).doing(action)
}
