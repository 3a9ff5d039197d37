//! `drover-bench flip`: passes connections on, and turns one bit over once a file says on which way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// Bytes that one read asks for.
const READ: usize = 64 << 10;

/// Where from, where to, and when.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Where to pass connections on to.
    #[arg(long, value_name = "IP:PORT")]
    pub to: SocketAddr,
    /// When this file appears, a bit is turned over in what comes next on the way there; the file is removed.
    #[arg(long, value_name = "FILE")]
    pub forth: PathBuf,
    /// The same on the way back.
    #[arg(long, value_name = "FILE")]
    pub back: PathBuf,
}

/// Connections that cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub enum FlipError {
    /// No listener.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// No connection.
    #[error("cannot accept a connection")]
    Accept(#[source] std::io::Error),
}

/// Passes connections on until it is ended.
pub fn run(options: &Options) -> Result<(), FlipError> {
    let listener = TcpListener::bind(options.listen).map_err(|error| FlipError::Listen(options.listen, error))?;
    loop {
        let (near, _) = listener.accept().map_err(FlipError::Accept)?;
        // Whoever connects sees that nobody is there.
        let Ok(far) = TcpStream::connect(options.to) else { continue };
        let (near, far) = (Arc::new(near), Arc::new(far));
        for (from, to, when) in [(&near, &far, &options.forth), (&far, &near, &options.back)] {
            let (from, to, when) = (Arc::clone(from), Arc::clone(to), when.clone());
            thread::spawn(move || {
                // The end of one way is told on the other side, and an error is the end of both.
                let passed = pass(&from, &to, &when);
                let _ = to.shutdown(if passed.is_ok() { Shutdown::Write } else { Shutdown::Both });
            });
        }
    }
}

/// Passes on what comes, until the end.
fn pass(mut from: &TcpStream, mut to: &TcpStream, when: &Path) -> std::io::Result<()> {
    to.set_nodelay(true)?;
    let mut buffer = vec![0; READ];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let bytes = &mut buffer[..length];
        // Who removes the file is the one who turns a bit over.
        if when.exists() && std::fs::remove_file(when).is_ok() {
            turn_over(bytes);
        }
        to.write_all(bytes)?;
    }
}

/// Turns over one bit in the middle.
fn turn_over(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1 << (middle % 8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_bit_is_turned_over_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let when = directory.path().join("now");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (near, listener.accept().unwrap().0)
        };
        let ((mut sender, from), (to, mut receiver)) = (pair(), pair());
        let passing = thread::spawn({
            let when = when.clone();
            move || pass(&from, &to, &when)
        });
        let mut exchange = |text: &[u8]| {
            sender.write_all(text).unwrap();
            let mut got = vec![0; text.len()];
            receiver.read_exact(&mut got).unwrap();
            text.iter().zip(&got).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()
        };
        assert_eq!(exchange(b"before"), 0);
        std::fs::write(&when, "").unwrap();
        assert_eq!((exchange(b"now"), exchange(b"after")), (1, 0));
        assert!(!when.exists());
        drop(sender);
        passing.join().unwrap().unwrap();
    }
}
