//! What can go wrong with a cluster's own things.

use std::io;
use std::path::PathBuf;

use drover_model::{NodeName, UserName};

/// Something about the cluster that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was attempted, as a verb.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file that makes no sense.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A directory that is a cluster's already.
    #[error("{} belongs to a cluster already", .0.display())]
    Taken(PathBuf),
    /// A key or certificate could not be made or read.
    #[error("cannot {attempt}")]
    Certificate {
        /// What was attempted.
        attempt: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate of an authority that cannot be read.
    #[error("the authority's certificate cannot be read")]
    Authority,
    /// A document that its authority has not signed, or that makes no sense.
    #[error("the cluster's document is not signed by its authority")]
    Unsigned,
    /// A text that is no token.
    #[error("this is no join token")]
    NoToken,
    /// A token that is not known, was used, or is too old.
    #[error("the token is not valid: it is unknown, was used already, or has expired")]
    InvalidToken,
    /// A token that was made for another name.
    #[error("the token is for a node of another name")]
    OtherName,
    /// Too many tokens wait to be used.
    #[error("there are too many tokens that nobody has used")]
    ManyTokens,
    /// Too many attempts to join.
    #[error("too many attempts to join came from that address")]
    ManyTries,
    /// A node of this name.
    #[error("there is a node {0} in the cluster already")]
    NodeExists(NodeName),
    /// A user of this name.
    #[error("there is a user {0} in the cluster already")]
    UserExists(UserName),
    /// No node of this name.
    #[error("there is no node {0} in the cluster")]
    NoNode(NodeName),
    /// No user of this name.
    #[error("there is no user {0} in the cluster")]
    NoUser(UserName),
    /// The node with the authority cannot be removed.
    #[error("node {0} has the key of the cluster's authority")]
    IsAuthority(NodeName),
    /// The last administrator.
    #[error("user {0} is the last administrator")]
    LastAdmin(UserName),
    /// Another node has the key.
    #[error("the key of the cluster's authority is on node {0}")]
    Elsewhere(NodeName),
    /// The address that a node would have is another's.
    #[error("node {0} has this address already")]
    AddressTaken(NodeName),
}

impl ClusterError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Taken(_) => "choose another directory, or remove this one if that cluster is no more".into(),
            Self::NoToken => "`drover node token` prints one; pass on all of it".into(),
            Self::InvalidToken => {
                "make a new one with `drover node token`: each works once, and for as long as --ttl says".into()
            }
            Self::OtherName => "join under the name that the token was made for, or make one without --name".into(),
            Self::ManyTokens => "wait until some have expired".into(),
            Self::ManyTries => "wait a minute".into(),
            Self::NodeExists(name) => format!("choose another name, or `drover node remove {name}` first"),
            Self::UserExists(name) => format!("choose another name, or `drover user revoke {name}` first"),
            Self::NoNode(_) | Self::NoUser(_) => "`drover cluster show` lists them".into(),
            Self::IsAuthority(_) => "it cannot leave its own cluster".into(),
            Self::LastAdmin(_) => "add another one with `drover user add NAME --role admin` first".into(),
            Self::Elsewhere(name) => format!("ask {name}; it must be up"),
            Self::AddressTaken(name) => format!("`drover node remove {name}` first, if that node is no more"),
            Self::Unsigned => "it may be of another cluster".into(),
            Self::File { .. } | Self::Parse { .. } | Self::Certificate { .. } | Self::Authority => return None,
        })
    }
}
