//! The report of a migration that has ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, ContainerName, MigrationId, Mode, NodeName, PageCount, Phase, Prediction};

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The container runs on the target, and nowhere else.
    Moved,
    /// Something failed before the decision; the container runs on the source as before.
    RolledBack,
    /// Something failed and the container runs on neither side; the reason says what is left and where.
    Failed,
    /// Its files are on the target, as was wished; the container runs on the source as before.
    Synced,
}

impl Outcome {
    /// Whether the container runs on the source as before.
    #[must_use]
    pub fn stays(self) -> bool {
        matches!(self, Self::RolledBack | Self::Synced)
    }
}

/// One round of copying.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Round {
    /// Pages sent.
    pub pages: PageCount,
    /// Bytes that crossed, memory and files.
    pub bytes: Bytes,
    /// How long it took in milliseconds.
    pub ms: f64,
    /// Pages that were dirty again when it ended.
    pub dirty_after: PageCount,
    /// Of the bytes, those of files.
    #[serde(default)]
    pub files: Bytes,
    /// About how many bytes of files had changed again when it ended.
    #[serde(default)]
    pub files_after: Bytes,
}

impl Round {
    /// What crossed, memory and files together, in pages.
    #[must_use]
    pub fn load(&self) -> PageCount {
        together(self.pages, self.files)
    }

    /// What there was to be sent again when it ended, memory and files together, in pages.
    #[must_use]
    pub fn load_after(&self) -> PageCount {
        together(self.dirty_after, self.files_after)
    }
}

/// Pages and files together, in pages.
fn together(pages: PageCount, files: Bytes) -> PageCount {
    PageCount(pages.0.saturating_add(files.0.div_ceil(PageCount::PAGE)))
}

/// How pages were packed that crossed in rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PackedPages {
    /// Pages that crossed as they are.
    pub none: PageCount,
    /// Pages packed by LZ4.
    pub lz4: PageCount,
    /// Pages packed by Zstandard.
    pub zstd: PageCount,
}

/// What `drover migrate --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The migration's identity.
    pub id: MigrationId,
    /// The container.
    pub container: ContainerName,
    /// The node it left.
    pub from: NodeName,
    /// The node it went to.
    pub to: NodeName,
    /// How it ended.
    pub outcome: Outcome,
    /// From the order to freeze until the source knows that the target has resumed (or until the source has
    /// thawed again), in milliseconds by the source's clock. Unknown when the source's agent was restarted in between.
    pub downtime_ms: Option<f64>,
    /// From the order until everything is settled, in milliseconds by the source's clock.
    pub total_ms: f64,
    /// Milliseconds in each phase that was entered.
    #[schema(value_type = BTreeMap<String, f64>)]
    pub phases: BTreeMap<Phase, f64>,
    /// The rounds of copying; the last one is the one while frozen.
    pub rounds: Vec<Round>,
    /// All bytes that the source wrote to the link, TLS not counted.
    pub bytes_sent: Bytes,
    /// Of them memory pages.
    pub bytes_memory: Bytes,
    /// Of them files: the upper layer, volumes, tmpfs contents and the log, and what was missing of the image.
    pub bytes_disk: Bytes,
    /// Of the files: layers of the image that the target lacked.
    #[serde(default)]
    pub bytes_image: Bytes,
    /// How the pages of the rounds were packed.
    #[serde(default)]
    pub packed: PackedPages,
    /// How memory crossed.
    pub mode: Mode,
    /// When memory followed the container: how long it ran on the target while pages of it were on the source alone, in
    /// milliseconds. Had the source been lost in that time, the container would have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure_ms: Option<f64>,
    /// From when it stood still until the target had all of its files, in milliseconds by the source's clock. Memory crosses,
    /// and the processes are dumped, at the same time. Unknown when the target did not come to restore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_frozen_ms: Option<f64>,
    /// What was expected of it when it began, where something was known to expect it from: a plan that was made
    /// (`drover migrate --dry-run`), or an earlier move of the container from this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Prediction>,
    /// Why it ended so, in one sentence.
    pub reason: String,
    /// What the reader can do about a failure.
    pub hint: Option<String>,
}
