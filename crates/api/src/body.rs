//! The bodies of requests and answers, version 1.

use std::net::IpAddr;

use drover_model::{
    Bytes, ContainerId, ContainerName, ContainerStats, Digest, Driver, ImageConfig, ImageLayer, ImageStep, Limits,
    LogStream, Mac, NodeName, Priority, RestartPolicy, Settings, Side, TmpfsMount, UserName, VolumeMount, VolumeName,
    WhenLost,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The body of every answer that reports an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// `cannot X: because Y`.
    pub error: String,
    /// What the reader can do about it.
    pub hint: Option<String>,
    /// When a program cannot be run: the status that shells give it, 127 when there is none, 126 when it cannot be
    /// executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
}

/// `POST /v1/migrations/{id}/resolve`: say whose the container of a migration in doubt is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// The node that has it from now on.
    pub keeps: Side,
}

/// `POST /v1/containers`: make a container and start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Its name.
    pub name: ContainerName,
    /// The image, by name or digest.
    pub image: String,
    /// Program and arguments; empty: the image's own.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables in addition to the image's, `KEY=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory; absent: the image's own.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `UID[:GID]`, numeric or a name in the image's `/etc/passwd`; absent: the image's own.
    #[serde(default)]
    pub user: Option<String>,
    /// The host name; absent: the container's name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Addresses, with or without prefix length; empty: one from the node's pool.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Default gateways; empty: the node's.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// The Ethernet address; absent: derived from the container's id.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// What happens when the program ends.
    #[serde(default)]
    #[schema(value_type = String, example = "on-failure:3")]
    pub restart: RestartPolicy,
    /// Volumes to mount; a local one that does not exist is made.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// File systems in memory to mount.
    #[serde(default)]
    pub tmpfs: Vec<TmpfsMount>,
    /// Whether it gets a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Whether its standard input stays open for `attach`.
    #[serde(default)]
    pub stdin_open: bool,
}

/// `POST /v1/containers/NAME/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Seconds between SIGTERM and SIGKILL.
    pub timeout_s: u64,
}

/// `POST /v1/containers/NAME/kill`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// The number of the signal, 1 to 64.
    pub signal: i32,
}

/// `POST /v1/containers/NAME/exec`, answered by an upgrade to a framed stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments; not empty.
    pub args: Vec<String>,
    /// Environment variables in addition to the container's, `KEY=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory; absent: the container's own.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `UID[:GID]`, numeric or a name in the container's `/etc/passwd`; absent: the container's own.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether it gets a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Whether standard input follows in the stream; otherwise it is empty.
    #[serde(default)]
    pub stdin: bool,
}

/// `POST /v1/volumes`: declare a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolumeRequest {
    /// Its name.
    pub name: VolumeName,
    /// Where its files are.
    #[serde(default)]
    pub driver: Driver,
    /// What is mounted: a directory, `HOST:PATH`, or a command with `{target}`; empty for a local one.
    #[serde(default)]
    pub source: String,
    /// Options for whatever mounts it.
    #[serde(default)]
    pub options: Vec<String>,
    /// What happens to containers when it is lost.
    #[serde(default)]
    pub when_lost: WhenLost,
    /// The user who has it; absent: whoever declares it. Only who may use all volumes may name another.
    #[serde(default)]
    pub owner: Option<UserName>,
}

/// `POST /v1/migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// The container, by name or id.
    pub container: String,
    /// The node it shall go to; the source must know it as a peer.
    pub to: NodeName,
    /// How it shall go.
    #[serde(default)]
    pub settings: Settings,
    /// Which moves of the same source it goes before.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

/// `POST /v1/drain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainRequest {
    /// The nodes that containers may go to; empty: all that the node knows.
    pub to: Vec<NodeName>,
    /// How many moves at a time, if fewer than the node's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// How the moves shall go.
    pub settings: Settings,
    /// Which other moves of the node they go before.
    #[serde(skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

/// One container in the answer of `GET /v1/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatsEntry {
    /// The container.
    pub id: ContainerId,
    /// What it uses.
    pub stats: ContainerStats,
}

/// The answer of `POST /v1/containers/NAME/wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExitStatus {
    /// The exit status; 128 + N when signal N ended the program.
    pub status: i32,
}

/// The query of `DELETE /v1/containers/NAME`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemoveQuery {
    /// Whether a running program is killed first.
    #[serde(default)]
    pub force: bool,
}

/// The query of `GET /v1/migrations/ID` and of `GET /v1/drain`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MigrationQuery {
    /// Answer at the next change, but after this many milliseconds at the latest; absent: at once.
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

/// The query of `GET /v1/containers/NAME/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Whether to stay and wait for more.
    #[serde(default)]
    pub follow: bool,
    /// Only this many of the newest records; absent: all.
    #[serde(default)]
    pub tail: Option<usize>,
}

/// The query of `GET /v1/audit`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// How many of the last records; absent: 100.
    #[serde(default)]
    pub tail: Option<usize>,
}

/// An image on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageInfo {
    /// The content.
    pub digest: Digest,
    /// The names that lead to it.
    pub names: Vec<String>,
    /// The size of its files.
    pub size: Bytes,
    /// When it came to this node: RFC 3339, UTC.
    pub imported_at: String,
}

/// An image on a node, with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDetail {
    /// What a list tells.
    #[serde(flatten)]
    pub info: ImageInfo,
    /// For which processors, as OCI calls them: `amd64`, `arm64`.
    pub architecture: String,
    /// How its program is started.
    pub config: ImageConfig,
    /// How it was made, the first step first.
    pub history: Vec<ImageStep>,
    /// Its layers, the lowest first.
    pub layers: Vec<ImageLayer>,
    /// Where registries have it, each as `HOST/REPOSITORY@DIGEST`.
    pub references: Vec<String>,
}

/// The query of `POST /v1/images/NAME`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// Which image of an archive of several: a tag, or a name with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// For which platform, `OS/ARCHITECTURE`; absent: the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// `POST /v1/containers/NAME/commit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// The new image's name.
    pub image: String,
}

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    /// The user's name.
    pub user: String,
    /// The password, or a token in its place.
    pub password: String,
}

/// A password is in no log.
impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryCredentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// `POST /v1/registry/pull`: pull an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// Where it is: `[HOST/]REPOSITORY[:TAG][@DIGEST]`.
    pub reference: String,
    /// What it shall be called; absent: as the reference.
    #[serde(default)]
    pub name: Option<String>,
    /// For which platform, `OS/ARCHITECTURE`; absent: the node's own.
    #[serde(default)]
    pub platform: Option<String>,
    /// Who asks; absent: as the node's configuration says.
    #[serde(default)]
    pub credentials: Option<RegistryCredentials>,
}

/// `POST /v1/registry/push`: push an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    /// The image, by name or digest.
    pub image: String,
    /// Where to: `[HOST/]REPOSITORY[:TAG]`.
    pub reference: String,
    /// Who asks; absent: as the node's configuration says.
    #[serde(default)]
    pub credentials: Option<RegistryCredentials>,
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PushReport {
    /// Where the registry has it: `HOST/REPOSITORY@DIGEST`.
    pub reference: String,
    /// The image.
    pub digest: Digest,
}

/// The query of `GET /v1/overlay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OverlayQuery {
    /// The image to build on, by name or digest.
    pub base: String,
    /// The image to make, by name or digest.
    pub image: String,
    /// How hard it is packed: the level of Zstandard, 1 to 19; absent: 9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
}

/// The query of `POST /v1/overlay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SynthesizeQuery {
    /// The image to build on, by name or digest.
    pub base: String,
    /// What the image shall be called; absent: as the overlay says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What an overlay holds of one kind of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileShare {
    /// How many.
    pub files: u64,
    /// Their size in the image.
    pub bytes: Bytes,
}

/// What an overlay is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OverlayReport {
    /// The image to build on.
    pub base: Digest,
    /// The image that it makes.
    pub image: Digest,
    /// The length of the overlay.
    pub bytes: Bytes,
    /// The length of the tars of all layers of the image: what it would be as an archive.
    pub bytes_image: Bytes,
    /// How many layers the base has not.
    pub layers: u64,
    /// How many layers it has.
    pub layers_reused: u64,
    /// Files of the layers that the base has not, with contents that a file of the base has.
    pub referenced: FileShare,
    /// Those that are made of a similar file of the base.
    pub patched: FileShare,
    /// Those that come as they are.
    pub added: FileShare,
}

/// The query of `POST /v1/prune/images`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PruneQuery {
    /// Whether images with names are removed as well when no container needs them.
    #[serde(default)]
    pub all: bool,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneReport {
    /// Images.
    pub images: Vec<Digest>,
    /// Layers that no image has any more.
    pub layers: Vec<Digest>,
    /// Pieces of layers whose transfer broke off.
    pub partial: u64,
}

/// What a user sends into an attached or executed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionInput {
    /// Standard input.
    Stdin(Vec<u8>),
    /// No more standard input will follow.
    StdinClosed,
    /// The user's terminal has this size now.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
}

/// What comes back from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOutput {
    /// Output.
    Output(LogStream, Vec<u8>),
    /// It ended with this status (128 + N when signal N ended it); the last message.
    Exited(i32),
    /// The session broke for this reason; the last message.
    Failed(String),
}
