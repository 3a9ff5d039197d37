//! What it takes to bring a tree across in rounds over plain TCP connections, without a container:
//! `travel receive TARGET ADDRESS` on one host, and then `travel send SOURCE ADDRESS CHANGES` on the other.
//!
//! A first round sends what TARGET lacks of SOURCE, for which both are read; the shell command CHANGES changes SOURCE; then a
//! last round is timed, as it is while a container is frozen: the target applies what comes at the same time. `send` prints
//! milliseconds and bytes as JSON.

use std::error::Error;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use drover_disk::delta::{Place, Source, Tree, hear, receive, tell};
use drover_model::Compression;
use drover_packing::Outlet;

/// What the target says when all of a round has arrived.
const STORED: [u8; 1] = [1];
/// How much the target reads at once, in bytes.
const GULP: usize = 1 << 20;

struct Sending(TcpStream);

impl Outlet for Sending {
    fn send(&mut self, piece: Bytes) -> std::io::Result<()> {
        self.0.write_all(&piece)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["receive", target, address] => arrive(Path::new(target), address),
        ["send", source, address, changes] => leave(Path::new(source), address, changes),
        _ => Err("usage: travel receive TARGET ADDRESS | travel send SOURCE ADDRESS CHANGES".into()),
    }
}

fn arrive(target: &Path, address: &str) -> Result<(), Box<dyn Error>> {
    let (path, aside) = (target.join("tree"), target.join("aside"));
    std::fs::create_dir_all(&path)?;
    std::fs::create_dir_all(&aside)?;
    let listener = TcpListener::bind(address)?;
    let ((having, _), (link, _)) = (listener.accept()?, listener.accept()?);
    link.set_nodelay(true)?;
    // When the source has gone its stream breaks off, which is told.
    let stored = || drop((&link).write_all(&STORED));
    let places = [Place { path, aside: Some(aside) }];
    tell(&places, having)?;
    receive(&places, Vec::new, BufReader::with_capacity(GULP, &link), |_, _| Ok(()), stored)?;
    Ok((&link).write_all(&STORED)?)
}

fn leave(source: &Path, address: &str, changes: &str) -> Result<(), Box<dyn Error>> {
    let (having, link) = (TcpStream::connect(address)?, TcpStream::connect(address)?);
    link.set_nodelay(true)?;
    let mut back = link.try_clone()?;
    let mut await_stored = || back.read_exact(&mut [0; STORED.len()]);
    let tree = Tree { path: source.to_owned(), in_memory: false };
    let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;

    let begun = Instant::now();
    let having = hear(having)?;
    let mut rounds = Source::beyond(having, Sending(link), Compression::None, &[tree])?;
    let first = rounds.round()?;
    await_stored()?;
    let first_ms = ms(begun);
    let begun = Instant::now();
    let unchanged = rounds.round()?;
    await_stored()?;
    let unchanged_ms = ms(begun);
    let begun = Instant::now();
    let survey = rounds.survey()?;
    let survey_ms = ms(begun);
    if !Command::new("sh").arg("-c").arg(changes).status()?.success() {
        return Err("the changes failed".into());
    }
    let begun = Instant::now();
    let last = rounds.last()?;
    let sent_ms = ms(begun);
    await_stored()?;
    let last_ms = ms(begun);
    println!(
        "{{\"first_ms\":{first_ms:.1},\"first_bytes\":{},\"unchanged_ms\":{unchanged_ms:.1},\"unchanged_bytes\":{},\
         \"survey_ms\":{survey_ms:.1},\"survey_bytes\":{},\"last_sent_ms\":{sent_ms:.1},\"last_ms\":{last_ms:.1},\
         \"last_content\":{},\"last_bytes\":{}}}",
        first.bytes, unchanged.bytes, survey.0, last.content, last.bytes
    );
    Ok(())
}
