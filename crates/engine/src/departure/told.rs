//! What the target says it has of the container's files, heard beside whatever is done until it is needed.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use drover_disk::LayerError;
use drover_disk::delta::{self, Having};
use drover_model::Explained;
use drover_protocol::Stream;

use crate::container::lock;
use crate::error::failure;
use crate::link::Link;

type Hearing = JoinHandle<Result<Having, LayerError>>;

/// What is being heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Option<Hearing>>>);

impl Told {
    /// Begins to hear what comes over a link. Whoever offers a container must: what nobody takes holds up the link.
    pub fn hear(&self, link: &Link) {
        let Some(input) = link.take_stream(Stream::Having) else { return };
        let hearing = std::thread::Builder::new().name("hear".into()).spawn(move || delta::hear(input));
        *lock(&self.0) = hearing.inspect_err(|error| tracing::warn!(%error, "the target is not heard")).ok();
    }

    /// What was heard, once all of it was; nothing if nobody listened.
    pub fn take(&self) -> Result<Having, Explained> {
        let Some(hearing) = lock(&self.0).take() else { return Ok(Having::default()) };
        let having = hearing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        having.map_err(|error| failure("cannot hear what the target has of the container's files", &error))
    }
}
