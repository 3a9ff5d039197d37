//! The words of Drover: ids, units, containers, phases and reports, shared by every other crate.
//!
//! Nothing here has behaviour beyond parsing and printing; a value of one of these types is already valid.

mod access;
mod audit;
mod container;
mod copy;
mod digest;
mod drain;
mod finding;
mod id;
mod image;
mod log;
mod migration;
mod mount;
mod network;
mod node;
mod phase;
mod plan;
mod priority;
mod processor;
mod report;
mod settings;
mod signal;
mod unit;
mod volume;

pub use access::{Action, Caller, Identity, Object, Role, Verdict, decide};
pub use audit::AuditRecord;
pub use container::{
    ContainerRecord, ContainerSpec, ContainerState, ContainerStats, Follows, Limits, ProcessSpec, RestartPolicy,
};
pub use copy::CopyRecord;
pub use digest::{Digest, InvalidDigest};
pub use drain::{DrainMove, DrainState};
pub use finding::{Check, Finding, Process, Severity, objection};
pub use id::{ContainerId, ContainerName, InvalidName, MigrationId, NodeName, UserName, VolumeName};
pub use image::{ImageConfig, ImageLayer, ImageStep};
pub use log::{LogRecord, LogStream};
pub use migration::{MigrationState, Side};
pub use mount::{InvalidMount, Mount, MountKind, MountPoint, TmpfsMount, VolumeMount};
pub use network::{Interface, InvalidMac, Mac, Neighbour};
pub use node::{Explained, Feature, MoveLimits, NodeFeatures, NodeInfo};
pub use phase::Phase;
pub use plan::{ExpectedRate, Plan, Prediction, PredictionError, RateSource, TargetRoom, Written};
pub use priority::Priority;
pub use processor::Processor;
pub use report::{Outcome, PackedPages, Report, Round};
pub use settings::{Compression, Fallback, InvalidStopRule, Mode, Settings, StopRule};
pub use signal::signal;
pub use unit::{Bandwidth, Bytes, InvalidUnit, Moment, PageCount};
pub use volume::{Driver, InvalidVolume, Mark, Sighting, VolumeRecord, VolumeSpec, WhenLost};
