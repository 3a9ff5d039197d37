//! A node's images: what the agent's API calls.

use std::sync::Arc;
use std::time::SystemTime;

use drover_api::{
    CommitRequest, ImageDetail, ImageInfo, PruneReport, PullRequest, PushReport, PushRequest, RegistryCredentials,
};
use drover_disk::{Choice, Image, ImageError};
use drover_model::{ContainerState, Digest, Explained};
use drover_registry::Credentials;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::container::Container;
use crate::error::{NodeError, failure};
use crate::exec::alone;
use crate::link::ChannelReader;
use crate::node::{Inner, Node, blocking, to_the_end};
use crate::pull;
use crate::standstill::Standstill;

/// How many pieces of an archive wait to be unpacked, and how long each of them is at most, in bytes.
const WAITING: usize = 8;
const PIECE: usize = 256 << 10;

pub(crate) fn info(image: Image) -> ImageInfo {
    let Image { digest, names, size, imported_at, .. } = image;
    ImageInfo { digest, names, size, imported_at }
}

fn detail(image: Image) -> ImageDetail {
    let (architecture, config) = (image.architecture.clone(), image.config.clone());
    let (history, layers, references) = (image.history.clone(), image.layers.clone(), image.references.clone());
    ImageDetail { info: info(image), architecture, config, history, layers, references }
}

fn given(credentials: RegistryCredentials) -> Credentials {
    Credentials { user: credentials.user, password: credentials.password }
}

/// What an image cannot be is the asker's affair, and everything else the node's.
pub(crate) fn refused(attempt: &str, error: &ImageError) -> NodeError {
    let why = failure(attempt, error);
    let why = match error {
        ImageError::Choice { there, .. } if there.is_empty() => why,
        ImageError::Choice { there, .. } => {
            why.with_hint(format!("choose one by --tag or --platform; there are: {}", there.join(", ")))
        }
        ImageError::OtherBase { .. } => {
            why.with_hint("give the image that the overlay was made for; `drover image ls` lists those that are there")
        }
        _ => why,
    };
    if error.is_the_images() { NodeError::Invalid(why) } else { NodeError::Failed(why) }
}

/// Has a thread read what comes. Why that broke off, if it did, comes before what it led to.
pub(crate) async fn read_blocking<T: Send + 'static>(
    input: impl AsyncRead + Send + Unpin + 'static,
    attempt: String,
    read: impl FnOnce(&mut ChannelReader) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, NodeError> {
    let (pieces, waiting) = mpsc::channel(WAITING);
    let (broken, broke) = tokio::sync::oneshot::channel::<std::io::Error>();
    tokio::spawn(async move {
        let mut input = input;
        loop {
            let mut piece = bytes::BytesMut::with_capacity(PIECE);
            match input.read_buf(&mut piece).await {
                Ok(0) => return,
                Ok(_) if pieces.send(piece.freeze()).await.is_ok() => {}
                Ok(_) => return,
                Err(error) => return drop(broken.send(error)),
            }
        }
    });
    blocking(move || {
        let mut reader = ChannelReader::new(waiting);
        let done = read(&mut reader);
        drop(reader);
        match (done, broke.blocking_recv()) {
            (_, Ok(error)) => Err(NodeError::failed(&attempt, &error)),
            (Err(error), _) => Err(refused(&attempt, &error)),
            (Ok(done), _) => Ok(done),
        }
    })
    .await
}

impl Inner {
    fn used_images(&self) -> Vec<Digest> {
        self.registry.all().iter().map(|container| container.spec().image_digest).collect()
    }

    /// Reads what a container has changed, while nothing changes in it, and makes an image of it.
    async fn commit(self: &Arc<Self>, wanted: &str, name: &str) -> Result<Image, NodeError> {
        let container = self.registry.find(wanted)?;
        let _operation = self.hold(&container).await?;
        let attempt = format!("cannot commit container {}", container.spec().name);
        let still = match container.state() {
            ContainerState::Running => {
                let alone = alone(&container).await;
                Some(alone.map_err(|why| {
                    NodeError::Failed(Explained { reason: format!("{attempt}: {}", why.reason), ..why })
                })?)
            }
            ContainerState::Created | ContainerState::Exited { .. } => None,
            state => return Err(NodeError::conflict(format!("{attempt}: it is {state}"), "")),
        };
        let (inner, name) = (Arc::clone(self), name.to_owned());
        blocking(move || {
            let draft = inner.draft(&container, still.is_some());
            drop(still);
            let draft = draft
                .map_err(|why| NodeError::Failed(Explained { reason: format!("{attempt}: {}", why.reason), ..why }))?;
            let by = format!("drover commit {}", container.spec().name);
            let base = container.spec().image_digest;
            let made = inner.images.commit(&base, draft, &name, &by, SystemTime::now());
            made.map_err(|error| refused(&attempt, &error))
        })
        .await
    }

    fn draft(&self, container: &Container, runs: bool) -> Result<drover_disk::Draft, Explained> {
        let _standstill = if runs { Some(Standstill::begin(container)?) } else { None };
        let draft = self.images.draft(&container.layout.upper());
        draft.map_err(|error| failure("cannot read what it has changed", &error))
    }
}

impl Node {
    /// All images.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn images(&self) -> Result<Vec<ImageInfo>, NodeError> {
        let inner = Arc::clone(&self.inner);
        let images = blocking(move || inner.images.list()).await;
        let images = images.map_err(|error| NodeError::failed("cannot list the images", &error))?;
        Ok(images.into_iter().map(info).collect())
    }

    /// One image, with all that is known of it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn image(&self, name: &str) -> Result<ImageDetail, NodeError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        blocking(move || inner.find_image(&name)).await.map(detail)
    }

    /// Unpacks an image from the tar of a root file system or from an archive of images.
    ///
    /// # Errors
    /// When the archive is damaged or hostile, or the disk refuses.
    pub async fn import_image(
        &self,
        name: &str,
        choice: Choice,
        tar: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<ImageInfo, NodeError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        let attempt = format!("cannot import image {name}");
        let import = move |tar: &mut ChannelReader| inner.images.import(&name, &choice, tar, SystemTime::now());
        read_blocking(tar, attempt, import).await.map(info)
    }

    /// Pulls an image from a registry.
    ///
    /// # Errors
    /// When there is none, the registry does not answer or refuses, or the disk does.
    pub async fn pull_image(&self, request: PullRequest) -> Result<ImageInfo, NodeError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let PullRequest { reference, name, platform, credentials } = request;
            let name = name.unwrap_or_else(|| reference.clone());
            let pulled = pull::pull(&inner, &reference, &name, platform.as_deref(), credentials.map(given));
            pulled.map(info).map_err(|error| error.explain(&format!("cannot pull {reference}")))
        })
        .await
    }

    /// Pushes an image to a registry.
    ///
    /// # Errors
    /// When there is no such image, or the registry does not answer or refuses.
    pub async fn push_image(&self, request: PushRequest) -> Result<PushReport, NodeError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let PushRequest { image, reference, credentials } = request;
            let found = inner.find_image(&image)?;
            let pushed = pull::push(&inner, &found, &reference, credentials.map(given));
            let pushed = pushed.map_err(|error| error.explain(&format!("cannot push {image} to {reference}")))?;
            Ok(PushReport { reference: pushed.to_string(), digest: found.digest })
        })
        .await
    }

    /// Makes an image of a container's image and what the container has changed; one that runs stands still meanwhile.
    ///
    /// # Errors
    /// When there is no such container, it is being moved, or the disk refuses.
    pub async fn commit(&self, container: &str, request: CommitRequest) -> Result<ImageInfo, NodeError> {
        let (inner, container) = (Arc::clone(&self.inner), container.to_owned());
        to_the_end(async move { inner.commit(&container, &request.image).await }).await.map(info)
    }

    /// Removes an image's name and, with its last name, the image.
    ///
    /// # Errors
    /// When there is none, or a container uses it.
    pub async fn remove_image(&self, name: &str) -> Result<Digest, NodeError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        blocking(move || {
            let attempt = format!("cannot remove image {name}");
            let digest = inner.find_image(&name)?.digest;
            let used = inner.used_images();
            match inner.images.remove(&name, |digest| used.contains(digest)) {
                Ok(()) => Ok(digest),
                Err(error @ ImageError::InUse(_)) => {
                    let hint = "remove the containers that use it first; `drover ps -a` lists them";
                    Err(NodeError::Conflict(Explained::from_chain(&error).with_hint(hint)))
                }
                Err(error) => Err(NodeError::failed(&attempt, &error)),
            }
        })
        .await
    }

    /// Removes images that no container needs: those without a name, or all.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn prune_images(&self, all: bool) -> Result<PruneReport, NodeError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let used = inner.used_images();
            let pruned = inner.images.prune(all, |digest| used.contains(digest));
            let pruned = pruned.map_err(|error| NodeError::failed("cannot prune the images", &error))?;
            Ok(PruneReport { images: pruned.images, layers: pruned.layers, partial: pruned.partial as u64 })
        })
        .await
    }
}
