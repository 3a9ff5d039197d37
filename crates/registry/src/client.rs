//! A registry's repository: pulling and pushing, with whatever the registry wants to know of whoever asks.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use drover_model::Digest;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::auth::Challenge;
use crate::connection::{Payload, Peer};
use crate::credentials::Credentials;
use crate::error::RegistryError;
use crate::manifest::{ACCEPTED, Blob, Document, MANIFEST, Manifest};
use crate::reference::Reference;
use crate::session::Access;
use crate::upload::FileBody;

/// The largest manifest, token and message of a refusal in bytes.
const LARGEST_MANIFEST: usize = 4 << 20;
const LARGEST_TOKEN: usize = 256 << 10;
const LARGEST_REFUSAL: usize = 64 << 10;
/// The most times that a registry may send elsewhere.
const REDIRECTS: usize = 5;

/// A manifest that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The manifest's digest.
    pub digest: Digest,
    /// What it says.
    pub manifest: Manifest,
}

/// A repository of a registry.
#[derive(Debug)]
pub struct Registry {
    access: Arc<Access>,
    authority: String,
    repository: String,
    credentials: Option<Credentials>,
    peer: OnceCell<Peer>,
    /// What the last answer to a challenge was.
    authorization: Mutex<Option<String>>,
}

/// A request that can be sent again.
struct Question<'a> {
    method: Method,
    uri: String,
    headers: Vec<(http::HeaderName, String)>,
    body: &'a (dyn Fn() -> io::Result<Payload> + Sync),
}

/// An answer, and who gave it.
struct Answer {
    peer: Peer,
    response: Response<Incoming>,
}

fn nothing() -> io::Result<Payload> {
    Ok(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync())
}

impl Registry {
    /// The repository of a reference; nothing is sent yet.
    #[must_use]
    pub fn new(access: Arc<Access>, reference: &Reference, credentials: Option<Credentials>) -> Self {
        let (authority, repository) = (reference.address().to_owned(), reference.repository.clone());
        let (peer, authorization) = (OnceCell::new(), Mutex::new(None));
        Self { access, authority, repository, credentials, peer, authorization }
    }

    /// Where it listens.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.authority
    }

    /// Pulls the manifest of a reference; of an index that of `platform`, `OS/ARCHITECTURE`.
    ///
    /// # Errors
    /// When there is none, or the registry does not answer or refuses.
    pub async fn manifest(&self, reference: &Reference, platform: &str) -> Result<Pulled, RegistryError> {
        let mut wanted = reference.wanted().to_owned();
        // An index of indexes is nobody's.
        for _ in 0..2 {
            let uri = format!("/v2/{}/manifests/{wanted}", self.repository);
            let headers = vec![(ACCEPT, ACCEPTED.to_owned())];
            let answer = self.ask(Question { method: Method::GET, uri, headers, body: &nothing }).await?;
            let answer = self.succeeded(answer, || format!("image {reference}")).await?;
            let json = answer.peer.collect(answer.response.into_body(), LARGEST_MANIFEST).await?;
            let digest = Digest::from_sha256(Sha256::digest(&json).into());
            if let Ok(expected) = wanted.parse::<Digest>()
                && expected != digest
            {
                return Err(RegistryError::Different { expected, found: digest });
            }
            match Document::parse(&json, platform).map_err(|what| self.odd(what))? {
                Document::Manifest(manifest) => return Ok(Pulled { digest, manifest }),
                Document::Index(entry) => wanted = entry.digest.to_string(),
            }
        }
        Err(self.odd("its index leads to another index".into()))
    }

    /// Pulls a small blob whole.
    ///
    /// # Errors
    /// When there is none, it is larger than `largest`, or not what its digest names.
    pub async fn small_blob(&self, blob: &Blob, largest: usize) -> Result<Vec<u8>, RegistryError> {
        let mut all = Vec::new();
        if blob.size > largest as u64 {
            return Err(self.odd(format!("{} is over {} KiB", blob.digest, largest >> 10)));
        }
        self.blob(blob, 0, |piece| {
            all.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        let found = Digest::from_sha256(Sha256::digest(&all).into());
        if found == blob.digest {
            Ok(all)
        } else {
            Err(RegistryError::Different { expected: blob.digest.clone(), found })
        }
    }

    /// Pulls a blob from the byte `offset` on, and gives each piece to `keep`, as far as the registry can begin there:
    /// otherwise nothing was given, and false. Whether it is what its digest names is for whoever has all of it to see.
    ///
    /// # Errors
    /// When there is none, the link breaks, it is longer than it should be, or what comes cannot be kept.
    pub async fn blob(
        &self,
        blob: &Blob,
        offset: u64,
        mut keep: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<bool, RegistryError> {
        let uri = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
        let headers = if offset > 0 { vec![(RANGE, format!("bytes={offset}-"))] } else { Vec::new() };
        let answer = self.ask(Question { method: Method::GET, uri, headers, body: &nothing }).await?;
        let Answer { peer, response } = self.succeeded(answer, || format!("blob {}", blob.digest)).await?;
        if offset > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(false);
        }
        let mut body = response.into_body();
        let mut left = blob.size.saturating_sub(offset);
        while let Some(piece) = peer.next(&mut body).await? {
            left =
                left.checked_sub(piece.len() as u64).ok_or_else(|| self.odd(format!("{} is too long", blob.digest)))?;
            keep(&piece).map_err(RegistryError::Keep)?;
        }
        if left == 0 { Ok(true) } else { Err(self.odd(format!("{} is too short", blob.digest))) }
    }

    /// Whether a blob is there already.
    ///
    /// # Errors
    /// When the registry does not answer or refuses.
    pub async fn has(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let uri = format!("/v2/{}/blobs/{digest}", self.repository);
        let answer = self.ask(Question { method: Method::HEAD, uri, headers: Vec::new(), body: &nothing }).await?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        self.succeeded(answer, String::new).await.map(|_| true)
    }

    /// Pushes a blob out of a file, from its beginning.
    ///
    /// # Errors
    /// When the registry does not answer or refuses, or the file cannot be read.
    pub async fn upload(&self, blob: &Blob, file: &File) -> Result<(), RegistryError> {
        let uri = format!("/v2/{}/blobs/uploads/", self.repository);
        let headers = vec![(CONTENT_LENGTH, "0".to_owned())];
        let begun = self.ask(Question { method: Method::POST, uri, headers, body: &nothing }).await?;
        let begun = self.succeeded(begun, || format!("repository {}", self.repository)).await?;
        let place = location(&begun).ok_or_else(|| self.odd("it does not say where to".into()))?;
        let mark = if place.contains('?') { '&' } else { '?' };
        let uri = format!("{place}{mark}digest={}", blob.digest);
        let headers =
            vec![(CONTENT_LENGTH, blob.size.to_string()), (CONTENT_TYPE, "application/octet-stream".to_owned())];
        let body = || FileBody::new(file).map(|body| body.boxed_unsync());
        let sent = self.ask(Question { method: Method::PUT, uri, headers, body: &body }).await?;
        self.succeeded(sent, || format!("repository {}", self.repository)).await.map(drop)
    }

    /// Pushes a manifest, and has the reference's tag lead to it; its digest.
    ///
    /// # Errors
    /// When the registry does not answer or refuses.
    pub async fn put_manifest(&self, reference: &Reference, manifest: &Manifest) -> Result<Digest, RegistryError> {
        let json = Bytes::from(manifest.to_json());
        let digest = Digest::from_sha256(Sha256::digest(&json).into());
        let wanted = reference.tag.clone().unwrap_or_else(|| digest.to_string());
        let uri = format!("/v2/{}/manifests/{wanted}", self.repository);
        let headers = vec![(CONTENT_TYPE, MANIFEST.to_owned())];
        let body = || Ok(Full::new(json.clone()).map_err(|never| match never {}).boxed_unsync());
        let answer = self.ask(Question { method: Method::PUT, uri, headers, body: &body }).await?;
        self.succeeded(answer, || format!("repository {}", self.repository)).await?;
        Ok(digest)
    }

    /// Whoever the registry is: with TLS, or where that is allowed and it speaks none, without.
    async fn peer(&self) -> Result<&Peer, RegistryError> {
        let find = async || {
            let peer = Peer { authority: self.authority.clone(), secure: true };
            let secure = !self.access.allows_plain(&self.authority) || peer.speaks_tls(&self.access).await?;
            Ok(Peer { secure, ..peer })
        };
        self.peer.get_or_try_init(find).await
    }

    /// Asks, again with credentials when they are asked for, and elsewhere when sent there.
    async fn ask(&self, question: Question<'_>) -> Result<Answer, RegistryError> {
        let own = self.peer().await?.clone();
        let (mut peer, mut uri) = match question.uri.starts_with('/') {
            true => (own.clone(), question.uri.clone()),
            false => self.elsewhere(&own, &question.uri)?,
        };
        let (mut redirects, mut asked) = (0, false);
        loop {
            let mut request = Request::builder().method(question.method.clone()).uri(&uri);
            for (name, value) in &question.headers {
                request = request.header(name, value);
            }
            // What is for the registry is for nobody else.
            let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(authorization) = known.filter(|_| peer == own) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let body = (question.body)().map_err(RegistryError::Keep)?;
            let request = request.body(body).map_err(|error| self.odd(error.to_string()))?;
            let response = peer.send(&self.access, request).await?;
            let answer = Answer { peer: peer.clone(), response };
            match answer.response.status() {
                StatusCode::UNAUTHORIZED if peer == own && !asked => {
                    asked = true;
                    let authorization = self.authorize(&answer).await?;
                    *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
                }
                status if status.is_redirection() && redirects < REDIRECTS => {
                    redirects += 1;
                    let place = location(&answer).ok_or_else(|| self.odd("it does not say where to".into()))?;
                    (peer, uri) = self.elsewhere(&peer, &place)?;
                }
                _ => return Ok(answer),
            }
        }
    }

    /// Whom a URL leads to, and its path. Nobody is spoken with in the clear who need not be.
    fn elsewhere(&self, from: &Peer, url: &str) -> Result<(Peer, String), RegistryError> {
        let uri: Uri = url.parse().map_err(|_| self.odd(format!("it leads to {url:?}")))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        if uri.authority().is_none() {
            return Ok((from.clone(), path));
        }
        let peer = Peer::of(&uri).ok_or_else(|| self.odd(format!("it leads to {url:?}")))?;
        if !peer.secure && !self.access.allows_plain(&peer.authority) {
            return Err(self.odd(format!("it leads to {} without TLS", peer.authority)));
        }
        Ok((peer, path))
    }

    /// Answers a challenge: what the header `Authorization` is to say.
    async fn authorize(&self, answer: &Answer) -> Result<String, RegistryError> {
        let denied = || RegistryError::Denied(self.authority.clone());
        let headers = answer.response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = headers.iter().filter_map(|header| Challenge::parse(header.to_str().ok()?)).next();
        let basic = self.credentials.as_ref().map(Credentials::basic);
        let Some(url) = challenge.ok_or_else(denied)?.token_url() else { return basic.ok_or_else(denied) };
        let (issuer, uri) = self.elsewhere(&answer.peer, &url)?;
        let mut request = Request::get(uri);
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic);
        }
        let body = nothing().map_err(RegistryError::Keep)?;
        let request = request.body(body).map_err(|error| self.odd(error.to_string()))?;
        let response = issuer.send(&self.access, request).await?;
        if !response.status().is_success() {
            return Err(denied());
        }
        let json = issuer.collect(response.into_body(), LARGEST_TOKEN).await?;
        let token: Token = serde_json::from_slice(&json).map_err(|error| self.odd(format!("its token: {error}")))?;
        token.token.or(token.access_token).map(|token| format!("Bearer {token}")).ok_or_else(denied)
    }

    /// An answer that says that it was done.
    async fn succeeded(&self, answer: Answer, what: impl FnOnce() -> String) -> Result<Answer, RegistryError> {
        let host = || self.authority.clone();
        match answer.response.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError::Denied(host())),
            StatusCode::NOT_FOUND => Err(RegistryError::Unknown { host: host(), what: what() }),
            status => {
                let Answer { peer, response } = answer;
                let json = peer.collect(response.into_body(), LARGEST_REFUSAL).await.unwrap_or_default();
                let messages: Refusal = serde_json::from_slice(&json).unwrap_or_default();
                let message = messages.errors.into_iter().next().map(|first| first.message).unwrap_or_default();
                let why = format!("{} {message}", status.as_str());
                Err(RegistryError::Refused { host: host(), why: why.trim_end().to_owned() })
            }
        }
    }

    fn odd(&self, what: String) -> RegistryError {
        RegistryError::Answer { host: self.authority.clone(), what }
    }
}

#[derive(Debug, Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<Message>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    message: String,
}

fn location(answer: &Answer) -> Option<String> {
    answer.response.headers().get(LOCATION)?.to_str().ok().map(str::to_owned)
}
