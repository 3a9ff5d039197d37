//! What the source does while the container still runs: rounds, surveys, and slowing it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes as Piece;
use drover_disk::delta;
use drover_memory::{RoundError, Rounds, Sums};
use drover_model::{Bytes, Explained, PageCount, Round};
use drover_packing::{LinkRate, Outlet};
use tokio::runtime::Handle;

use super::Departure;
use crate::container::{Container, lock};
use crate::error::failure;
use crate::exec::alone;
use crate::link::StreamSender;
use crate::standstill::Standstill;
use crate::trees::trees;

/// The least that a slowed container is left, in thousandths of a processor.
const LEAST_MILLIS: u32 = 20;

const FILES: &str = "cannot send the container's files";

/// A stream that takes nothing more once the migration was given up.
#[derive(Debug)]
pub(super) struct Revocable {
    pub out: StreamSender,
    given_up: Arc<AtomicBool>,
}

impl Outlet for Revocable {
    fn send(&mut self, piece: Piece) -> io::Result<()> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the migration was given up"));
        }
        self.out.send(piece)
    }

    fn rate(&self) -> LinkRate {
        self.out.rate()
    }
}

/// Has every process stand still for a moment: what devices were writing for it has landed then.
fn stand_still_once(container: &Container) -> Result<(), Explained> {
    let _alone = Handle::current().block_on(alone(container))?;
    Standstill::begin(container).map(drop)
}

/// Sends what has changed in the files of a container that is frozen, and ends the stream. CRIU dumps meanwhile: it makes no
/// files in the container's trees.
pub(super) fn end_files(files: &mut delta::Source<Revocable>) -> Result<Bytes, Explained> {
    let begun = Instant::now();
    let sent = files.last().map_err(|error| failure(FILES, &error))?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    tracing::debug!(entries = sent.entries, content = sent.content, bytes = sent.bytes, ms, "last files");
    files.outlet().out.end().map_err(|error| failure(FILES, &error))?;
    Ok(Bytes(sent.bytes))
}

impl Departure {
    /// The rounds until now, or new ones.
    pub(super) fn rounds(&mut self, out: StreamSender) -> Result<Rounds<Revocable>, RoundError> {
        let new = || {
            let out = Revocable { out, given_up: Arc::clone(&self.given_up) };
            Rounds::new(out, self.settings.compression, rand::random(), self.inner.backend)
        };
        self.rounds.take().map_or_else(new, Ok)
    }

    /// One round: sends what the container has written since the last one, in its files and, over `pages_out`, in its memory.
    /// Gives why not when nothing of its memory can be followed.
    pub fn round(
        &mut self,
        pages_out: Option<StreamSender>,
        files_out: StreamSender,
    ) -> Result<(Round, Option<Explained>), Explained> {
        self.check_wanted("cannot send the container")?;
        if let Some(why) = self.unprepared.take() {
            return Err(why);
        }
        let begun = Instant::now();
        let mut files = self.take_files(files_out)?;
        let (pages, files) = std::thread::scope(|scope| {
            let sending = scope.spawn(move || {
                let sent = files.round().map_err(|error| failure(FILES, &error));
                sent.map(|sent| (files, sent))
            });
            let pages = pages_out.map_or(Ok(Ok(Sums::default())), |out| self.memory_round(out));
            (pages, sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let ((files, sent), pages) = (files?, pages?);
        self.files = Some(files);
        let (pages, refused) = pages.map_or_else(|why| (Sums::default(), Some(why)), |pages| (pages, None));
        tracing::debug!(pages = pages.pages, entries = sent.entries, content = sent.content, "a round is sent");
        let round = Round {
            pages: PageCount(pages.pages),
            bytes: Bytes(pages.bytes + sent.bytes),
            ms: begun.elapsed().as_secs_f64() * 1e3,
            files: Bytes(sent.bytes),
            ..Round::default()
        };
        Ok((round, refused))
    }

    /// The trees of files until now, or new ones.
    pub(super) fn take_files(&mut self, out: StreamSender) -> Result<delta::Source<Revocable>, Explained> {
        if let Some(files) = self.files.take() {
            return Ok(files);
        }
        let out = Revocable { out, given_up: Arc::clone(&self.given_up) };
        let having = self.having.take().map_or_else(|| self.told.take(), Ok)?;
        let trees = trees(&self.container);
        let files = delta::Source::beyond(having, out, self.settings.compression, &trees);
        let files = files.map(|files| if self.settings.sync { files.on_disk_alone(&trees) } else { files });
        // Without it what is in the image crosses, too.
        let image = self.inner.images.find(self.container.spec().image_digest.as_str());
        let layers = image.map(|image| image.trees).unwrap_or_default();
        files.map(|files| files.over(layers)).map_err(|error| failure(FILES, &error))
    }

    /// Memory's part of a round.
    fn memory_round(&mut self, out: StreamSender) -> Result<Result<Sums, Explained>, Explained> {
        let attempt = "cannot send memory";
        let pids = self.container.cgroup.pids().map_err(|error| failure(attempt, &error))?;
        if pids.is_empty() {
            return Err(Explained { reason: format!("{attempt}: its program has ended"), hint: None });
        }
        // Before processes that are new are followed, which interrupts them.
        self.container.look_at_sleepers();
        if self.rounds.is_none() {
            self.look_at_use();
        }
        let rounds = self.rounds(out).map_err(|error| failure(attempt, &error))?;
        let rounds = self.rounds.insert(rounds);
        if rounds.meet(&pids)
            && let Err(why) = stand_still_once(&self.container)
        {
            let reason = format!("devices write to its memory, and {}", why.reason);
            return Ok(Err(Explained { reason, ..why }));
        }
        let sent = rounds.round(&pids).map_err(|error| failure(attempt, &error))?;
        *lock(&self.sums) = rounds.sums();
        if !rounds.follows() {
            let why = rounds.refusal().map(|why| failure("its writes cannot be followed", why));
            let why = why.map(|why| match self.inner.backend {
                Some(_) => why,
                None => why.with_hint("`drover agent features` says what is missing"),
            });
            let unknown = || Explained { reason: "it has no process that can be followed".into(), hint: None };
            return Ok(Err(why.unwrap_or_else(unknown)));
        }
        Ok(Ok(sent))
    }

    /// A step whose turn comes when the migration was given up and cleaned up after must leave nothing behind.
    fn check_wanted(&self, attempt: &str) -> Result<(), Explained> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(Explained { reason: format!("{attempt}: the migration was given up"), hint: None });
        }
        Ok(())
    }

    /// Whether the container must stand still while it is surveyed.
    pub fn needs_standstill(&self) -> bool {
        self.rounds.as_ref().is_some_and(Rounds::needs_standstill)
    }

    /// How many pages, and about how many bytes of files, have been written since the round began. It stands still for a moment, if it must: nobody may
    /// execute anything in it then, for which the caller holds `executions` alone.
    pub fn survey(&mut self) -> Result<(PageCount, Bytes), Explained> {
        self.look_at_use();
        // Before the pages, for that takes a while in which others are written.
        self.look_at_mappings();
        // What cannot be listed has gone.
        let pids = self.container.cgroup.pids().unwrap_or_default();
        let container = Arc::clone(&self.container);
        // Before processes with new memory are stopped, which interrupts them.
        container.look_at_sleepers();
        let standstill = self.needs_standstill().then(|| Standstill::begin(&container)).transpose()?;
        let files = self.files.as_ref().map_or(Ok(Bytes(0)), delta::Source::survey);
        let files = files.map_err(|error| failure(FILES, &error))?;
        let Some(rounds) = &mut self.rounds else { return Ok((PageCount(0), files)) };
        let private = rounds.survey();
        drop(standstill);
        // Of shared memory the target has what it has: no write is forgotten, and nobody must wait for it to be read.
        Ok((PageCount(private.0 + rounds.survey_shared(&pids).0), files))
    }

    pub(super) fn look_at_mappings(&mut self) {
        // What cannot be listed has gone.
        self.mappings.look(&self.container.cgroup.pids().unwrap_or_default());
    }

    /// Leaves the container this share, in percent, of the processor time that it uses.
    pub fn slow(&mut self, share: u32) -> Result<(), Explained> {
        let attempt = "cannot slow the container";
        self.check_wanted(attempt)?;
        let unused = || Explained { reason: format!("{attempt}: what it uses cannot be measured"), hint: None };
        // Each step is a share of what it used before it was slowed at all.
        let uses = *self.unslowed.get_or_insert(self.uses.ok_or_else(unused)?);
        let millis = (uses.saturating_mul(share) / 100).max(LEAST_MILLIS);
        self.container.cgroup.limit_cpu(Some(millis)).map_err(|error| failure(attempt, &error))
    }

    /// Measures how much of a processor it uses.
    fn look_at_use(&mut self) {
        let Ok(usage) = self.container.cgroup.stats() else { return };
        let now = Instant::now();
        if let Some((at, before)) = self.used.replace((now, usage.cpu_ns)) {
            let elapsed = now.duration_since(at).as_nanos().max(1);
            let millis = u128::from(usage.cpu_ns.saturating_sub(before)) * 1000 / elapsed;
            self.uses = Some(u32::try_from(millis).unwrap_or(u32::MAX));
        }
    }

    /// Gives a container that stays its processor time back, if it was slowed.
    pub(super) fn hasten(&self) {
        if let Err(error) = self.container.cgroup.limit_cpu(self.container.spec().limits.cpu_millis) {
            tracing::warn!(%error, "the container may stay slow");
        }
    }
}
