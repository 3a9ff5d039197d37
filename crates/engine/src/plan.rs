//! What a move would take (`drover migrate --dry-run`): the container is looked at, followed for a moment, and the link is
//! measured. Nothing is moved.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drover_api::MigrateRequest;
use drover_memory::Rounds;
use drover_model::{Bytes, Compression, Explained, Mode, PageCount, Plan, Prediction, Settings, TargetRoom, Written};
use drover_packing::Outlet;
use drover_protocol::{Answer, Decision, Forecast, Question};

use crate::check::Checked;
use crate::container::{Container, lock};
use crate::error::NodeError;
use crate::experience::Seen;
use crate::link::Link;
use crate::node::{Inner, Peer, blocking};
use crate::room::ask;
use crate::standstill::Standstill;

/// For how long writes are followed, in milliseconds, one after the other: short ones say how the curve of pages written begins.
const WINDOWS_MS: [u64; 3] = [30, 100, 300];
/// How often it is tried to follow more than half of what a container holds, and the pause after an attempt.
const ATTEMPTS: u32 = 20;
const MOMENT: Duration = Duration::from_millis(50);
/// What is sent to learn the rate of a link, in bytes. A message holds no more than a MiB.
const PADDING: usize = 900 << 10;
/// How often: TCP begins slowly, and the best one counts.
const WEIGHED: usize = 4;

/// Where pages go that are never sent.
#[derive(Debug)]
struct Nowhere;

impl Outlet for Nowhere {
    fn send(&mut self, _: bytes::Bytes) -> std::io::Result<()> {
        Ok(())
    }
}

impl Inner {
    /// Looks, follows, measures, and says what the move would take.
    pub(crate) async fn plan(self: &Arc<Self>, request: &MigrateRequest) -> Result<Plan, NodeError> {
        let begun = Instant::now();
        let Checked { mut check, container, peer, offer, room, operation } = self.check_held(request).await?;
        let settings = request.settings;
        let (inner, own) = (Arc::clone(self), Arc::clone(&container));
        let (memory, written, without_memory) = blocking(move || inner.follow_a_while(&own)).await;
        drop(operation);
        let bytes_per_second = self.weigh(&peer).await;
        // What is there of its files need not cross again; how much of it has changed nobody knows before both are compared.
        let TargetRoom { copy, image, .. } = room.unwrap_or_default();
        let files = Bytes(offer.upper.saturating_sub(copy.0).saturating_add(image.0));
        let mut experience = lock(&self.experience);
        if let Some(rate) = bytes_per_second {
            experience.note_rate(&peer.name, rate);
        }
        experience.note(&container.id, Seen { memory, files, written: written.clone(), without_memory });
        let rate = experience.rate(&peer.name, settings.bandwidth);
        let Some((forecast, _)) = experience.foresee(&container.id, &peer.name, &settings) else {
            return Err(NodeError::Failed(Explained { reason: "nothing can be foreseen".into(), hint: None }));
        };
        check.took_ms = begun.elapsed().as_secs_f64() * 1e3;
        let (mode, reason, moves) = ending(&forecast.end, settings);
        Ok(Plan {
            check,
            mode,
            predicted: moves.then(|| prediction(&forecast)),
            reason,
            rounds: forecast.rounds,
            memory: Bytes(memory.0 * PageCount::PAGE),
            written,
            files: Bytes(offer.upper),
            rate,
            room,
        })
    }

    /// Follows what a container writes. Gives what it holds in all, what it wrote, and why it cannot be followed.
    fn follow_a_while(&self, container: &Arc<Container>) -> (PageCount, Vec<Written>, Option<String>) {
        let pids = || container.cgroup.pids().unwrap_or_default();
        let held = || PageCount(crate::offer::resident(container) / PageCount::PAGE);
        let refused = |why: String| (held(), Vec::new(), Some(why));
        let mut attempts = 0;
        let (mut rounds, memory) = loop {
            let Ok(mut rounds) = Rounds::new(Nowhere, Compression::None, rand::random(), self.backend) else {
                return refused("there is no memory for it".to_owned());
            };
            // As in a move: to follow a process interrupts its threads.
            container.look_at_sleepers();
            rounds.meet(&pids());
            if !rounds.follows() {
                let why = rounds.refusal().map_or_else(|| "it has no process".to_owned(), ToString::to_string);
                return refused(format!("its writes cannot be followed: {why}"));
            }
            let memory = rounds.pending();
            attempts += 1;
            if memory.0 >= held().0 / 2 || attempts >= ATTEMPTS {
                break (rounds, memory);
            }
            // Seen of one that had arrived up to two tenths of a second before: its large mappings cannot be followed yet.
            drop(rounds);
            std::thread::sleep(MOMENT);
        };
        if memory.0 < held().0 / 2 {
            tracing::debug!(followed = memory.0, held = held().0, "most of a container's memory cannot be followed");
        }
        let mut written = Vec::new();
        for window in WINDOWS_MS {
            let begun = Instant::now();
            std::thread::sleep(Duration::from_millis(window));
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            container.look_at_sleepers();
            let standstill = rounds.needs_standstill().then(|| Standstill::begin(container));
            if standstill.is_some_and(|still| still.is_err()) {
                break;
            }
            written.push(Written { ms, pages: rounds.survey() });
        }
        (memory, written, None)
    }

    /// Measures the link to a peer, in bytes per second; none when it does not answer to that.
    async fn weigh(&self, peer: &Peer) -> Option<f64> {
        let mut link = Link::new(self.connect(peer).await.ok()?, Arc::default());
        let mut weigh = async |bytes: usize| {
            let begun = Instant::now();
            let answer = ask(&mut link, &Question::Weigh { padding: "x".repeat(bytes) }).await;
            (answer == Some(Answer::Weighed)).then(|| begun.elapsed())
        };
        // The time that an empty message takes is not the link's rate.
        let empty = weigh(0).await?;
        let mut best: Option<Duration> = None;
        for _ in 0..WEIGHED {
            let took = weigh(PADDING).await?;
            best = Some(best.map_or(took, |best| best.min(took)));
        }
        link.close().await;
        let least = Duration::from_micros(100);
        best.map(|took| PADDING as f64 / took.saturating_sub(empty).max(least).as_secs_f64())
    }
}

/// What is kept of a forecast, to compare it with what comes.
pub(crate) fn prediction(forecast: &Forecast) -> Prediction {
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    Prediction {
        downtime_ms: ms(forecast.downtime),
        total_ms: ms(forecast.total),
        rounds: u32::try_from(forecast.rounds.len()).unwrap_or(u32::MAX),
        bytes: forecast.bytes,
    }
}

/// How memory crosses then, why, and whether the container moves at all.
fn ending(end: &Decision, settings: Settings) -> (Mode, String, bool) {
    let mode = match (end, settings.mode) {
        (Decision::PostCopy(_), _) => Mode::PostCopy,
        (_, Mode::StopAndCopy) => Mode::StopAndCopy,
        _ => Mode::PreCopy,
    };
    match end {
        Decision::Freeze(why) | Decision::PostCopy(why) => (mode, why.clone(), true),
        Decision::GiveUp(why) => (mode, why.clone(), false),
        _ => (mode, "only its files cross".to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_would_stay_has_no_prediction() {
        let settings = Settings::default();
        assert_eq!(ending(&Decision::GiveUp("no".into()), settings), (Mode::PreCopy, "no".into(), false));
        assert_eq!(ending(&Decision::PostCopy("so".into()), settings), (Mode::PostCopy, "so".into(), true));
        let settings = Settings { mode: Mode::StopAndCopy, ..settings };
        assert_eq!(ending(&Decision::Freeze("all".into()), settings), (Mode::StopAndCopy, "all".into(), true));
    }
}
