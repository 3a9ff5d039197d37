//! What it takes to bring a tree across in rounds, without a container and without a link: `travel SOURCE TARGET CHANGES`.
//!
//! A first round sends all of SOURCE; the shell command CHANGES changes it; then a last round is timed, as it is while a
//! container is frozen: the target applies what comes at the same time. Prints milliseconds and bytes as JSON.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use bytes::{Buf, Bytes};
use drover_disk::LayerError;
use drover_disk::delta::{Place, Sent, Source, Tree, receive};
use drover_model::Compression;
use drover_packing::Outlet;

struct Sending(SyncSender<Bytes>);

impl Outlet for Sending {
    fn send(&mut self, piece: Bytes) -> std::io::Result<()> {
        self.0.send(piece).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

struct Receiving(Receiver<Bytes>, Bytes);

impl Read for Receiving {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.1.is_empty() {
            self.1 = self.0.recv().unwrap_or_default();
        }
        let length = into.len().min(self.1.len());
        self.1.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, target, changes] = arguments.as_slice() else {
        return Err("usage: travel SOURCE TARGET CHANGES".into());
    };
    let (tree, aside) = (Path::new(target).join("tree"), Path::new(target).join("aside"));
    std::fs::create_dir_all(&tree)?;
    std::fs::create_dir_all(&aside)?;
    let (sending, receiving) = sync_channel(8);
    let (stored, arrived) = sync_channel(1);
    let (ended, end) = sync_channel::<Result<Sent, LayerError>>(1);
    let place = Place { path: tree, aside: Some(aside) };
    let target = std::thread::spawn(move || {
        let received =
            receive(&[place], Vec::new, Receiving(receiving, Bytes::new()), || stored.send(()).unwrap_or(()));
        drop(ended.send(received));
    });

    let tree = Tree { path: source.into(), in_memory: false };
    let mut rounds = Source::new(Sending(sending), Compression::None, &[tree])?;
    let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let first = rounds.round()?;
    arrived.recv()?;
    let first_ms = ms(begun);
    let begun = Instant::now();
    let unchanged = rounds.round()?;
    arrived.recv()?;
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
    end.recv()??;
    let last_ms = ms(begun);
    target.join().map_err(|_| "the target ended")?;
    println!(
        "{{\"first_ms\":{first_ms:.1},\"first_bytes\":{},\"unchanged_ms\":{unchanged_ms:.1},\"unchanged_bytes\":{},\
         \"survey_ms\":{survey_ms:.1},\"survey_bytes\":{},\"last_sent_ms\":{sent_ms:.1},\"last_ms\":{last_ms:.1},\
         \"last_content\":{},\"last_bytes\":{}}}",
        first.bytes, unchanged.bytes, survey.0, last.content, last.bytes
    );
    Ok(())
}
