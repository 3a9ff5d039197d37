//! A tiny redis server for tests, which can be told to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How the server treats its client. Numbers count commands since its start, those of the load included.
#[derive(Debug, Clone, Copy)]
pub enum Behaviour {
    /// As it should.
    Good,
    /// Confirms later writes and does not do them.
    ForgetsWritesAfter(u64),
    /// Never stores this key.
    Loses(&'static str),
    /// Changes one byte of this key.
    Damages(&'static str),
    /// Closes the connection.
    ClosesAfter(u64),
    /// Says nothing for a while, once.
    PausesAfter(u64, Duration),
}

/// The server; its threads end with their connections.
#[derive(Debug)]
pub struct FakeServer {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    commands: u64,
    values: HashMap<Vec<u8>, Vec<u8>>,
}

impl FakeServer {
    /// Starts it on a free port.
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let count = connections.clone();
        let state = Arc::new(Mutex::new(State { behaviour, commands: 0, values: HashMap::new() }));
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let state = state.clone();
                thread::spawn(move || serve(stream.unwrap(), &state));
            }
        });
        Self { address, connections }
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut input = BufReader::new(stream.try_clone().ok()?);
    let mut output = stream;
    loop {
        let command = read_command(&mut input)?;
        let reply = state.lock().unwrap().answer(&command)?;
        output.write_all(&reply).ok()?;
    }
}

impl State {
    fn answer(&mut self, command: &[Vec<u8>]) -> Option<Vec<u8>> {
        self.commands += 1;
        match self.behaviour {
            Behaviour::ClosesAfter(count) if self.commands > count => return None,
            Behaviour::PausesAfter(count, pause) if self.commands == count => thread::sleep(pause),
            _ => {}
        }
        if let [set_range, key, offset, bytes] = command {
            assert_eq!(set_range, b"SETRANGE");
            let offset: usize = str::from_utf8(offset).ok()?.parse().ok()?;
            let value = self.values.get_mut(key)?;
            if !matches!(self.behaviour, Behaviour::ForgetsWritesAfter(count) if self.commands > count) {
                value[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            return Some(format!(":{}\r\n", value.len()).into_bytes());
        }
        if let [set, key, value] = command {
            assert_eq!(set, b"SET");
            let forgets = matches!(self.behaviour, Behaviour::ForgetsWritesAfter(count) if self.commands > count);
            let loses = matches!(self.behaviour, Behaviour::Loses(lost) if lost.as_bytes() == key);
            if !forgets && !loses {
                let mut value = value.clone();
                if matches!(self.behaviour, Behaviour::Damages(bad) if bad.as_bytes() == key) {
                    value[7] ^= 1;
                }
                self.values.insert(key.clone(), value);
            }
            return Some(b"+OK\r\n".to_vec());
        }
        let Some(value) = self.values.get(&command[1]) else { return Some(b"$-1\r\n".to_vec()) };
        Some([format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat())
    }
}

fn read_command(input: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let number = |input: &mut dyn BufRead| -> Option<usize> {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        line.get(1..)?.trim().parse().ok()
    };
    let parts = number(input)?;
    (0..parts)
        .map(|_| {
            let mut part = vec![0; number(input)? + 2];
            input.read_exact(&mut part).ok()?;
            part.truncate(part.len() - 2);
            Some(part)
        })
        .collect()
}

/// Waits until something holds, for at most ten seconds.
pub fn wait_for(holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(10), "waited too long");
        thread::sleep(Duration::from_millis(2));
    }
}
