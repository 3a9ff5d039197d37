//! Who did what on a node, and who was refused.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ContainerName, Identity, NodeName, Role};

/// One line of a node's audit log. It never holds a body, a variable of an environment or a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// When it was asked for: RFC 3339, UTC.
    pub time: String,
    /// The node that was asked.
    pub node: NodeName,
    /// Who asked; absent: somebody without a certificate.
    pub identity: Option<Identity>,
    /// What the user was at that moment; absent for nodes and for whoever is not known.
    pub role: Option<Role>,
    /// The method of the request, or `LINK` for a migration link.
    pub method: String,
    /// The path of the request without parameters, shortened where it is long.
    pub path: String,
    /// The container that it was about.
    pub container: Option<ContainerName>,
    /// The HTTP status; absent: the caller went away before there was an answer.
    pub status: Option<u16>,
    /// From the request to the head of its answer, in milliseconds.
    pub duration_ms: f64,
    /// Where the caller's connection came from.
    pub address: String,
}
