//! A container's log and its exit status, on whatever node it is in the meantime.

use std::time::Duration;

use drover_api::{ClientError, LogQuery, LogRecord};
use drover_model::ContainerState;

use crate::cluster::{Cluster, Located};
use crate::failure::{Cause, Failure};
use crate::print::Printer;

/// How often in a row a stream may end at once before it is given up.
const TRY_LIMIT: u32 = 50;
/// The pause before another try on the same node.
const TRY_PAUSE: Duration = Duration::from_millis(200);

/// Where in a log the reader is. The log travels with its container, records and all; only its clock changes.
#[derive(Debug, Default)]
struct Position {
    /// The time of the last record and how many in a row had that time.
    last: Option<(u64, usize)>,
    /// The same, counted down, while the log is read again up to that record.
    sought: Option<(u64, usize)>,
    /// The latest time seen; not the last one when a container came to a node whose clock is behind.
    latest: u64,
}

impl Position {
    /// The log will be read again from its beginning.
    fn restart(&mut self) {
        self.sought = self.last;
    }

    /// Whether the next record was not seen before.
    fn passes(&mut self, record: &LogRecord) -> bool {
        if let Some((time, left)) = self.sought {
            if record.time_ns == time {
                self.sought = (left > 1).then_some((time, left - 1));
                return false;
            }
            if record.time_ns <= self.latest {
                return false;
            }
            // The record itself is gone, the log was cut.
            self.sought = None;
        }
        self.latest = self.latest.max(record.time_ns);
        self.last = match self.last {
            Some((time, count)) if time == record.time_ns => Some((time, count + 1)),
            _ => Some((record.time_ns, 1)),
        };
        true
    }
}

/// Prints a container's log.
#[derive(Debug)]
pub struct Follower<'a> {
    cluster: &'a Cluster,
    printer: Printer,
    position: Position,
    begun: bool,
}

/// Why printing ended.
#[derive(Debug)]
enum Ended {
    /// The stream was complete, as far as its node is concerned.
    Complete,
    /// The node could not be asked, or has no such container.
    Broken(ClientError),
}

impl<'a> Follower<'a> {
    /// At the beginning of the log.
    pub fn new(cluster: &'a Cluster, printer: Printer) -> Self {
        Self { cluster, printer, position: Position::default(), begun: false }
    }

    /// Prints what there is and has not been printed.
    pub async fn catch_up(&mut self, located: &Located) -> Result<(), Failure> {
        match self.once(located, LogQuery::default()).await? {
            Ended::Complete => Ok(()),
            Ended::Broken(error) => Err(Failure::new("read the log".into(), error)),
        }
    }

    /// Prints what there is and what comes, until the container is gone, or has ended and its node says no more.
    pub async fn follow(&mut self, mut located: Located, tail: Option<usize>) -> Result<(), Failure> {
        let failed = |name: &str, cause: Cause| Failure::new(format!("follow the log of {name}"), cause);
        let name = located.record.spec.name.to_string();
        let mut tries = 0;
        loop {
            let before = self.position.last;
            let ended = self.once(&located, LogQuery { follow: true, tail }).await?;
            tries = if self.position.last == before { tries + 1 } else { 0 };
            if let Ended::Broken(error) = ended
                && (tries >= TRY_LIMIT || !(error.is_lost() || error.is_not_found()))
            {
                return Err(failed(&name, error.into()));
            }
            let again = self.cluster.locate_again(&located.record.spec.id).await;
            let Some(again) = again.map_err(|cause| failed(&name, cause))? else { return Ok(()) };
            let stayed = again.record.generation == located.record.generation;
            if again.record.state != ContainerState::Running {
                return if stayed { Ok(()) } else { self.catch_up(&again).await };
            }
            if stayed {
                tokio::time::sleep(TRY_PAUSE).await;
            }
            if tries >= TRY_LIMIT {
                return Ok(());
            }
            located = again;
        }
    }

    async fn once(&mut self, located: &Located, query: LogQuery) -> Result<Ended, Failure> {
        // Only the first reading may begin at the tail: later ones must find the last record again.
        let tail = if self.begun { None } else { query.tail };
        self.position.restart();
        let query = LogQuery { tail, ..query };
        let mut lines = match located.client.logs(located.record.spec.id.as_str(), &query).await {
            Ok(lines) => lines,
            Err(error) => return Ok(Ended::Broken(error)),
        };
        loop {
            match lines.next().await {
                Ok(Some(record)) => {
                    if self.position.passes(&record) {
                        self.begun = true;
                        self.printer.log(&record)?;
                    }
                }
                Ok(None) => return Ok(Ended::Complete),
                Err(error) => return Ok(Ended::Broken(error)),
            }
        }
    }
}

/// Waits until a container's program has ended, wherever that will be; where it ended, and its exit status.
pub async fn wait(cluster: &Cluster, mut located: Located) -> Result<(Located, i32), Failure> {
    let failed = |located: &Located, cause| Failure::new(format!("wait for {}", located.record.spec.name), cause);
    let mut tries = 0;
    loop {
        let error = match located.client.wait(located.record.spec.id.as_str()).await {
            Ok(status) => return Ok((located, status)),
            Err(error) => error,
        };
        let again = cluster.locate_again(&located.record.spec.id).await.map_err(|cause| failed(&located, cause))?;
        let Some(again) = again.filter(|_| tries < TRY_LIMIT) else { return Err(failed(&located, error.into())) };
        if again.record.generation == located.record.generation {
            tries += 1;
            tokio::time::sleep(TRY_PAUSE).await;
        } else {
            tries = 0;
        }
        located = again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_api::LogStream;

    fn passed(position: &mut Position, times: &[u64]) -> Vec<u64> {
        let record = |&time_ns: &u64| LogRecord { time_ns, stream: LogStream::Stdout, text: String::new() };
        times.iter().filter(|time| position.passes(&record(time))).copied().collect()
    }

    #[test]
    fn a_log_read_again_goes_on_after_the_last_record() {
        let mut position = Position::default();
        assert_eq!(passed(&mut position, &[1, 2, 2]), [1, 2, 2]);
        position.restart();
        assert_eq!(passed(&mut position, &[1, 2, 2, 2, 3]), [2, 3]);
    }

    #[test]
    fn a_node_whose_clock_is_behind_loses_no_record() {
        let mut position = Position::default();
        passed(&mut position, &[10, 20]);
        position.restart();
        assert_eq!(passed(&mut position, &[10, 20, 15, 16]), [15, 16]);
        position.restart();
        assert_eq!(passed(&mut position, &[10, 20, 15, 16, 30]), [30]);
    }

    #[test]
    fn a_log_that_was_cut_goes_on_with_what_is_newer() {
        let mut position = Position::default();
        passed(&mut position, &[1, 2]);
        position.restart();
        assert_eq!(passed(&mut position, &[3, 4]), [3, 4]);
    }
}
