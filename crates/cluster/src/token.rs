//! Tokens with which a node joins, each once and within its time.

use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use drover_model::NodeName;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::directory::read;
use crate::{ClusterError, write_private};

/// What a token begins with.
const PREFIX: &str = "drover-join.";
/// The longest text that is looked at.
const LONGEST: usize = 4096;
/// How many tokens may wait to be used.
const MOST: usize = 100;

/// A token, in the hands of whoever joins.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The node with the cluster's authority, and where it listens.
    #[serde(rename = "n")]
    pub node: NodeName,
    /// Where it listens.
    #[serde(rename = "a")]
    pub address: SocketAddr,
    /// The SHA-256 of the authority's certificate, hexadecimal.
    #[serde(rename = "f")]
    pub fingerprint: String,
    /// Which one it is.
    #[serde(rename = "i")]
    pub id: String,
    /// What proves it, 32 random bytes in hexadecimal.
    #[serde(rename = "s")]
    pub secret: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("node", &self.node).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Token {
    /// The text of it, one word.
    #[must_use]
    pub fn encode(&self) -> String {
        // Names and digits are always JSON.
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default()))
    }

    /// The authority's certificate, DER, out of what was sent, if it is the one that the token names.
    ///
    /// # Errors
    /// When it is another one.
    pub fn authority(&self, pem: &str) -> Result<Vec<u8>, ClusterError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| ClusterError::Authority)?;
        let is_named = fingerprint(&certificate) == self.fingerprint;
        if is_named { Ok(certificate.to_vec()) } else { Err(ClusterError::Authority) }
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(text: &str) -> Result<Self, ClusterError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).filter(|_| text.len() <= LONGEST).ok_or(ClusterError::NoToken)?;
        let json = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| ClusterError::NoToken)?;
        serde_json::from_slice(&json).map_err(|_| ClusterError::NoToken)
    }
}

/// What the authority keeps of a token: nothing that could be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    id: String,
    /// The SHA-256 of the secret, hexadecimal.
    hash: String,
    /// Seconds since 1970.
    expires_at: i64,
    name: Option<NodeName>,
}

/// The tokens that nobody has used yet.
#[derive(Debug)]
pub struct TokenBook {
    path: PathBuf,
    kept: Vec<Kept>,
}

impl TokenBook {
    /// Opens the book; it is empty when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(path: PathBuf) -> Result<Self, ClusterError> {
        if !path.exists() {
            return Ok(Self { path, kept: Vec::new() });
        }
        let text = read(&path)?;
        let kept = serde_json::from_str(&text).map_err(|source| ClusterError::Parse { path: path.clone(), source })?;
        Ok(Self { path, kept })
    }

    /// Makes a token: its id and its secret, which is not kept.
    ///
    /// # Errors
    /// When too many wait to be used, or the disk refuses.
    pub fn add(
        &mut self,
        expires_at: OffsetDateTime,
        name: Option<NodeName>,
        now: OffsetDateTime,
    ) -> Result<(String, String), ClusterError> {
        let mut kept = self.valid(now);
        if kept.len() >= MOST {
            return Err(ClusterError::ManyTokens);
        }
        let (id, secret) = (hex(&rand::random::<[u8; 8]>()), hex(&rand::random::<[u8; 32]>()));
        let expires_at = expires_at.unix_timestamp();
        kept.push(Kept { id: id.clone(), hash: hex(&Sha256::digest(&secret)), expires_at, name });
        self.keep(kept)?;
        Ok((id, secret))
    }

    /// Whether a token may be used by a node of this name.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self, id: &str, secret: &str, name: &NodeName, now: OffsetDateTime) -> Result<(), ClusterError> {
        let hash = hex(&Sha256::digest(secret));
        let valid = self.valid(now);
        let found = valid.iter().find(|kept| kept.id == id);
        // The same work whether there is one or not.
        let expected = found.map_or("", |kept| kept.hash.as_str());
        if !bool::from(hash.as_bytes().ct_eq(expected.as_bytes())) {
            return Err(ClusterError::InvalidToken);
        }
        match found.and_then(|kept| kept.name.as_ref()) {
            Some(wanted) if wanted != name => Err(ClusterError::OtherName),
            _ => Ok(()),
        }
    }

    /// Strikes a token out, durably: nobody can use it any more.
    ///
    /// # Errors
    /// When the disk refuses; it can still be used then.
    pub fn strike(&mut self, id: &str, now: OffsetDateTime) -> Result<(), ClusterError> {
        let mut kept = self.valid(now);
        kept.retain(|kept| kept.id != id);
        self.keep(kept)
    }

    fn valid(&self, now: OffsetDateTime) -> Vec<Kept> {
        self.kept.iter().filter(|kept| kept.expires_at > now.unix_timestamp()).cloned().collect()
    }

    fn keep(&mut self, kept: Vec<Kept>) -> Result<(), ClusterError> {
        // Digits and names are always JSON.
        write_private(&self.path, &serde_json::to_vec_pretty(&kept).unwrap_or_default())?;
        self.kept = kept;
        Ok(())
    }
}

/// The fingerprint of a certificate (DER), SHA-256 in hexadecimal digits.
pub(crate) fn fingerprint(certificate: &[u8]) -> String {
    hex(&Sha256::digest(certificate))
}

/// What is put into the certificates of somebody who is added, and of nobody else.
#[must_use]
pub fn fresh_enrolment() -> String {
    hex(&rand::random::<[u8; 8]>())
}

/// Bytes in hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn a_token_works_once_within_its_time_and_for_its_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("tokens.json");
        let mut book = TokenBook::open(path.clone()).unwrap();
        let now = OffsetDateTime::now_utc();
        let (name, other): (NodeName, NodeName) = ("n3".parse().unwrap(), "n4".parse().unwrap());
        let (id, secret) = book.add(now + Duration::HOUR, Some(name.clone()), now).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&secret), "only its hash is kept");
        let mut book = TokenBook::open(path).unwrap();
        book.check(&id, &secret, &name, now).unwrap();
        let refused = |book: &TokenBook, id: &str, secret: &str, name, at| book.check(id, secret, name, at).is_err();
        assert!(refused(&book, &id, &secret, &other, now), "another name");
        assert!(refused(&book, &id, &hex(&[0; 32]), &name, now), "another secret");
        assert!(refused(&book, "", "", &name, now) && refused(&book, "00", &secret, &name, now), "another id");
        assert!(refused(&book, &id, &secret, &name, now + Duration::HOUR), "too late");
        book.strike(&id, now).unwrap();
        assert!(refused(&book, &id, &secret, &name, now), "used");
    }

    #[test]
    fn a_token_survives_printing_and_reading() {
        let token = Token {
            node: "n1".parse().unwrap(),
            address: "[fd77::b]:7780".parse().unwrap(),
            fingerprint: hex(&[7; 32]),
            id: "0a".into(),
            secret: "0b".into(),
        };
        assert_eq!(Token::decode(&format!(" {}\n", token.encode())).unwrap(), token);
        assert!(!format!("{token:?}").contains("0b"));
        for bad in ["", "drover-join.", "drover-join.!!", "x", &"drover-join.a".repeat(1000)] {
            assert!(Token::decode(bad).is_err(), "{bad}");
        }
    }
}
