//! Overlays of images: what the agent's API calls.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use drover_api::{FileShare, ImageInfo, OverlayQuery, OverlayReport, SynthesizeQuery};
use drover_disk::{Difference, Image, Share};
use drover_model::{Bytes, Digest};
use tokio::io::AsyncRead;

use crate::error::NodeError;
use crate::images::{info, read_blocking, refused};
use crate::node::{Node, blocking};

/// How hard overlays are packed by default: with much more effort they become hardly smaller.
const LEVEL: u8 = 9;
/// Above it Zstandard takes memory without measure.
const HIGHEST_LEVEL: u8 = 19;

fn report(difference: Difference) -> OverlayReport {
    let share = |share: Share| FileShare { files: share.files, bytes: Bytes(share.bytes) };
    OverlayReport {
        bytes: difference.length,
        bytes_image: difference.tars,
        layers: difference.layers,
        layers_reused: difference.reused,
        referenced: share(difference.referenced),
        patched: share(difference.patched),
        added: share(difference.added),
        base: difference.base,
        image: difference.image,
    }
}

/// What an image is to be called where it is made again: as it was asked for, or as it is called here.
fn name_for(wanted: &str, image: &Image) -> String {
    let by_digest = wanted.parse::<Digest>().is_ok();
    if by_digest { image.names.first().cloned().unwrap_or_default() } else { wanted.to_owned() }
}

impl Node {
    /// The difference between two images, in a file without a name.
    ///
    /// # Errors
    /// When there is no such image, or the disk refuses.
    pub async fn overlay(&self, query: OverlayQuery) -> Result<(File, OverlayReport), NodeError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let attempt = format!("cannot make an overlay of {} on {}", query.image, query.base);
            let level = query.level.unwrap_or(LEVEL);
            if !(1..=HIGHEST_LEVEL).contains(&level) {
                return Err(NodeError::invalid(
                    format!("{attempt}: there is no level {level}"),
                    "choose one of 1 to 19",
                ));
            }
            let (base, image) = (inner.find_image(&query.base)?, inner.find_image(&query.image)?);
            let made = inner.images.overlay(&base, &image, &name_for(&query.image, &image), level.into());
            made.map(|(file, difference)| (file, report(difference))).map_err(|error| refused(&attempt, &error))
        })
        .await
    }

    /// Makes an image of its base and an overlay.
    ///
    /// # Errors
    /// When there is no such base, the overlay is damaged, hostile or for another base, or the disk refuses.
    pub async fn synthesize(
        &self,
        query: SynthesizeQuery,
        overlay: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<ImageInfo, NodeError> {
        let inner = Arc::clone(&self.inner);
        let SynthesizeQuery { base, name } = query;
        let wanted = base.clone();
        let base = blocking(move || inner.find_image(&wanted)).await?;
        let attempt = match &name {
            Some(name) => format!("cannot synthesize image {name}"),
            None => "cannot synthesize the image".to_owned(),
        };
        let inner = Arc::clone(&self.inner);
        let made = read_blocking(overlay, attempt, move |overlay| {
            inner.images.synthesize(&base, name.as_deref(), overlay, SystemTime::now())
        });
        made.await.map(info)
    }
}
