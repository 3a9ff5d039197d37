//! `drover image overlay` and `drover image synthesize`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use drover_api::{Client, OverlayDownload, OverlayQuery, OverlayReport, SynthesizeQuery};
use drover_model::{Bytes, NodeName};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::show_placed;
use crate::archive;
use crate::cluster::ask_each;
use crate::command::open;
use crate::failure::{Cause, Doing, Failure};
use crate::print::Printer;

#[derive(Debug, Args)]
pub struct OverlayArgs {
    /// The image that is there where the overlay goes: its name or digest
    base: String,
    /// The image that is to be made there: its name or digest
    image: String,
    /// The file to write; - is standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// How hard it is packed: 1 is fastest, 19 smallest; by default 9
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=19))]
    level: Option<u8>,
    /// The node; by default the first that has both images
    #[arg(long)]
    node: Option<NodeName>,
}

#[derive(Debug, Args)]
pub struct SynthesizeArgs {
    /// The image that the overlay was made for: its name or digest
    base: String,
    /// The overlay
    file: PathBuf,
    /// What the image shall be called; by default as where the overlay was made
    #[arg(long)]
    name: Option<String>,
    /// The node; by default all nodes
    #[arg(long)]
    node: Option<NodeName>,
}

/// An overlay that was made.
#[derive(Debug, Serialize)]
struct Made {
    node: NodeName,
    #[serde(flatten)]
    report: OverlayReport,
    /// How much shorter it is than the tars of all layers.
    bytes_saved: Bytes,
    elapsed_ms: u64,
}

impl Made {
    fn text(&self) -> String {
        let OverlayReport { bytes, bytes_image, layers, layers_reused, referenced, patched, added, .. } = &self.report;
        format!(
            "{bytes} for an image of {bytes_image}: of {} layers the base has {layers_reused}; of the others' files it has {}, \
             {} are patched and {} added",
            layers + layers_reused,
            referenced.files,
            patched.files,
            added.files
        )
    }
}

/// On the first node that has both images.
pub async fn overlay(args: OverlayArgs, printer: Printer) -> Result<(), Failure> {
    let OverlayArgs { base, image, output, level, node } = args;
    let action = || format!("make an overlay of {image} on {base}");
    let cluster = open(printer, action)?;
    let query = OverlayQuery { base: base.clone(), image: image.clone(), level };
    let began = Instant::now();
    let mut missing = None;
    for client in cluster.some(node.as_ref()).doing(action)? {
        match client.overlay(&query).await {
            Ok(mut download) => {
                let to_stdout = output == Path::new("-");
                let kept = if to_stdout {
                    copy(&mut download, &mut io::stdout()).await
                } else {
                    keep(&mut download, &output).await
                };
                kept.doing(action)?;
                let report = download.report().clone();
                let made = Made {
                    node: client.node_name().clone(),
                    bytes_saved: Bytes(report.bytes_image.0.saturating_sub(report.bytes.0)),
                    report,
                    elapsed_ms: began.elapsed().as_millis() as u64,
                };
                if to_stdout {
                    printer.note(&made.text());
                    return Ok(());
                }
                return printer.either(&made, || made.text() + "\n");
            }
            Err(error) if error.is_not_found() => missing = Some(error),
            Err(error) => return Err(error).doing(action),
        }
    }
    missing.map_or(Ok(()), Err).doing(action)
}

/// Writes beside the file and puts it in its place when all has come. What is interrupted leaves nothing.
async fn keep(download: &mut OverlayDownload, path: &Path) -> Result<(), Cause> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let failed = |error| Cause::Write(path.to_owned(), error);
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut file = File::create_new(&beside).map_err(failed)?;
    let mut kept = tokio::select! {
        kept = copy(download, &mut file) => kept,
        _ = interrupted.recv() => Err(Cause::Interrupted),
        _ = terminated.recv() => Err(Cause::Interrupted),
    };
    if kept.is_ok() {
        kept = file.sync_all().and_then(|()| std::fs::rename(&beside, path)).map_err(failed);
    }
    if kept.is_err() {
        // What it failed by is what counts.
        let _ = std::fs::remove_file(&beside);
    }
    kept
}

async fn copy(download: &mut OverlayDownload, out: &mut impl Write) -> Result<(), Cause> {
    while let Some(piece) = download.next().await? {
        out.write_all(&piece)?;
    }
    Ok(out.flush()?)
}

/// On all nodes at once; the first that fails makes the command fail, after the others have ended.
pub async fn synthesize(args: SynthesizeArgs, printer: Printer) -> Result<(), Failure> {
    let SynthesizeArgs { base, file, name, node } = args;
    let action = || format!("synthesize an image from {}", file.display());
    let metadata = std::fs::metadata(&file).map_err(|error| Cause::Read(file.clone(), error)).doing(action)?;
    if metadata.is_dir() {
        return Err(Cause::Read(file.clone(), io::ErrorKind::IsADirectory.into())).doing(action);
    }
    let cluster = open(printer, action)?;
    let query = SynthesizeQuery { base, name };
    let overlay = file.clone();
    let answers = ask_each(cluster.some(node.as_ref()).doing(action)?, move |client: Client| {
        let (query, overlay) = (query.clone(), overlay.clone());
        async move { client.synthesize(&query, archive::stream(&overlay)).await }
    });
    show_placed(&cluster, printer, answers.await, action)
}
