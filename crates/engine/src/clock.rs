//! The node's monotonic clock as the machines' moments.

use std::sync::LazyLock;
use std::time::Instant;

use drover_model::Moment;

static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Now.
pub(crate) fn moment() -> Moment {
    Moment(ZERO.elapsed())
}

/// The instant of a moment, for timers.
pub(crate) fn instant(moment: Moment) -> tokio::time::Instant {
    (*ZERO + moment.0).into()
}
