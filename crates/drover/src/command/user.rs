//! `drover user`: users of the cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_api::{AddUserRequest, Admission, ClusterDocument, Context, NodeEndpoint, RenewRequest, RoleRequest};
use drover_cluster::{KeyRequest, write_private};
use drover_model::{Role, UserName};
use serde_json::json;

use super::cluster::authority;
use super::open;
use crate::failure::{Cause, Doing, Failure};
use crate::print::Printer;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user, and write the file with key, certificate and nodes that the user needs
    Add(AddArgs),
    /// Give a user another role
    Role(RoleArgs),
    /// Remove a user: what its certificates have opened ends
    Revoke(RevokeArgs),
    /// Get yourself a new key and certificate, and the nodes that there are now
    Renew,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The name
    name: UserName,
    /// What the user may do: admin, operator, owner or viewer
    #[arg(long)]
    role: Role,
    /// The file; by default NAME.json here
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RoleArgs {
    /// The name
    name: UserName,
    /// What the user may do from now on: admin, operator, owner or viewer
    role: Role,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The name
    name: UserName,
}

/// Does what was asked of the users.
pub async fn execute(command: UserCommand, printer: Printer) -> Result<(), Failure> {
    match command {
        UserCommand::Add(args) => add(args, printer).await,
        UserCommand::Role(RoleArgs { name, role }) => {
            let action = || format!("give user {name} another role");
            let cluster = open(printer, action)?;
            let (client, _) = authority(&cluster).await.doing(action)?;
            client.set_role(&name, &RoleRequest { role }).await.doing(action)?;
            printer.either(&json!({ "name": name, "role": role }), || format!("{name} is {role}"))
        }
        UserCommand::Revoke(RevokeArgs { name }) => {
            let action = || format!("revoke user {name}");
            let cluster = open(printer, action)?;
            let (client, _) = authority(&cluster).await.doing(action)?;
            client.remove_user(&name).await.doing(action)?;
            printer.either(&json!({ "revoked": name }), || format!("{name} is revoked"))
        }
        UserCommand::Renew => renew(printer).await,
    }
}

async fn add(args: AddArgs, printer: Printer) -> Result<(), Failure> {
    let action = || format!("add user {}", args.name);
    let path = args.output.clone().unwrap_or_else(|| format!("{}.json", args.name).into());
    if path.exists() {
        let taken = Cause::Write(path, std::io::ErrorKind::AlreadyExists.into());
        return Err(taken).doing(action);
    }
    let cluster = open(printer, action)?;
    let (client, _) = authority(&cluster).await.doing(action)?;
    let key = KeyRequest::new().doing(action)?;
    let request = AddUserRequest { name: args.name.clone(), role: args.role, request: key.request.clone() };
    let admission = client.add_user(&request).await.doing(action)?;
    let own = Context::find().doing(action)?;
    write_private(&path, &context(&own, &key, &admission).doing(action)?.to_json()).doing(action)?;
    let value = json!({ "name": args.name, "role": args.role, "file": path });
    printer.either(&value, || {
        format!("{} is added as {}\ngive this file, and nobody else:  {}", args.name, args.role, path.display())
    })
}

async fn renew(printer: Printer) -> Result<(), Failure> {
    let action = || "renew your certificate".to_owned();
    let path = Context::place().doing(action)?;
    let own = Context::read(&path).doing(action)?;
    if !own.is_inline() {
        let why = Cause::Invalid("the context names files of certificates: whoever made those has to renew them");
        return Err(why).doing(action);
    }
    let cluster = open(printer, action)?;
    let (client, _) = authority(&cluster).await.doing(action)?;
    let key = KeyRequest::new().doing(action)?;
    let admission = client.renew(&RenewRequest { request: key.request.clone() }).await.doing(action)?;
    write_private(&path, &context(&own, &key, &admission).doing(action)?.to_json()).doing(action)?;
    printer.either(&json!({ "file": path }), || format!("{} has a new certificate", path.display()))
}

/// The context of whoever got a certificate. Nodes that were known before are reached as they were.
fn context(own: &Context, key: &KeyRequest, admission: &Admission) -> Result<Context, Cause> {
    let document: ClusterDocument = serde_json::from_str(&admission.document.document)
        .map_err(|_| Cause::Invalid("the node does not tell of its cluster"))?;
    let netns = own.nodes.iter().find_map(|node| node.netns.clone());
    let nodes = document.nodes.into_iter().map(|node| NodeEndpoint {
        name: node.name,
        address: node.address,
        netns: netns.clone(),
    });
    let nodes = nodes.collect();
    Ok(Context::inline(&document.cluster, &admission.authority, &admission.certificate, &key.key, nodes))
}
