//! What an image says about itself, in the words of the OCI image specification.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, Digest};

/// How an image's program is started. All may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments after them, which a user may replace; the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment, `KEY=VALUE` each.
    pub env: Vec<String>,
    /// Working directory inside.
    pub working_dir: Option<String>,
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    /// The ports on which it listens, `80/tcp` each, ascending.
    pub exposed_ports: Vec<String>,
    /// The directories whose contents shall outlive a container, ascending.
    pub volumes: Vec<String>,
    /// The signal that asks the program to end, by name or number.
    pub stop_signal: Option<String>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImageStep {
    /// When: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// What its maker says about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageLayer {
    /// The SHA-256 of its tar, not compressed: the diff id of the OCI image specification.
    pub diff_id: Digest,
    /// The size of its files, holes not counted.
    pub size: Bytes,
    /// The size of its tar.
    pub tar_size: Bytes,
}
