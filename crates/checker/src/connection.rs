//! One TCP connection to a redis server, made once and never again.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::resp::{self, InvalidReply, Reply};
use crate::stop::{STEP, Stop};

/// How long to wait for a first connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a silent peer is still waited for once the run shall end.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that one read asks for.
const READ: usize = 256 << 10;

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It never came up.
    #[error("cannot connect to {0}")]
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
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self, ConnectionError> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&address, CONNECT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(STEP))?;
            stream.set_write_timeout(Some(STEP))?;
            Ok(stream)
        };
        let stream = connect().map_err(|error| ConnectionError::Connect(address, error))?;
        Ok(Self { stream, buffer: vec![0; READ].into(), received: Vec::new(), used: 0 })
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
