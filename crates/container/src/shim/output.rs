//! What a container prints: read from its streams, written to its log, told to whoever listens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drover_model::{LogRecord, LogStream};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::log::{LogReader, LogWriter};

/// What listeners hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Printed(LogStream, Vec<u8>),
    Logged(LogRecord),
    Exited(i32),
}

/// How many events a listener may be behind before it is dropped: a slow reader must not stop the container.
const BEHIND: usize = 4096;
/// What is kept for whoever attaches first, in bytes.
const BACKLOG: usize = 64 << 10;
/// How much is read at once, in bytes.
const GULP: usize = super::Channel::PIECE;

#[derive(Debug)]
struct State {
    sources: Vec<(LogStream, OwnedFd)>,
    log: LogWriter,
    printed: Vec<SyncSender<Event>>,
    logged: Vec<SyncSender<Event>>,
    backlog: Option<Vec<(LogStream, Vec<u8>)>>,
    backlog_length: usize,
    /// How the program ended, once it has; without a status it goes on elsewhere.
    end: Option<Option<i32>>,
}

/// The container's output. All of it passes under one lock, so that log, listeners and drains agree on the order.
#[derive(Debug)]
pub(super) struct Output {
    state: Mutex<State>,
    ended: Condvar,
}

impl Output {
    pub fn new(log: LogWriter) -> Arc<Self> {
        let state = State {
            sources: Vec::new(),
            log,
            printed: Vec::new(),
            logged: Vec::new(),
            backlog: Some(Vec::new()),
            backlog_length: 0,
            end: None,
        };
        Arc::new(Self { state: Mutex::new(state), ended: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with a log that has come since: the container's own, from where it was.
    pub fn continue_in(&self, log: LogWriter) {
        self.lock().log = log;
    }

    /// Reads from these streams until each has ended.
    pub fn pump(self: &Arc<Self>, sources: Vec<(LogStream, OwnedFd)>) -> io::Result<()> {
        for (_, source) in &sources {
            rustix::io::ioctl_fionbio(source, true)?;
        }
        let waiting: Vec<_> =
            sources.iter().map(|(_, source)| source.try_clone()).collect::<io::Result<Vec<OwnedFd>>>()?;
        self.lock().sources = sources;
        let output = Arc::clone(self);
        std::thread::Builder::new().name("output".into()).spawn(move || {
            let mut waiting = waiting;
            while !waiting.is_empty() {
                let mut polled: Vec<_> = waiting.iter().map(|source| PollFd::new(source, PollFlags::IN)).collect();
                match poll(&mut polled, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => break,
                }
                let ready: Vec<_> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
                drop(polled);
                let mut state = output.lock();
                let ended = state.read_ready(&ready, GULP);
                drop(state);
                let mut index = 0;
                waiting.retain(|_| {
                    index += 1;
                    !ended.contains(&(index - 1))
                });
            }
            output.ended.notify_all();
        })?;
        Ok(())
    }

    /// Reads and logs everything that the frozen container has printed.
    pub fn drain(&self) {
        let mut state = self.lock();
        while state.read_all() {}
    }

    /// Waits, bounded, until every stream has ended: the container is dead, so they end by themselves unless a
    /// process outside holds them.
    pub fn wait_ended(&self, patience: Duration) {
        let state = self.lock();
        let wait = self.ended.wait_timeout_while(state, patience, |state| !state.sources.is_empty());
        drop(wait);
        self.drain();
    }

    /// Hears what is printed from now on; the first listener also what was printed before. One that comes after the end
    /// hears of it all the same.
    pub fn attach(&self) -> (Vec<(LogStream, Vec<u8>)>, Receiver<Event>) {
        let (sender, receiver) = sync_channel(BEHIND);
        let mut state = self.lock();
        state.printed.push(sender);
        if let Some(status) = state.end {
            tell_end(&mut state.printed, status);
        }
        (state.backlog.take().unwrap_or_default(), receiver)
    }

    /// Reads the log as it is now, and hears what is added.
    pub fn follow(&self, directory: &std::path::Path) -> io::Result<(LogReader, Receiver<Event>)> {
        let (sender, receiver) = sync_channel(BEHIND);
        let mut state = self.lock();
        let reader = LogReader::open(directory)?;
        state.logged.push(sender);
        if let Some(status) = state.end {
            tell_end(&mut state.logged, status);
        }
        Ok((reader, receiver))
    }

    /// Tells everybody that the program has ended; without a status it goes on elsewhere, and they only hear no more.
    pub fn exited(&self, status: Option<i32>) {
        let mut state = self.lock();
        state.end = Some(status);
        tell_end(&mut state.printed, status);
        tell_end(&mut state.logged, status);
    }
}

impl State {
    /// Reads once from each ready source; gives those that have ended, by their index before removal.
    fn read_ready(&mut self, ready: &[bool], gulp: usize) -> Vec<usize> {
        let mut ended = Vec::new();
        for (index, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            if self.sources.get(index).is_some() && self.read_one(index, gulp) == Read::Ended {
                ended.push(index);
            }
        }
        for index in ended.iter().rev() {
            self.sources.remove(*index);
        }
        ended
    }

    /// Reads once from every source; whether any gave something.
    fn read_all(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.sources.len() {
            any |= self.read_one(index, GULP) == Read::Some;
        }
        any
    }

    fn read_one(&mut self, index: usize, gulp: usize) -> Read {
        let mut buffer = vec![0; gulp];
        let (stream, source) = &self.sources[index];
        let stream = *stream;
        match rustix::io::read(source.as_fd(), &mut buffer[..]) {
            Ok(0) => Read::Ended,
            Ok(length) => {
                buffer.truncate(length);
                self.take(stream, buffer);
                Read::Some
            }
            Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
            // A terminal whose last slave was closed says EIO.
            Err(_) => Read::Ended,
        }
    }

    fn take(&mut self, stream: LogStream, bytes: Vec<u8>) {
        // A full disk must not stop the container; what cannot be logged is lost to the log alone.
        if let Ok(records) = self.log.append(stream, &bytes) {
            for record in records {
                tell(&mut self.logged, &Event::Logged(record));
            }
        }
        if let Some(backlog) = &mut self.backlog
            && self.backlog_length + bytes.len() <= BACKLOG
        {
            self.backlog_length += bytes.len();
            backlog.push((stream, bytes.clone()));
        }
        tell(&mut self.printed, &Event::Printed(stream, bytes));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Read {
    Some,
    Nothing,
    Ended,
}

/// Tells all listeners; one that is too far behind, or gone, is dropped.
fn tell(listeners: &mut Vec<SyncSender<Event>>, event: &Event) {
    listeners.retain(|listener| match listener.try_send(event.clone()) {
        Ok(()) => true,
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
    });
}

/// Tells all listeners of the end, which is the last that they hear.
fn tell_end(listeners: &mut Vec<SyncSender<Event>>, status: Option<i32>) {
    if let Some(status) = status {
        tell(listeners, &Event::Exited(status));
    }
    listeners.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_after_the_end_hears_what_was_said_and_of_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::new(LogWriter::open(directory.path()).unwrap());
        output.lock().take(LogStream::Stdout, b"hello\n".to_vec());
        output.exited(Some(7));
        let (backlog, events) = output.attach();
        assert_eq!(backlog, [(LogStream::Stdout, b"hello\n".to_vec())]);
        assert_eq!(events.iter().collect::<Vec<_>>(), [Event::Exited(7)]);
        let (log, events) = output.follow(directory.path()).unwrap();
        assert_eq!(log.map(|record| record.text).collect::<Vec<_>>(), ["hello\n"]);
        assert_eq!(events.iter().collect::<Vec<_>>(), [Event::Exited(7)]);
    }

    #[test]
    fn whoever_comes_after_a_departure_hears_of_no_end() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::new(LogWriter::open(directory.path()).unwrap());
        output.exited(None);
        assert_eq!(output.attach().1.iter().count(), 0);
    }
}
