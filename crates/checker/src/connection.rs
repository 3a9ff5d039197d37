//! One TCP connection to a redis server, made once and never again.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::resp::{self, InvalidReply, Reply};
use crate::stop::{STEP, Stop};

/// How long who is to be connected to may take to listen.
pub const CONNECT: Duration = Duration::from_secs(30);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a silent peer is still waited for once the run shall end.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that one read asks for.
const READ: usize = 256 << 10;

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It did not come up within [`CONNECT`].
    #[error("cannot connect to {0} within {seconds} s", seconds = CONNECT.as_secs())]
    Connect(SocketAddr, #[source] std::io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// It broke.
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    /// Nothing moved for [`PATIENCE`] after the run was asked to end.
    #[error("the server was silent for {} s after the end of the run", PATIENCE.as_secs())]
    Silent,
    /// The server said something that is no answer.
    #[error("the server's answer makes no sense")]
    Invalid(#[from] InvalidReply),
}

/// The connection and what has been received but not been read.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    received: Vec<u8>,
    used: usize,
}

impl Connection {
    /// Connects, once the server listens: nobody says when a container's program does. `None` when it is time to end
    /// before that.
    pub fn open(address: SocketAddr, stop: &Stop) -> Result<Option<Self>, ConnectionError> {
        let failed = |error| ConnectionError::Connect(address, error);
        let Some(stream) = connect(address, stop).map_err(failed)? else { return Ok(None) };
        stream.set_read_timeout(Some(STEP)).and_then(|()| stream.set_write_timeout(Some(STEP))).map_err(failed)?;
        Ok(Some(Self { stream, buffer: vec![0; READ].into(), received: Vec::new(), used: 0 }))
    }

    /// Sends all `bytes`, however long the peer takes them.
    pub fn send(&mut self, mut bytes: &[u8], stop: &Stop) -> Result<(), ConnectionError> {
        let mut quiet = Quiet::default();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    quiet = Quiet::default();
                }
                Err(error) => quiet.bear(error, stop)?,
            }
        }
        Ok(())
    }

    /// Waits for the next answer, for ever if need be.
    pub fn receive(&mut self, stop: &Stop) -> Result<Reply, ConnectionError> {
        let mut quiet = Quiet::default();
        loop {
            if let Some((reply, taken)) = resp::parse(&self.received[self.used..])? {
                self.used += taken;
                return Ok(reply);
            }
            self.received.drain(..self.used);
            self.used = 0;
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(count) => {
                    self.received.extend_from_slice(&self.buffer[..count]);
                    quiet = Quiet::default();
                }
                Err(error) => quiet.bear(error, stop)?,
            }
        }
    }
}

/// Attempts until one succeeds or [`CONNECT`] has passed; `None` when it is time to end before that.
pub fn connect(address: SocketAddr, stop: &Stop) -> std::io::Result<Option<TcpStream>> {
    let begin = Instant::now();
    while !stop.asked() {
        let attempt = TcpStream::connect_timeout(&address, ATTEMPT);
        match attempt.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if begin.elapsed() >= CONNECT => return Err(error),
            Err(_) => stop.sleep_until(Instant::now() + PAUSE),
        }
    }
    Ok(None)
}

/// How long nothing has moved since the run was asked to end.
#[derive(Default)]
struct Quiet(Option<Instant>);

impl Quiet {
    /// A time-out or an interruption is borne while the run goes on, and for [`PATIENCE`] after that.
    fn bear(&mut self, error: std::io::Error, stop: &Stop) -> Result<(), ConnectionError> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            // Our own time-out. ETIMEDOUT is another: the kernel has given up retransmitting.
            ErrorKind::WouldBlock => {
                if stop.asked() && self.0.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                    return Err(ConnectionError::Silent);
                }
                Ok(())
            }
            _ => Err(ConnectionError::Broken(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_server_that_does_not_listen_yet_is_waited_for() {
        // Nobody else uses this one of the many addresses of loopback, so the port stays free in between.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address =
            TcpListener::bind((std::net::Ipv4Addr::new(127, 77, high, low), 0)).unwrap().local_addr().unwrap();
        assert!(TcpStream::connect(address).is_err(), "nobody listens yet");
        let client = thread::spawn(move || connect(address, &Stop::on_file(None)).unwrap().is_some());
        let server = thread::spawn(move || TcpListener::bind(address).unwrap().accept().unwrap());
        server.join().unwrap();
        assert!(client.join().unwrap());
    }

    #[test]
    fn whoever_shall_end_waits_for_no_server() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stop = Stop::on_file(None);
        stop.after(Duration::ZERO);
        assert!(connect(address, &stop).unwrap().is_none());
    }
}
