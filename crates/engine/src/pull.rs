//! Images that cross between a node and a registry. Everything here blocks; what waits for a registry waits on the runtime.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use drover_disk::{Fetch, Image, ImageError, ImageStore, LARGEST_CONFIG, Partial, architecture, decompress};
use drover_model::{Digest, Explained};
use drover_registry::{
    Blob, Credentials, CredentialsError, InvalidReference, Manifest, Pulled, Reference, Registry, RegistryError,
};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use crate::error::{NodeError, failure};
use crate::node::{Inner, fresh_id};

/// How often a blob is asked for whose transfer breaks off, and the pause before it is asked for again.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// How long a move waits for registries before the source is asked for what is missing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many registries a move asks at most.
const MOST_REFERENCES: usize = 2;

/// Why an image did not cross.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot keep what comes of {0}")]
    Keep(Digest, #[source] io::Error),
    #[error("the registries took too long")]
    Late,
}

impl PullError {
    /// As whoever asked is told, with what helps.
    pub fn explain(&self, attempt: &str) -> NodeError {
        let why = failure(attempt, self);
        let hinted = |hint: &str| why.clone().with_hint(hint);
        match self {
            Self::Reference(_) => NodeError::Invalid(hinted("write it as in registry.example:5000/shop/web:1")),
            Self::Registry(RegistryError::Denied(_)) => NodeError::Failed(hinted(
                "give --user and --password-stdin, or set `credentials` of [registry] in the node's agent.toml",
            )),
            Self::Registry(RegistryError::Unknown { .. }) => NodeError::NotFound(hinted("check the name and the tag")),
            Self::Registry(RegistryError::Tls(..)) => NodeError::Failed(hinted(
                "if its certificate is from an authority of your own, set `authorities` of [registry] in the node's \
                 agent.toml; if it speaks no TLS, `insecure`",
            )),
            Self::Image(error) if error.is_the_images() => NodeError::Invalid(why),
            _ => NodeError::Failed(why),
        }
    }
}

/// A repository, and the thread's way to wait for it.
struct Link {
    registry: Registry,
    handle: Handle,
    until: Option<Instant>,
}

impl Link {
    fn new(inner: &Inner, reference: &Reference, given: Option<Credentials>) -> Result<Self, PullError> {
        let access = inner.registries.clone();
        let credentials = match given {
            Some(given) => Some(given),
            None => access.credentials(&reference.host)?,
        };
        let registry = Registry::new(access, reference, credentials);
        Ok(Self { registry, handle: Handle::current(), until: None })
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, PullError> {
        self.handle.block_on(async {
            match self.until {
                None => Ok(work.await?),
                Some(until) => match tokio::time::timeout_at(until.into(), work).await {
                    Ok(done) => Ok(done?),
                    Err(_) => Err(PullError::Late),
                },
            }
        })
    }
}

/// Pulls an image; it is called `name`.
pub(crate) fn pull(
    inner: &Inner,
    reference: &str,
    name: &str,
    platform: Option<&str>,
    credentials: Option<Credentials>,
) -> Result<Image, PullError> {
    let reference: Reference = reference.parse()?;
    let link = Link::new(inner, &reference, credentials)?;
    let own = format!("linux/{}", architecture());
    let Pulled { digest, manifest } = link.wait(link.registry.manifest(&reference, platform.unwrap_or(&own)))?;
    let config = link.wait(link.registry.small_blob(&manifest.config, LARGEST_CONFIG))?;
    let mut fetch = inner.images.fetch(&manifest.config.digest, &config)?;
    pull_layers(&inner.images, &link, &manifest, &mut fetch)?;
    let origin = reference.at(&digest).to_string();
    Ok(inner.images.finish(fetch, &[name.to_owned()], Some(&origin), SystemTime::now())?)
}

/// Pulls what is missing of an image that a source offers, as far as registries have it: what is not, comes from the source.
pub(crate) fn pull_missing(inner: &Inner, fetch: &mut Fetch, digest: &Digest, references: &[String]) {
    let until = Instant::now() + PATIENCE;
    for reference in references.iter().take(MOST_REFERENCES) {
        if fetch.lacking().is_empty() {
            return;
        }
        let pulled = (|| {
            let reference: Reference = reference.parse()?;
            let link = Link { until: Some(until), ..Link::new(inner, &reference, None)? };
            let own = format!("linux/{}", architecture());
            let Pulled { manifest, .. } = link.wait(link.registry.manifest(&reference, &own))?;
            if manifest.config.digest == *digest {
                pull_layers(&inner.images, &link, &manifest, fetch)?;
            }
            Ok::<_, PullError>(())
        })();
        if let Err(error) = pulled {
            let why = Explained::from_chain(&error);
            tracing::info!(%reference, %why, "the image comes from the source, not from a registry");
        }
    }
}

fn pull_layers(images: &ImageStore, link: &Link, manifest: &Manifest, fetch: &mut Fetch) -> Result<(), PullError> {
    let diff_ids = fetch.diff_ids();
    if diff_ids.len() != manifest.layers.len() {
        let what = "its manifest and its configuration tell of different layers".to_owned();
        return Err(ImageError::Unfit { what }.into());
    }
    while let Some(lacking) = fetch.lacking().into_iter().next() {
        let place = diff_ids.iter().position(|diff_id| *diff_id == lacking.diff_id);
        let Some(blob) = place.and_then(|place| manifest.layers.get(place)) else {
            return Err(ImageError::NoLayer(lacking.diff_id).into());
        };
        let partial = pull_blob(images, link, blob)?;
        let reader = partial.reader().map_err(|error| PullError::Keep(blob.digest.clone(), error))?;
        let received = images.receive_whole(fetch, decompress(reader)?);
        // Whole as it is, it is of no use any more, or of none at all.
        partial.remove();
        received?;
    }
    Ok(())
}

/// Pulls a blob, beginning where an earlier attempt broke off, until it is whole and what its digest names.
fn pull_blob(images: &ImageStore, link: &Link, blob: &Blob) -> Result<Partial, PullError> {
    let keep = |error| PullError::Keep(blob.digest.clone(), error);
    let name = format!("blob-{}", blob.digest.hex());
    let mut partial = match images.partial_of(&name)? {
        Some(partial) => partial,
        // Somebody else pulls the same.
        None => {
            let own = images.partial_of(&format!("{name}-{}", fresh_id::<8>()))?;
            own.ok_or_else(|| keep(io::ErrorKind::AlreadyExists.into()))?
        }
    };
    let mut left = ATTEMPTS;
    loop {
        if partial.length() > blob.size {
            partial.clear().map_err(keep)?;
        }
        if partial.length() == blob.size {
            break;
        }
        left -= 1;
        let offset = partial.length();
        match link.wait(link.registry.blob(blob, offset, |piece| partial.append(piece))) {
            Ok(true) => {}
            // It cannot begin in the middle.
            Ok(false) => partial.clear().map_err(keep)?,
            Err(PullError::Registry(error)) if left > 0 && error.is_passing() => {
                tracing::warn!(%error, blob = %blob.digest, "a registry's answer broke off");
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
        if left == 0 && partial.length() < blob.size {
            return Err(
                RegistryError::Talk(link.registry.host().to_owned(), io::ErrorKind::UnexpectedEof.into()).into()
            );
        }
    }
    let mut hash = Sha256::new();
    let reader = partial.reader().map_err(keep)?;
    io::copy(&mut io::BufReader::new(reader), &mut hash).map_err(keep)?;
    let found = Digest::from_sha256(hash.finalize().into());
    if found != blob.digest {
        partial.remove();
        return Err(RegistryError::Different { expected: blob.digest.clone(), found }.into());
    }
    Ok(partial)
}

/// Pushes an image: only what the registry lacks. Gives where it has it.
pub(crate) fn push(
    inner: &Inner,
    image: &Image,
    reference: &str,
    credentials: Option<Credentials>,
) -> Result<Reference, PullError> {
    let reference: Reference = reference.parse()?;
    let link = Link::new(inner, &reference, credentials)?;
    // Asked first: layers are packed for a registry that is there and takes them.
    let has_config = link.wait(link.registry.has(&image.digest))?;
    let mut layers = Vec::new();
    for layer in &image.layers {
        let packed = inner.images.pack_layer(&layer.diff_id)?;
        let blob = Blob { digest: packed.digest, size: packed.length };
        if !link.wait(link.registry.has(&blob.digest))? {
            link.wait(link.registry.upload(&blob, &packed.file))?;
        }
        layers.push(blob);
    }
    let packed = inner.images.pack_config(&image.digest)?;
    let config = Blob { digest: packed.digest, size: packed.length };
    if !has_config {
        link.wait(link.registry.upload(&config, &packed.file))?;
    }
    let digest = link.wait(link.registry.put_manifest(&reference, &Manifest { config, layers }))?;
    let place = reference.at(&digest);
    inner.images.note_reference(&image.digest, &place.to_string())?;
    Ok(place)
}
