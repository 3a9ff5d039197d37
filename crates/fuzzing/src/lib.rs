//! What strangers say, put to the parsers: one body for each target, used by the fuzzer (`fuzz/`) and by the test that
//! replays seeds and regressions.
//!
//! A body takes any bytes and says whether they were taken for valid. It panics when an oracle is hurt: what was decoded
//! is encoded and decoded to the same, nothing outside of a directory has changed, what was taken in fits what was sent.

mod api;
mod files;
mod ground;
mod image;
mod kernel;
mod link;
mod memory;

pub use ground::bound_memory;

/// What is done with any bytes; whether they were taken for valid.
pub type Body = fn(&[u8]) -> bool;

/// A parser, or several that read the same kind of input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also that of its directories and of its program.
    pub name: &'static str,
    /// What it reads, and from whom.
    pub reads: &'static str,
    /// What is done with it.
    pub body: Body,
}

/// All targets.
pub const TARGETS: [Target; 17] = [
    Target { name: "frame", reads: "frames of the link, and pieces of an image's layers", body: link::frame },
    Target { name: "message", reads: "messages of both machines", body: link::message },
    Target { name: "session", reads: "the framed stream of attach and exec", body: api::session },
    Target { name: "api", reads: "bodies of the API, names and units", body: api::bodies },
    Target { name: "config", reads: "the agent's configuration", body: api::config },
    Target { name: "manifest", reads: "manifests, indexes and challenges of registries", body: image::manifest },
    Target { name: "tar", reads: "tars of layers, and archives of images", body: image::tar },
    Target { name: "overlay", reads: "overlays of images", body: image::overlay },
    Target { name: "layer_stream", reads: "trees in one piece (checkpoints)", body: files::layer_stream },
    Target { name: "delta_stream", reads: "trees in rounds", body: files::delta_stream },
    Target { name: "having", reads: "what a target says it has of trees", body: files::having },
    Target { name: "packing", reads: "packed blocks", body: memory::packing },
    Target { name: "page_stream", reads: "pages in rounds, and those that follow", body: memory::page_stream },
    Target { name: "page_index", reads: "the index of stored pages, and wishes", body: memory::page_index },
    Target { name: "criu_image", reads: "images and notes of a checkpoint", body: kernel::criu_image },
    Target { name: "proc", reads: "lists of the kernel, and frames of the network", body: kernel::proc },
    Target { name: "cgroup", reads: "control groups", body: kernel::cgroup },
];

/// The body of a target.
#[must_use]
pub fn body(name: &str) -> Option<Body> {
    TARGETS.iter().find(|target| target.name == name).map(|target| target.body)
}
