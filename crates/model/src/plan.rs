//! What a move is expected to take, said before it begins (`drover migrate --dry-run`), and compared with it afterwards.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, Check, Mode, PageCount, Report, Round};

/// What a move is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// The pause, in milliseconds.
    pub downtime_ms: f64,
    /// From the order until everything is settled, in milliseconds.
    pub total_ms: f64,
    /// Rounds while it still runs.
    pub rounds: u32,
    /// What of its memory and files has to be brought across; what is packed takes less of the link.
    pub bytes: Bytes,
}

/// How far off a prediction was: the outcome less what was expected, as a share of the outcome. 0.1 says that it took longer, and
/// that the prediction was 10 % of the outcome too low.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictionError {
    /// Of the pause.
    pub downtime: f64,
    /// Of the whole.
    pub total: f64,
}

/// What a container wrote to its memory in some time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// How long it was followed, in milliseconds.
    pub ms: f64,
    /// How many pages it wrote to in that time, each counted once.
    pub pages: PageCount,
}

/// Where the rate of the link is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateSource {
    /// The rounds of earlier moves, with all that reading and packing took.
    Moves,
    /// What was sent to the target for this plan.
    Measured,
    /// Nothing: neither could be had.
    Assumed,
}

/// How fast memory and files are expected to cross.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExpectedRate {
    /// Bytes per second, before packing.
    pub bytes_per_second: f64,
    /// Where that is known from.
    pub source: RateSource,
}

/// What there is on the target for a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TargetRoom {
    /// Memory that programs can still get.
    pub memory_available: Bytes,
    /// Disk that is free for what comes; copies that would make room count as free.
    pub disk_free: Bytes,
    /// What is lacking there of the container's image.
    pub image: Bytes,
    /// What is kept there of the container's own files from an earlier stay.
    pub copy: Bytes,
}

/// What `drover migrate --dry-run --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether it can be moved at all.
    #[serde(flatten)]
    pub check: Check,
    /// How its memory is expected to cross.
    pub mode: Mode,
    /// What the move is expected to take; none when the container would stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Prediction>,
    /// Why rounds are expected to end so, in one sentence.
    pub reason: String,
    /// The rounds that are expected while it still runs.
    pub rounds: Vec<Round>,
    /// What it holds that has to cross in the first round.
    pub memory: Bytes,
    /// What it wrote while it was followed for this plan.
    pub written: Vec<Written>,
    /// Its own files and volumes that travel.
    pub files: Bytes,
    /// How fast they cross.
    pub rate: ExpectedRate,
    /// What the target says of its room; none when it cannot say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<TargetRoom>,
}

impl Report {
    /// How far off its prediction was, if there was one and the container moved.
    #[must_use]
    pub fn prediction_error(&self) -> Option<PredictionError> {
        let (predicted, downtime) = (self.predicted?, self.downtime_ms?);
        let share = |outcome: f64, expected: f64| (outcome - expected) / outcome.max(f64::MIN_POSITIVE);
        let (downtime, total) = (share(downtime, predicted.downtime_ms), share(self.total_ms, predicted.total_ms));
        (self.outcome == crate::Outcome::Moved).then_some(PredictionError { downtime, total })
    }
}
