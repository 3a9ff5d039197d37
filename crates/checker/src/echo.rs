//! `drover-check echo`: the witness inside a container. It answers each number with the same number.
//!
//! It starts nothing and keeps nothing, and reads each connection to its end, so that a container with it is as light as one
//! can be that somebody talks to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde::Serialize;

use crate::numbers::LONGEST_LINE;

/// The stack of the thread of a connection, in bytes.
const STACK: usize = 64 << 10;

/// Where to listen.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen for connections.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
}

/// It goes on until somebody ends it, so there is nothing to report.
#[derive(Debug, Serialize)]
pub struct Report {}

/// An echo that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// No listener.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// No connection.
    #[error("cannot accept a connection")]
    Accept(#[source] std::io::Error),
}

/// Answers until it is ended.
pub fn run(options: &Options) -> Result<Report, EchoError> {
    let listener = TcpListener::bind(options.listen).map_err(|error| EchoError::Listen(options.listen, error))?;
    loop {
        let (stream, _) = listener.accept().map_err(EchoError::Accept)?;
        let answering = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            // Whoever asks sees that the connection is gone.
            let _ = answer(&stream);
        });
        answering.map(drop).map_err(EchoError::Accept)?;
    }
}

fn answer(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut lines, mut out, mut line) = (BufReader::with_capacity(LONGEST_LINE, stream), stream, Vec::new());
    loop {
        line.clear();
        let length = lines.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        out.write_all(&line)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_answered_with_itself_until_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let answering = std::thread::spawn(move || answer(&listener.accept().unwrap().0));
        client.write_all(b"1\n2\n").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).unwrap();
        assert_eq!(answers, "1\n2\n");
        answering.join().unwrap().unwrap();
    }
}
