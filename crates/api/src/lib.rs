//! The HTTP API: versioned JSON bodies, the context file, the framed stream of `attach` and `exec`, the client.

mod body;
mod context;

pub use body::{
    ApiError, ExecRequest, ImageInfo, KillRequest, LogQuery, MigrateRequest, RunRequest, SessionInput, SessionOutput,
    StopRequest,
};
pub use context::{Context, ContextError, NodeEndpoint};
pub use drover_model::{LogRecord, LogStream};
