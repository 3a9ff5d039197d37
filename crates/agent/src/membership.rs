//! This node as a member of a cluster: the document that it believes, who follows from it, and its own certificate, all
//! of which change while connections are open.

mod office;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drover_api::tls::{API_PROTOCOL, Credentials, LINK_PROTOCOL, TlsError};
use drover_api::{Client, ClientError, ClusterDocument, NodeEndpoint, RenewRequest, Shown, SignedDocument};
use drover_cluster::{Authority, ClusterError, Directory, KeyRequest, believe, joining_server, write_private};
use drover_engine::Peer;
use drover_model::{Identity, NodeName};
use rustls::{ClientConfig, ServerConfig};
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::roster::Roster;
use office::Office;

/// How often other nodes are asked for a newer document.
const ASKING: Duration = Duration::from_secs(5);
/// How often the own certificate is looked at.
const LOOKING: Duration = Duration::from_secs(60);
/// A certificate is renewed when this share of its life is left, one in so many.
const LEFT: i64 = 3;

/// A membership that cannot be had, or a certificate that cannot be renewed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The cluster's own things.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Key and certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The node with the authority.
    #[error("cannot have the certificate renewed")]
    Renew(#[from] ClientError),
    /// A file that makes no sense.
    #[error("the certificate in {0} is not that of node {1}")]
    Name(std::path::PathBuf, NodeName),
}

/// A document and how it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Believed {
    pub signed: SignedDocument,
    pub document: ClusterDocument,
}

/// This node as a member of a cluster.
#[derive(Debug)]
pub(crate) struct Membership {
    directory: Directory,
    name: NodeName,
    /// The authority's certificate, DER.
    authority: Vec<u8>,
    believed: Mutex<Arc<Believed>>,
    /// What the node shows now.
    shown: Mutex<Shown>,
    /// For calls to other nodes.
    client: Mutex<Arc<ClientConfig>>,
    roster: watch::Sender<Arc<Roster>>,
    peers: watch::Sender<Arc<[Peer]>>,
    server: watch::Sender<Arc<ServerConfig>>,
    link: watch::Sender<Arc<ClientConfig>>,
    joining: watch::Sender<Arc<ServerConfig>>,
    /// On the node that has the authority's key.
    office: Option<Office>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Membership {
    /// Opens the one whose files are in `directory`.
    ///
    /// # Errors
    /// When they cannot be read, or are not of this node.
    pub fn open(directory: Directory, name: &NodeName) -> Result<Arc<Self>, MembershipError> {
        let credentials = directory.tls().read()?;
        let authority = credentials.authority().to_vec();
        let path = directory.document();
        let text = std::fs::read(&path).map_err(|source| ClusterError::File {
            attempt: "read",
            path: path.clone(),
            source,
        })?;
        let signed: SignedDocument =
            serde_json::from_slice(&text).map_err(|source| ClusterError::Parse { path, source })?;
        let document = believe(&signed, &authority)?;
        let office = Authority::open(&directory)?.map(|key| Office::open(key, &directory)).transpose()?;
        let shown = own(&credentials, &directory, name)?;
        let membership = Self {
            name: name.clone(),
            authority,
            believed: Mutex::new(Arc::new(Believed { signed, document: document.clone() })),
            shown: Mutex::new(shown),
            client: Mutex::new(credentials.client(API_PROTOCOL)?),
            roster: watch::Sender::new(Arc::default()),
            peers: watch::Sender::new(Arc::default()),
            server: watch::Sender::new(credentials.server()?),
            link: watch::Sender::new(credentials.client(LINK_PROTOCOL)?),
            joining: watch::Sender::new(joining_server(&credentials)?),
            office,
            directory,
        };
        membership.show(&document);
        Ok(Arc::new(membership))
    }

    /// Who is known, at any moment.
    pub fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    /// The other nodes, at any moment.
    pub fn peers(&self) -> watch::Receiver<Arc<[Peer]>> {
        self.peers.subscribe()
    }

    /// What is shown to whoever connects, at any moment.
    pub fn server(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server.subscribe()
    }

    /// What is shown to peers, at any moment.
    pub fn link(&self) -> watch::Receiver<Arc<ClientConfig>> {
        self.link.subscribe()
    }

    /// What is shown to whoever joins, at any moment; nothing where nobody can join.
    pub fn joining(&self) -> Option<watch::Receiver<Arc<ServerConfig>>> {
        self.office.as_ref().map(|_| self.joining.subscribe())
    }

    /// The newest document that was seen.
    pub fn believed(&self) -> Arc<Believed> {
        Arc::clone(&lock(&self.believed))
    }

    /// Believes a document, durably, if it is newer; whether it was. It blocks.
    ///
    /// # Errors
    /// When the authority has not signed it, or the disk refuses.
    pub fn accept(&self, signed: SignedDocument) -> Result<bool, ClusterError> {
        let document = believe(&signed, &self.authority)?;
        let mut believed = lock(&self.believed);
        if document.version <= believed.document.version {
            return Ok(false);
        }
        let path = self.directory.document();
        // Texts are always JSON.
        write_private(&path, &serde_json::to_vec_pretty(&signed).unwrap_or_default())?;
        info!(version = document.version, nodes = document.nodes.len(), "the cluster has changed");
        self.show(&document);
        *believed = Arc::new(Believed { signed, document });
        Ok(true)
    }

    /// Has everybody who depends on it see who belongs to the cluster now.
    fn show(&self, document: &ClusterDocument) {
        let others: Vec<_> = document.nodes.iter().filter(|node| node.name != self.name).collect();
        let peers = others.iter().map(|node| Peer {
            name: node.name.clone(),
            address: node.address,
            enrolment: Some(node.enrolment.clone()),
        });
        self.peers.send_replace(peers.collect());
        let known: BTreeMap<_, _> =
            others.iter().map(|node| (node.name.clone(), Some(node.enrolment.clone()))).collect();
        let users = document.users.iter().map(|user| (user.name.clone(), (user.role, Some(user.enrolment.clone()))));
        self.roster.send_replace(Arc::new(Roster { peers: known, users: users.collect() }));
        if !document.nodes.iter().any(|node| node.name == self.name) {
            warn!("this node was removed from its cluster: the others do not speak with it any more");
        }
    }

    /// Keeps up with the cluster for as long as the agent runs.
    pub async fn keep_up(self: Arc<Self>) {
        let mut asking = tokio::time::interval(ASKING);
        let mut looking = tokio::time::interval(LOOKING);
        let mut changes = self.roster.subscribe();
        loop {
            tokio::select! {
                Ok(()) = changes.changed() => self.tell_others(),
                _ = asking.tick() => self.ask_others().await,
                _ = looking.tick() => {
                    if is_due(lock(&self.shown).validity, OffsetDateTime::now_utc().unix_timestamp())
                        && let Err(error) = self.renew().await
                    {
                        let error = drover_model::Explained::from_chain(&error);
                        warn!(%error, "the node's certificate is not renewed yet");
                    }
                }
            }
        }
    }

    /// Tells all others of a change, from the node that made it. Whoever does not hear it asks later.
    fn tell_others(&self) {
        if self.office.is_none() {
            return;
        }
        let believed = self.believed();
        for node in believed.document.nodes.iter().filter(|node| node.name != self.name) {
            let (client, believed) = (self.client_of(&node.name, node.address), Arc::clone(&believed));
            tokio::spawn(async move {
                if let Err(error) = client.tell(&believed.signed).await {
                    tracing::debug!(%error, to = %client.node_name(), "a node does not hear of the change");
                }
            });
        }
    }

    /// Asks the authority's node, and another one by chance, for a newer document: what one has heard all hear.
    async fn ask_others(&self) {
        let believed = self.believed();
        let document = &believed.document;
        let others: Vec<_> = document.nodes.iter().filter(|node| node.name != self.name).collect();
        let authority = others.iter().position(|node| node.name == document.authority);
        let chance = (!others.is_empty()).then(|| rand::random::<u32>() as usize % others.len());
        let mut chosen: Vec<usize> = authority.into_iter().chain(chance).collect();
        chosen.dedup();
        for node in chosen.into_iter().filter_map(|number| others.get(number)) {
            let client = self.client_of(&node.name, node.address);
            match client.cluster(Some(document.version)).await {
                Ok(Some(signed)) => match self.accept_there(signed).await {
                    Ok(_) => {}
                    Err(error) => warn!(%error, from = %node.name, "a document is not believed"),
                },
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, from = %node.name, "a node does not tell of the cluster"),
            }
        }
    }

    async fn accept_there(&self, signed: SignedDocument) -> Result<bool, ClusterError> {
        tokio::task::block_in_place(|| self.accept(signed))
    }

    fn client_of(&self, name: &NodeName, address: std::net::SocketAddr) -> Client {
        let endpoint = NodeEndpoint { name: name.clone(), address, netns: None };
        Client::new(endpoint, Arc::clone(&lock(&self.client)))
    }

    /// Gets a new certificate for a new key, and shows it from now on. Connections that are open stay open.
    ///
    /// # Errors
    /// When the authority cannot be asked or does not sign, or the disk refuses; nothing has changed then.
    pub async fn renew(&self) -> Result<(), MembershipError> {
        let key = KeyRequest::new()?;
        let believed = self.believed();
        let certificate = if self.office.is_some() {
            tokio::task::block_in_place(|| {
                let identity = Identity::Node(self.name.clone());
                let enrolment = lock(&self.shown).enrolment.clone().unwrap_or_default();
                self.certify(&identity, &enrolment, &key.request)
            })?
        } else {
            let document = &believed.document;
            let authority = document.nodes.iter().find(|node| node.name == document.authority);
            let authority = authority.ok_or_else(|| ClusterError::NoNode(document.authority.clone()))?;
            let client = self.client_of(&authority.name, authority.address);
            client.renew(&RenewRequest { request: key.request.clone() }).await?.certificate
        };
        tokio::task::block_in_place(|| self.take_up(&key.with(&certificate)))
    }

    /// Writes key and certificates, and shows them from now on.
    fn take_up(&self, identity: &str) -> Result<(), MembershipError> {
        let path = self.directory.node();
        let authority = self.directory.tls().read()?;
        let credentials = authority.with_identity(identity, &path)?;
        let shown = own(&credentials, &self.directory, &self.name)?;
        // What cannot be used is not written.
        let (server, joining) = (credentials.server()?, joining_server(&credentials)?);
        let (client, link) = (credentials.client(API_PROTOCOL)?, credentials.client(LINK_PROTOCOL)?);
        write_private(&path, identity.as_bytes())?;
        let until = OffsetDateTime::from_unix_timestamp(shown.validity.1).map(|until| until.to_string());
        info!(until = until.unwrap_or_default(), "the node has a new certificate");
        *lock(&self.shown) = shown;
        *lock(&self.client) = client;
        self.server.send_replace(server);
        self.joining.send_replace(joining);
        self.link.send_replace(link);
        Ok(())
    }
}

/// Whether a certificate with this validity is to be renewed; all in seconds since 1970.
fn is_due((from, to): (i64, i64), now: i64) -> bool {
    to - now <= (to - from) / LEFT
}

/// What the node's own certificate says.
fn own(credentials: &Credentials, directory: &Directory, name: &NodeName) -> Result<Shown, MembershipError> {
    let shown = Shown::read(credentials.certificate());
    let shown = shown.filter(|shown| shown.identity == Identity::Node(name.clone()));
    shown.ok_or_else(|| MembershipError::Name(directory.node(), name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        const DAY: i64 = 86_400;
        let validity = (100 * DAY, 106 * DAY);
        assert!(!is_due(validity, 100 * DAY) && !is_due(validity, 104 * DAY - 1));
        assert!(is_due(validity, 104 * DAY) && is_due(validity, 200 * DAY));
    }
}
