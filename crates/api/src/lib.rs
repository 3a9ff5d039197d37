//! The HTTP API: versioned JSON bodies, the context file, the framed stream of `attach` and `exec`, the client.
//!
//! Every connection is TLS 1.3 with certificates on both sides ([`tls`]). One port serves the API and the migration
//! link; the ALPN protocol tells them apart.

mod body;
mod certificate;
mod client;
mod cluster;
mod connection;
mod context;
mod download;
mod lines;
pub mod routes;
pub mod stream;
mod tether;
pub mod tls;

pub use body::{
    ApiError, AuditQuery, CommitRequest, CreateVolumeRequest, DrainRequest, ExecRequest, ExitStatus, FileShare,
    ImageDetail, ImageInfo, ImportQuery, KillRequest, LogQuery, MigrateRequest, MigrationQuery, OverlayQuery,
    OverlayReport, PruneQuery, PruneReport, PullRequest, PushReport, PushRequest, RegistryCredentials, RemoveQuery,
    ResolveRequest, RunRequest, SessionInput, SessionOutput, StatsEntry, StopRequest, SynthesizeQuery,
};
pub use certificate::Shown;
pub use client::{Client, ImageChunks, SessionLink};
pub use cluster::{
    AddUserRequest, Admission, ClusterDocument, ClusterNode, ClusterQuery, ClusterUser, JoinRequest, RenewRequest,
    RoleRequest, SignedDocument, TokenAnswer, TokenRequest,
};
pub use connection::{ClientError, keep_alive};
pub use context::{Context, ContextError, NodeEndpoint, Pem};
pub use download::OverlayDownload;
pub use drover_model::{LogRecord, LogStream};
pub use lines::LogLines;
pub use tether::Tethered;
