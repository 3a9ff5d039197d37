//! The bodies about the cluster itself: its document, joining, renewing, users.

use std::net::SocketAddr;

use drover_model::{NodeName, Role, UserName};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Who belongs to a cluster. Its authority alone changes it; every node keeps the newest that it has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterDocument {
    /// The cluster's name, for people.
    pub cluster: String,
    /// Rises with each change.
    pub version: u64,
    /// When it was signed: RFC 3339, UTC.
    pub signed_at: String,
    /// The node that has the key of the cluster's authority.
    pub authority: NodeName,
    /// How long certificates of nodes are valid, in days.
    pub certificate_days: u32,
    /// The nodes.
    pub nodes: Vec<ClusterNode>,
    /// The users.
    pub users: Vec<ClusterUser>,
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterNode {
    /// Its name.
    pub name: NodeName,
    /// Where its agent listens.
    #[schema(value_type = String, example = "192.0.2.11:7780")]
    pub address: SocketAddr,
    /// What its certificates carry since it joined; those of an earlier node of this name carry something else.
    pub enrolment: String,
}

/// A user of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterUser {
    /// The name.
    pub name: UserName,
    /// What the user may do.
    pub role: Role,
    /// What the user's certificates carry since the user was added.
    pub enrolment: String,
}

/// A document as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedDocument {
    /// The JSON of a `ClusterDocument`, byte for byte as it was signed.
    pub document: String,
    /// The authority's signature (ECDSA P-256, SHA-256, ASN.1) in base64.
    pub signature: String,
}

/// The query of `GET /v1/cluster`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ClusterQuery {
    /// Answer nothing (204) unless the document is newer than this version.
    #[serde(default)]
    pub newer_than: Option<u64>,
}

/// `POST /v1/cluster/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// For how many seconds it can be used.
    pub lifetime_s: u64,
    /// The only name that a node may join under; absent: any that is free.
    #[serde(default)]
    pub name: Option<NodeName>,
}

/// A token with which one node joins, once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenAnswer {
    /// The token. Whoever has it may join.
    pub token: String,
    /// Until when: RFC 3339, UTC.
    pub expires_at: String,
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAnswer").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// `POST /v1/join`, over a connection of its own protocol and without a certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Which token.
    pub id: String,
    /// What only who has the token knows.
    pub secret: String,
    /// The node's name.
    pub name: NodeName,
    /// Where its agent will listen.
    #[schema(value_type = String, example = "192.0.2.13:7780")]
    pub address: SocketAddr,
    /// A PKCS #10 request, PEM. Of it the public key alone is used.
    pub request: String,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest").field("name", &self.name).field("address", &self.address).finish_non_exhaustive()
    }
}

/// `POST /v1/cluster/renew`: a certificate for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// A PKCS #10 request, PEM. Of it the public key alone is used.
    pub request: String,
}

/// `POST /v1/cluster/users`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddUserRequest {
    /// The name.
    pub name: UserName,
    /// What the user may do.
    pub role: Role,
    /// A PKCS #10 request, PEM. Of it the public key alone is used.
    pub request: String,
}

/// `POST /v1/cluster/users/NAME`: another role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRequest {
    /// What the user may do from now on.
    pub role: Role,
}

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Admission {
    /// The certificate, followed by that of the authority, PEM.
    pub certificate: String,
    /// The certificate of the authority, PEM.
    pub authority: String,
    /// Who else belongs to the cluster.
    pub document: SignedDocument,
}
