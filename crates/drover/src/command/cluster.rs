//! `drover cluster`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_api::{Client, ClusterDocument, ClusterNode, ClusterUser, Context, NodeEndpoint, SignedDocument};
use drover_cluster::{Authority, ClusterError, Directory, KeyRequest, believe, fresh_enrolment, write_private};
use drover_model::{Identity, NodeName, Role, UserName};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::open;
use crate::cluster::Cluster;
use crate::failure::{Cause, Doing, Failure};
use crate::print::Printer;
use crate::table::Table;

/// How long certificates of nodes are valid, in days, when nobody says otherwise.
const DAYS: u32 = 7;
/// How long the certificate of the first administrator is valid, in days.
const ADMIN_DAYS: i64 = 30;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make a cluster: its authority, its first node and its first administrator
    Init(InitArgs),
    /// Show the nodes and users of the cluster
    Show,
}

/// What a node's configuration needs to know.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// The directory for the node's keys, certificates and configuration; it must be new
    #[arg(long, default_value = "/etc/drover/cluster")]
    pub dir: PathBuf,
    /// The node's name
    #[arg(long)]
    pub name: NodeName,
    /// Where its agent listens, and the others find it: an address of this machine, with a port if not 7780
    #[arg(long, value_parser = address)]
    pub address: SocketAddr,
    /// The network link that containers' interfaces stand on
    #[arg(long, default_value = "eth0")]
    uplink: String,
    /// Addresses for containers that ask for none; ranges of nodes must not overlap
    #[arg(long, requires = "prefix")]
    pool: Option<IpNet>,
    /// The prefix length of the whole network of the pool
    #[arg(long, requires = "pool")]
    prefix: Option<u8>,
    /// The default gateway of containers
    #[arg(long, requires = "pool")]
    gateway: Option<IpAddr>,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// The cluster's name, for people
    #[arg(long, default_value = "drover")]
    cluster: String,
    /// The name of the first administrator
    #[arg(long, default_value = "admin")]
    admin: UserName,
    /// For how many days certificates of nodes are valid; agents renew them in time
    #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=365))]
    certificate_days: u32,
}

/// The port of an agent when none is given.
const PORT: u16 = 7780;

fn address(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse().or_else(|_| text.parse().map(|address: IpAddr| SocketAddr::new(address, PORT)));
    let address = with_port.map_err(|_| format!("{text:?} is no address: use 192.0.2.11 or 192.0.2.11:7780"))?;
    if address.ip().is_unspecified() {
        Err("the others must find it: use an address of this machine".into())
    } else {
        Ok(address)
    }
}

/// Does what was asked of the cluster.
pub fn init(args: &InitArgs, printer: Printer) -> Result<(), Failure> {
    let made = make(args).doing(|| format!("make cluster {}", args.cluster))?;
    let NodeArgs { dir, name, .. } = &args.node;
    let value =
        json!({ "cluster": args.cluster, "node": name, "configuration": made.configuration, "context": made.context });
    printer.either(&value, || {
        format!(
            "cluster {} is made, with node {name} and administrator {}\n\
             start the agent:    drover agent --config {}\n\
             use the cluster:    export DROVER_CONTEXT={}\n\
             keep for yourself:  {}",
            args.cluster,
            args.admin,
            made.configuration.display(),
            made.context.display(),
            dir.join("authority").display(),
        )
    })
}

struct Made {
    configuration: PathBuf,
    context: PathBuf,
}

fn make(args: &InitArgs) -> Result<Made, ClusterError> {
    let now = OffsetDateTime::now_utc();
    let directory = Directory::make(&args.node.dir)?;
    let authority = Authority::make(&directory, &args.cluster, now)?;
    let node = ClusterNode { name: args.node.name.clone(), address: args.node.address, enrolment: fresh_enrolment() };
    let user = ClusterUser { name: args.admin.clone(), role: Role::Admin, enrolment: fresh_enrolment() };

    let key = KeyRequest::new()?;
    let lifetime = (now, time::Duration::days(args.certificate_days.into()));
    let identity = Identity::Node(node.name.clone());
    let certificate = authority.certify(&identity, Some(node.address.ip()), &node.enrolment, &key.request, lifetime)?;
    write_private(&directory.node(), key.with(&certificate).as_bytes())?;

    let key = KeyRequest::new()?;
    let lifetime = (now, time::Duration::days(ADMIN_DAYS));
    let certificate =
        authority.certify(&Identity::User(user.name.clone()), None, &user.enrolment, &key.request, lifetime)?;
    let endpoint = NodeEndpoint { name: node.name.clone(), address: node.address, netns: None };
    let context = Context::inline(&args.cluster, authority.certificate(), &certificate, &key.key, vec![endpoint]);
    let path = directory.top().join("context.json");
    write_private(&path, &context.to_json())?;

    let document = ClusterDocument {
        cluster: args.cluster.clone(),
        version: 1,
        signed_at: now.format(&Rfc3339).unwrap_or_default(),
        authority: node.name.clone(),
        certificate_days: args.certificate_days,
        nodes: vec![node],
        users: vec![user],
    };
    write_document(&directory, &authority.endorse(&document)?)?;
    let configuration = write_configuration(&directory, &args.node)?;
    Ok(Made { configuration, context: path })
}

/// Writes the first document that a node believes.
pub fn write_document(directory: &Directory, signed: &SignedDocument) -> Result<(), ClusterError> {
    // Texts are always JSON.
    write_private(&directory.document(), &serde_json::to_vec_pretty(signed).unwrap_or_default())
}

/// Writes the configuration of a node's agent.
pub fn write_configuration(directory: &Directory, args: &NodeArgs) -> Result<PathBuf, ClusterError> {
    #[derive(Serialize)]
    struct Pool {
        range: IpNet,
        prefix: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        gateway: Option<IpAddr>,
    }
    #[derive(Serialize)]
    struct Member<'a> {
        directory: &'a std::path::Path,
    }
    #[derive(Serialize)]
    struct Configuration<'a> {
        name: &'a NodeName,
        listen: SocketAddr,
        uplink: &'a str,
        cluster: Member<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pool: Option<Pool>,
    }
    let pool = args.pool.zip(args.prefix).map(|(range, prefix)| Pool { range, prefix, gateway: args.gateway });
    let cluster = Member { directory: directory.top() };
    let configuration = Configuration { name: &args.name, listen: args.address, uplink: &args.uplink, cluster, pool };
    // Strings and numbers are always TOML.
    let text = toml::to_string(&configuration).unwrap_or_default();
    write_private(&directory.configuration(), text.as_bytes())?;
    Ok(directory.configuration())
}

/// The document of the cluster as the nodes tell it, the newest of all.
pub async fn document(cluster: &Cluster) -> Result<ClusterDocument, Cause> {
    let answers = cluster.ask(None, async |client: Client| client.cluster(None).await).await?;
    let credentials = Context::find()?.credentials()?;
    let documents = answers.into_iter().filter_map(|(_, signed)| believe(&signed?, credentials.authority()).ok());
    documents.max_by_key(|document| document.version).ok_or(Cause::Cluster(ClusterError::Unsigned))
}

/// The node that has the authority's key.
pub async fn authority(cluster: &Cluster) -> Result<(Client, ClusterDocument), Cause> {
    let document = document(cluster).await?;
    Ok((cluster.client(&document.authority)?.clone(), document))
}

/// Shows who belongs to the cluster.
pub async fn show(printer: Printer) -> Result<(), Failure> {
    let action = || "show the cluster".to_owned();
    let cluster = open(printer, action)?;
    let document = document(&cluster).await.doing(action)?;
    printer.either(&document, || table(&document))
}

fn table(document: &ClusterDocument) -> String {
    let ClusterDocument { cluster, version, signed_at, authority, .. } = document;
    let mut nodes = Table::new(&["NODE", "ADDRESS", "AUTHORITY"]);
    for node in &document.nodes {
        let has_key = if node.name == *authority { "yes" } else { "" };
        nodes.row([node.name.to_string(), node.address.to_string(), has_key.to_owned()]);
    }
    let mut users = Table::new(&["USER", "ROLE"]);
    for user in &document.users {
        users.row([user.name.to_string(), user.role.to_string()]);
    }
    format!("cluster {cluster}, version {version} of {signed_at}\n\n{}\n{}", nodes.render(), users.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_usual_port_and_must_be_found_by_others() {
        assert_eq!(address("192.0.2.1").unwrap().to_string(), "192.0.2.1:7780");
        assert_eq!(address("[fd77::1]:99").unwrap().to_string(), "[fd77::1]:99");
        assert!(address("0.0.0.0:7780").is_err() && address("n1").is_err());
    }
}
