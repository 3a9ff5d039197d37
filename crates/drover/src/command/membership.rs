//! `drover node`: which nodes belong to the cluster.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use drover_api::{Admission, Client, JoinRequest, NodeEndpoint, TokenRequest};
use drover_cluster::{ClusterError, Directory, KeyRequest, Token, believe, joining, write_private};
use drover_model::NodeName;
use serde_json::json;

use super::cluster::{NodeArgs, authority, write_configuration, write_document};
use super::open;
use crate::failure::{Cause, Doing, Failure};
use crate::print::{self, Printer};
use crate::unit::span;

/// The longest token that is read.
const LONGEST_TOKEN: u64 = 4096;

#[derive(Debug, Subcommand)]
pub enum MembershipCommand {
    /// Print a token with which one node may join the cluster, once
    Token(TokenArgs),
    /// Make this machine a node of a cluster
    Join(JoinArgs),
    /// Remove a node from the cluster: the others do not speak with it any more
    Remove(RemoveArgs),
    /// Have a node's certificate renewed now; agents do so by themselves in time
    Renew(RemoveArgs),
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// For how long it can be used, a week at most
    #[arg(long, default_value = "1h", value_parser = span)]
    ttl: Duration,
    /// The only name that a node may join under
    #[arg(long)]
    name: Option<NodeName>,
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// A file with the token, or - for standard input: an argument would be seen in lists of processes
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The node
    name: NodeName,
}

/// Does what was asked of the nodes.
pub async fn execute(command: MembershipCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        MembershipCommand::Token(args) => token(args, printer).await,
        MembershipCommand::Join(args) => join(args, printer).await,
        MembershipCommand::Remove(RemoveArgs { name }) => {
            let action = || format!("remove node {name}");
            let cluster = open(printer, action)?;
            let (client, _) = authority(&cluster).await.doing(action)?;
            client.remove_node(&name).await.doing(action)?;
            printer.either(&json!({ "removed": name }), || format!("{name} is removed from the cluster"))
        }
        MembershipCommand::Renew(RemoveArgs { name }) => {
            let action = || format!("renew the certificate of {name}");
            let cluster = open(printer, action)?;
            let client = cluster.client(&name).doing(action)?;
            client.rotate().await.doing(action)?;
            printer.either(&json!({ "renewed": name }), || format!("{name} has a new certificate"))
        }
    }
}

async fn token(args: TokenArgs, printer: Printer) -> Result<(), Failure> {
    let action = || "make a token".to_owned();
    let cluster = open(printer, action)?;
    let (client, _) = authority(&cluster).await.doing(action)?;
    let request = TokenRequest { lifetime_s: args.ttl.as_secs(), name: args.name };
    let answer = client.token(&request).await.doing(action)?;
    if printer.json {
        return printer.value(&answer);
    }
    printer.note(&format!("it works once, until {}", answer.expires_at));
    print::line(&answer.token)
}

async fn join(args: JoinArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("join as node {}", args.node.name);
    let token = Token::decode(&read(&args.token).doing(action)?).doing(action)?;
    let directory = Directory::make(&args.node.dir).doing(action)?;
    let key = KeyRequest::new().doing(action)?;
    let request = JoinRequest {
        id: token.id.clone(),
        secret: token.secret.clone(),
        name: args.node.name.clone(),
        address: args.node.address,
        request: key.request.clone(),
    };
    let endpoint = NodeEndpoint { name: token.node.clone(), address: token.address, netns: None };
    let tls = joining(&token.fingerprint).map_err(Cause::Joining).doing(action)?;
    let admission = Client::new(endpoint, tls).join(&request).await.doing(action)?;
    let configuration = settle(&directory, &args.node, &token, &key, &admission).doing(action)?;
    let value = json!({ "node": args.node.name, "configuration": configuration });
    printer.either(&value, || {
        format!("joined as {}\nstart the agent:  drover agent --config {}", args.node.name, configuration.display())
    })
}

/// Writes what the authority gave.
fn settle(
    directory: &Directory,
    args: &NodeArgs,
    token: &Token,
    key: &KeyRequest,
    admission: &Admission,
) -> Result<PathBuf, ClusterError> {
    // What is trusted from now on is the authority that the token names, whatever was sent.
    let authority = token.authority(&admission.authority)?;
    believe(&admission.document, &authority)?;
    write_private(&directory.authority_certificate(), admission.authority.as_bytes())?;
    write_document(directory, &admission.document)?;
    let configuration = write_configuration(directory, args)?;
    // The last one: with it the directory is a node's.
    write_private(&directory.node(), key.with(&admission.certificate).as_bytes())?;
    Ok(configuration)
}

fn read(path: &Path) -> Result<String, Cause> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(LONGEST_TOKEN).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut text))
    };
    read.map_err(|error| Cause::Read(path.to_owned(), error))?;
    Ok(text)
}
