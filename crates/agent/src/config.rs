//! The configuration file, TOML.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drover_api::tls::TlsFiles;
use drover_engine::{NodeConfig, Peer, Pool};
use drover_model::{Bandwidth, InvalidUnit, MoveLimits, NodeName, Role, UserName};
use drover_registry::{Access, AccessError};
use ipnet::IpNet;
use serde::Deserialize;
use tokio::sync::watch;

use crate::limits::LimitsConfig;
use crate::roster::Roster;

/// What the configuration file says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The node's name; its certificate carries it as common name and as DNS name.
    pub name: NodeName,
    /// Where the agent listens.
    pub listen: SocketAddr,
    /// Where containers, images and the journal live.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// Sockets and mounts.
    #[serde(default = "default_run")]
    pub run: PathBuf,
    /// The link that containers' interfaces stand on.
    pub uplink: String,
    /// The node's certificate, where no cluster gives it one.
    pub tls: Option<TlsFiles>,
    /// The cluster that the node belongs to; its peers and users are those of the cluster then.
    pub cluster: Option<ClusterConfig>,
    /// Addresses for containers that ask for none.
    pub pool: Option<PoolConfig>,
    /// Nodes that containers may move to and come from.
    #[serde(default)]
    pub peer: Vec<PeerConfig>,
    /// Who may use the API.
    #[serde(default)]
    pub user: Vec<UserConfig>,
    /// How much.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// For how many days a copy is kept of the files of a container that has left, or was sent ahead; 0 for not at all.
    #[serde(default = "default_keep_copies_days")]
    pub keep_copies_days: u32,
    /// How many moves there may be at one time, and how much they may send.
    #[serde(default)]
    pub migrations: MigrationsConfig,
    /// How registries are reached.
    #[serde(default)]
    pub registry: RegistryConfig,
}

/// `[migrations]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationsConfig {
    /// How many containers may be leaving at one time; the others wait for their turn.
    pub outgoing: u32,
    /// How many may be arriving at one time.
    pub incoming: u32,
    /// The most that those that leave may send together, as in `1gbit`; absent: what the network takes.
    pub bandwidth: Option<String>,
}

impl Default for MigrationsConfig {
    fn default() -> Self {
        let MoveLimits { outgoing, incoming } = MoveLimits::default();
        Self { outgoing, incoming, bandwidth: None }
    }
}

impl MigrationsConfig {
    fn bandwidth(&self) -> Result<Option<Bandwidth>, ConfigError> {
        self.bandwidth.as_ref().map(|text| text.parse()).transpose().map_err(ConfigError::Bandwidth)
    }
}

/// `[cluster]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// The directory that `drover cluster init` or `drover node join` has made.
    pub directory: PathBuf,
}

/// `[registry]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Registries, each with its port if it has one, that may be spoken with without TLS.
    pub insecure: Vec<String>,
    /// Files of certificates of authorities, in addition to those of the system.
    pub authorities: Vec<PathBuf>,
    /// A file of credentials as Docker keeps it; absent: `config.json` in `$DOCKER_CONFIG`, if that is set.
    pub credentials: Option<PathBuf>,
}

/// `[pool]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// The range that this node gives out; no other node may give out of it.
    pub range: IpNet,
    /// The prefix length of the network that the range is a part of.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
}

/// `[[peer]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its name.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: SocketAddr,
}

/// `[[user]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// The name in the user's certificate.
    pub name: UserName,
    /// What the user may do.
    pub role: Role,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read configuration file {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is no TOML, lacks a key, or has one that does not exist.
    #[error("cannot parse configuration file {0}")]
    Parse(PathBuf, #[source] toml::de::Error),
    /// The pool contradicts itself.
    #[error("the pool's prefix length {prefix} does not fit its range {range}")]
    Prefix {
        /// The range.
        range: IpNet,
        /// The prefix length.
        prefix: u8,
    },
    /// The gateway lies elsewhere.
    #[error("the pool's gateway {gateway} is not in the network of its range {range}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The range.
        range: IpNet,
    },
    /// Two peers of one name, or the node itself among them.
    #[error("{0} is the name of more than one node")]
    Twice(NodeName),
    /// No move at all.
    #[error("in [migrations], {0} is 0, and nothing could ever move")]
    NoMoves(&'static str),
    /// No bandwidth.
    #[error("in [migrations], the bandwidth makes no sense")]
    Bandwidth(#[source] InvalidUnit),
    /// Two users of one name.
    #[error("{0} is the name of more than one user")]
    TwiceUser(UserName),
    /// Two ways to know who belongs to whom, or none.
    #[error("the configuration needs either [cluster], or [tls] with [[peer]] and [[user]]")]
    Membership,
    /// A bound that would let nobody in.
    #[error("the limit {0} is 0, which lets nobody in")]
    Zero(&'static str),
    /// A directory that depends on where the agent was started.
    #[error("{0} is not an absolute path")]
    Relative(PathBuf),
}

impl AgentConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, has unknown keys or contradicts itself.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        Self::parse(&text, path)
    }

    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    /// When it has unknown keys or contradicts itself.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Parse(path.to_owned(), error))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some(path) = [&self.state, &self.run].into_iter().find(|path| !path.is_absolute()) {
            return Err(ConfigError::Relative(path.clone()));
        }
        for (key, limit) in [("outgoing", self.migrations.outgoing), ("incoming", self.migrations.incoming)] {
            if limit == 0 {
                return Err(ConfigError::NoMoves(key));
            }
        }
        self.migrations.bandwidth()?;
        let is_static = self.tls.is_some() || !self.peer.is_empty() || !self.user.is_empty();
        if self.cluster.is_some() == is_static || self.cluster.is_none() && self.tls.is_none() {
            return Err(ConfigError::Membership);
        }
        let mut names = vec![&self.name];
        for PeerConfig { name, .. } in &self.peer {
            if names.contains(&name) {
                return Err(ConfigError::Twice(name.clone()));
            }
            names.push(name);
        }
        let mut users = BTreeSet::new();
        if let Some(twice) = self.user.iter().find(|user| !users.insert(&user.name)) {
            return Err(ConfigError::TwiceUser(twice.name.clone()));
        }
        if let Some(key) = self.limits.zero() {
            return Err(ConfigError::Zero(key));
        }
        let Some(PoolConfig { range, prefix, gateway }) = self.pool else { return Ok(()) };
        let network = match IpNet::new(range.addr(), prefix) {
            Ok(network) if prefix <= range.prefix_len() => network,
            _ => return Err(ConfigError::Prefix { range, prefix }),
        };
        match gateway {
            Some(gateway) if !network.contains(&gateway) => Err(ConfigError::Gateway { gateway, range }),
            _ => Ok(()),
        }
    }

    /// The peers and users that it names.
    #[must_use]
    pub fn roster(&self) -> Roster {
        Roster {
            peers: self.peer.iter().map(|peer| (peer.name.clone(), None)).collect(),
            users: self.user.iter().map(|user| (user.name.clone(), (user.role, None))).collect(),
        }
    }

    /// The peers that it names.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let peer = |peer: &PeerConfig| Peer { name: peer.name.clone(), address: peer.address, enrolment: None };
        self.peer.iter().map(peer).collect()
    }

    /// What the engine needs to know; `tls` is for links to peers, and `docker` the directory in which Docker's
    /// configuration is, if there is one.
    ///
    /// # Errors
    /// When a file of certificates for registries cannot be read.
    pub fn node(
        self,
        peers: watch::Receiver<Arc<[Peer]>>,
        tls: watch::Receiver<Arc<rustls::ClientConfig>>,
        docker: Option<PathBuf>,
    ) -> Result<NodeConfig, AccessError> {
        let RegistryConfig { insecure, authorities, credentials } = self.registry;
        let credentials = credentials.or_else(|| docker.map(|docker| docker.join("config.json")));
        let registries = Access::new(&authorities, insecure, credentials)?.into();
        let pool = self.pool.map(|PoolConfig { range, prefix, gateway }| Pool { range, prefix, gateway });
        // It was looked at when the file was read.
        let bandwidth = self.migrations.bandwidth().ok().flatten();
        let limits = MoveLimits { outgoing: self.migrations.outgoing, incoming: self.migrations.incoming };
        let Self { name, state, run, uplink, keep_copies_days, .. } = self;
        Ok(NodeConfig { name, state, run, uplink, pool, peers, tls, registries, keep_copies_days, limits, bandwidth })
    }
}

fn default_keep_copies_days() -> u32 {
    7
}

fn default_state() -> PathBuf {
    "/var/lib/drover".into()
}

fn default_run() -> PathBuf {
    "/run/drover".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../contrib/agent.example.toml");

    fn read(text: &str) -> Result<AgentConfig, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        AgentConfig::read(file.path())
    }

    #[test]
    fn the_example_is_valid() {
        let config = read(EXAMPLE).unwrap();
        assert_eq!(config.name.as_str(), "n1");
        assert_eq!(config.peer.len(), 1);
        assert_eq!(config.pool.unwrap().prefix, 16);
        assert!(config.registry.credentials.is_some());
        assert_eq!(config.migrations.bandwidth().unwrap(), Some(Bandwidth(1_000_000_000)));
        assert_eq!(config.user[0].role, Role::Admin);
        assert_eq!(config.limits, LimitsConfig::default());
    }

    #[test]
    fn unknown_keys_are_named() {
        let error = read(&format!("uplonk = 3\n{EXAMPLE}")).unwrap_err();
        let ConfigError::Parse(_, cause) = error else { panic!("{error}") };
        assert!(cause.to_string().contains("uplonk"), "{cause}");
    }

    #[test]
    fn contradictions_are_refused() {
        let gateway = EXAMPLE.replace("\"10.77.0.1\"", "\"10.99.0.1\"");
        assert!(matches!(read(&gateway), Err(ConfigError::Gateway { .. })));
        for prefix in ["25", "33"] {
            let text = EXAMPLE.replace("prefix = 16", &format!("prefix = {prefix}"));
            assert!(matches!(read(&text), Err(ConfigError::Prefix { .. })), "{prefix}");
        }
        let own = EXAMPLE.replace("name = \"n2\"", "name = \"n1\"");
        assert!(matches!(read(&own), Err(ConfigError::Twice(_))));
        let none = EXAMPLE.replace("outgoing = 2", "outgoing = 0");
        assert!(matches!(read(&none), Err(ConfigError::NoMoves("outgoing"))));
        let slow = EXAMPLE.replace("bandwidth = \"1gbit\"", "bandwidth = \"1 gbit/s\"");
        assert!(matches!(read(&slow), Err(ConfigError::Bandwidth(_))));
        let both = EXAMPLE.replace("\n[tls]\n", "\n[cluster]\ndirectory = \"/etc/drover/cluster\"\n\n[tls]\n");
        assert!(matches!(read(&both), Err(ConfigError::Membership)));
        let neither = "name = \"n1\"\nlisten = \"10.77.0.11:7780\"\nuplink = \"eth0\"\n";
        assert!(matches!(read(neither), Err(ConfigError::Membership)));
        read(&format!("{neither}[cluster]\ndirectory = \"/etc/drover/cluster\"\n")).unwrap();
        let twice = EXAMPLE.replace("name = \"bob\"", "name = \"alice\"");
        assert!(matches!(read(&twice), Err(ConfigError::TwiceUser(_))));
        let nobody = EXAMPLE.replace("requests_per_second = 200", "requests_per_second = 0");
        assert!(matches!(read(&nobody), Err(ConfigError::Zero("requests_per_second"))));
        let relative = EXAMPLE.replace("\"/run/drover\"", "\"run\"");
        assert!(matches!(read(&relative), Err(ConfigError::Relative(_))));
    }
}
